#!/bin/sh
python app.py run import-data source=assets/demo/guard-demo.jsonl name=guard-demo role=as-marked
