#!/bin/sh
python app.py run recipe recipe=rehearsal 'settings={"seed": 42}'
