"""A guard as a service: an interaction in; labels, reasoning and confidence out. Over HTTP, as an endpoint of the app, for its pages."""
