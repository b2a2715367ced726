"""Trained models are written so that core/lm/load.py takes them: weights, tokenizer, chat template, card."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.files import write_json
from core.lm.find import CARD
from core.lm.template import template_hash


def save_trained(model: Any, tokenizer: Any, folder: Path, *, base: str, prompt_format: str | None) -> None:
    """Write a trained model so that `load_model` takes it: weights (adapter or full), tokenizer, chat template, card.

    base: reference of the full model the adapter sits on (`Loaded.base`, not the adapter that training continued from).
    Call it inside `run.save_model(lambda folder: save_trained(...))`, which puts the whole folder in place at once.
    """
    from peft import PeftModel

    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PeftModel):
        _save_adapter(model, folder, base)
    else:
        model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    write_json(folder / CARD, {"base": base, "prompt_format": prompt_format, "chat_template_sha256": template_hash(tokenizer)})


def _save_adapter(model: Any, folder: Path, base: str) -> None:
    names = model.active_adapters
    name = names[0] if isinstance(names, list) else "default"
    # "auto" would look the base up on the Hub to see whether its vocabulary grew
    model.save_pretrained(folder, selected_adapters=[name], save_embedding_layers=False)
    inner = folder / name
    if name != "default" and inner.is_dir():  # PEFT puts every adapter but "default" into a folder of its own
        for file in inner.iterdir():
            file.rename(folder / file.name)
        inner.rmdir()
    (folder / "README.md").unlink(missing_ok=True)  # PEFT's stub with the cache path; the run writes its own card
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = base.removeprefix("hf:")
    write_json(folder / "adapter_config.json", config)
