"""One message to several models, side by side: what was said, who was better, and what is kept of it."""
