#!/bin/sh
python app.py run guard-eval 'models=["embedded", "run:rsft-0001"]' data=data-0001 task=request
