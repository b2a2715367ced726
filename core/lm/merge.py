"""Adapters merged into their unquantised base, in the base's own number format: one whole model that needs neither PEFT nor the base."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from core.export.archive import half_written
from core.export.card import model_readme
from core.export.contents import Contents, Part
from core.files import write_json, write_text
from core.lm.find import CARD, Found, find_model
from core.lm.hub import hub_answers
from core.lm.load import _load_error, load_tokenizer, quiet_transformers
from core.lm.template import template_hash
from core.methods import UserError
from core.refs import ModelRef
from core.runs import Workspace

PROBE = 16
"""Tokens of the prompt on which the merged model is compared with base + adapter."""
SHARD = "5GB"
AGREES = {"float32": 1e-4, "float64": 1e-4}
AGREES_NARROW = 0.1
"""Largest distance of the logits, as a share of their own size; the second for formats in which each merged weight loses digits."""


def merge_into(folder: Path, contents: Contents, workspace: Workspace) -> Path:
    """Write the merged model(s) of `contents` into `folder`, whole or not at all: safetensors, tokenizer, template, cards.

    Two agents become two folders in it. The result is compared with base + adapter on a short prompt before it is kept.

    Raises: UserError where nothing is to be merged, the base cannot be had unquantised, the disk is full or the folder exists.
    """
    if not any(part.is_adapter for part in contents.parts):
        raise UserError(f"{contents.ref} is a whole model, with nothing to merge; export it as it is, with --to FILE.zip or --hub "
                        "OWNER/NAME.")
    with half_written(folder) as half:
        said = [_merge(part, half / part.name, workspace) for part in contents.parts]
        write_text(half / "README.md", model_readme(contents, workspace, merged=said[0]))
        rules = contents.run.dir / "rules.json"
        if len(contents.parts) > 1 and rules.is_file():
            write_text(half / rules.name, rules.read_text(encoding="utf-8"))
    return folder


def _merge(part: Part, folder: Path, workspace: Workspace) -> str:
    """One part; returns the sentence for the card."""
    import torch

    from core.lm.tune_setup import hush

    hush()
    from peft import PeftModel

    found = _found(part, workspace)
    tokenizer, location = load_tokenizer(found)
    model = _read_base(found, location)
    dtype = str(model.dtype).removeprefix("torch.")
    words = f"The adapter is merged into its base, in the base's number format ({dtype})."
    if found.adapter is not None:
        _untie(model, found.adapter)
        probe = torch.arange(PROBE)[None] % model.get_input_embeddings().weight.shape[0]
        with torch.no_grad():
            try:
                peft = PeftModel.from_pretrained(model, str(found.adapter))
            except (RuntimeError, ValueError, KeyError) as error:
                reason = str(error).splitlines()[0][:160]
                raise UserError(f"The adapter in {found.adapter} does not fit its base {found.base} ({reason}).") from error
            wanted = peft.eval()(probe).logits.float()
            model = peft.merge_and_unload(safe_merge=True)
            away = float((model.eval()(probe).logits.float() - wanted).norm() / wanted.norm())
        if not away <= AGREES.get(dtype, AGREES_NARROW):
            raise UserError(f"Merged into {found.base}, {part.ref} gives other logits than the adapter on it (by {away:.1%}); nothing was "
                            "written. Export the adapter itself instead.")
        words += f" On a short prompt its logits differ from those of base and adapter by {away:.1g} of their size."
    folder.mkdir(parents=True, exist_ok=True)
    with quiet_transformers():
        model.save_pretrained(folder, max_shard_size=SHARD)
        tokenizer.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)
    write_json(folder / CARD, {"base": _said_base(found.base), "merged": True, "prompt_format": found.prompt_format,
                               "chat_template_sha256": template_hash(tokenizer)})
    return words


def _found(part: Part, workspace: Workspace) -> Found:
    """Where the part leads. An agent that is its base and nothing else has no adapter; a checkpoint has no card of its own."""
    if not part.is_adapter:
        return find_model(part.ref, workspace.runs_dir)
    found = find_model(ModelRef("path", str(part.folder)), workspace.runs_dir)
    return replace(found, ref=part.ref, card={**part.card})


def _read_base(found: Found, location: str) -> Any:
    """The base on the CPU, in the number format its weights are stored in."""
    from transformers import AutoConfig, AutoModelForCausalLM

    where: dict[str, Any] = {"revision": found.revision or "main", "trust_remote_code": False,
                             "local_files_only": not found.base.startswith("hf:") or not hub_answers()}
    try:
        if getattr(AutoConfig.from_pretrained(location, **where), "quantization_config", None):
            raise UserError(f"The base {found.base} is stored quantised, and an adapter can only be merged into whole numbers; name the "
                            "model it was quantised from in adapter_config.json.")
        with quiet_transformers():
            return AutoModelForCausalLM.from_pretrained(location, dtype="auto", use_safetensors=True, **where).eval()
    except (OSError, ValueError, ImportError) as error:
        raise _load_error(found.base, location, error) from error


def _untie(model: Any, adapter: Path) -> None:
    """One matrix that serves as input and output embedding becomes two where the adapter changes only one of them."""
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    names = [name for name, module in model.named_modules() if module in ends]
    if not getattr(model.config.get_text_config(), "tie_word_embeddings", False) or not _touches(adapter, names):
        return
    from torch import nn

    head = model.get_output_embeddings()
    head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False


def _touches(adapter: Path, names: Sequence[str]) -> bool:
    from safetensors import safe_open

    with safe_open(str(adapter / "adapter_model.safetensors"), "pt") as file:
        return any(f".{name}." in f".{key}" for key in file.keys() for name in names)  # noqa: SIM118 - not a dict


def _said_base(base: str) -> str:
    """A folder of this machine says nothing to others: its name will do."""
    return Path(base).name if base.startswith(("/", "~")) else base
