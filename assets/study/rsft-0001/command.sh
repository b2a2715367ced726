#!/bin/sh
python app.py run rsft lora_alpha=32 warmup_ratio=0.05 data=data-0001 epochs=2.0 learning_rate=0.001 batch_size=8 gradient_accumulation_steps=1 validation_share=0.1
