"""Where a model reference leads: the base, the adapter on it, the prompt format. Small files only; core/lm/load.py reads the weights."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from core.files import read_json
from core.lm.hub import hub_answers, hub_error, hub_file
from core.methods import UserError
from core.refs import ModelRef, parse_model_ref

CARD = "guardwaltz.json"
"""What save_trained leaves beside the weights: base, prompt format, hash of the chat template."""
NO_ADAPTER = "no_adapter"
"""In the card of an agent that is its base and nothing else, so that no weights lie beside it."""
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.safetensors", CARD, "tokenizer*", "special_tokens_map.json",
                    "added_tokens.json", "vocab.json", "merges.txt", "chat_template*"]


@dataclass(frozen=True)
class Found:
    """Where a model reference leads, before any weights are read."""

    ref: str
    base: str
    """Reference of the full model below; the same as `ref` where there is no adapter."""
    location: str
    """Folder or hub id of the base; "" for the embedded model, which may not be fetched yet."""
    adapter: Path | None = None
    card: dict[str, Any] = field(default_factory=dict)
    revision: str | None = None
    """Commit of the base on the Hub, so that what is loaded is what was looked at, and can be named in a report."""

    @property
    def prompt_format(self) -> str | None:
        """The prompt format stored with the model, if one is."""
        return self.card.get("prompt_format")


def find_model(ref: str | ModelRef, runs_dir: Path) -> Found:
    """What a reference leads to. Reads small files only; asks the Hub for small files of an `hf:` reference."""
    parsed = parse_model_ref(ref) if isinstance(ref, str) else ref
    found = _find(parsed, runs_dir)
    if found.adapter is None:
        return found
    base = _find(_base_of(found), runs_dir)
    if base.adapter is not None:
        raise UserError(f"The base of {parsed} is {base.ref}, itself an adapter; adapters are not stacked: merge {base.ref} "
                        "into its base first.")
    return Found(str(parsed), base.ref, base.location, found.adapter, found.card, base.revision)


def _find(ref: ModelRef, runs_dir: Path) -> Found:
    text = str(ref)
    if ref.kind == "embedded":
        return Found(text, text, "")
    if ref.kind == "hf":
        return _find_on_hub(ref)
    if ref.kind == "path":
        folder = Path(ref.name).expanduser().resolve()
        return replace(_in_folder(text, folder), base=str(folder))  # an adapter trained on it must find it from any folder
    if ref.kind == "run":
        return _in_folder(text, _run_folder(ref.name, runs_dir))
    if ref.kind == "waltz":
        return _find_agent(ref, runs_dir)
    raise UserError(f"{text} is a hosted model and its weights cannot be had; pick embedded, hf:<hub id>, a folder or run:<id>.")


def _run_folder(run_id: str, runs_dir: Path) -> Path:
    folder = runs_dir / run_id
    if "/" in run_id or not folder.is_dir():
        raise UserError(f"There is no run {run_id!r} in {runs_dir}; `python app.py runs` lists them.")
    for name in ("adapter", "model"):
        if (folder / name).is_dir():
            return folder / name
    from core.runs import Run

    state = Run(folder).state
    if state == "succeeded":
        raise UserError(f"Run {run_id} has made no model; pick a training run.")
    raise UserError(f"Run {run_id} is {state} and has no model yet; wait for it or resume it.")


def _find_agent(ref: ModelRef, runs_dir: Path) -> Found:
    """One of the two agents that a run left in `conversation/` and `feedback/`, or in a checkpoint of it."""
    if ref.is_pair:
        raise UserError(f"{ref} is a pair of models, and one model is wanted here; name one of the two, as {ref}#conversation.")
    run = runs_dir / ref.name
    folder = run / ref.checkpoint / ref.agent
    if folder.is_dir():
        card = read_json(folder / CARD, {})
        if card.get(NO_ADAPTER):
            base = _find(parse_model_ref(card["base"]), runs_dir)
            return Found(str(ref), base.base, base.location, None, card, base.revision)
        return _in_folder(str(ref), folder)
    if not run.is_dir():
        raise UserError(f"There is no run {ref.name!r} in {runs_dir}; `python app.py runs` lists them.")
    from core.runs import Run

    there = [path.name for path in Run(run).checkpoints() if (path / ref.agent).is_dir()]
    if ref.checkpoint:
        raise UserError(f"Run {ref.name} has no {ref.checkpoint} with two agents; it has {', '.join(there) or 'none'} of that kind.")
    if (state := Run(run).state) == "succeeded":
        raise UserError(f"Run {ref.name} has made no {ref.agent} agent; pick a waltz-sft or a waltzrl run.")
    later = f", or name a checkpoint, as waltz:{ref.name}@{there[-1]}" if there else ""
    raise UserError(f"Run {ref.name} is {state} and has no {ref.agent} agent yet; wait for it or resume it{later}.")


def _in_folder(ref: str, folder: Path) -> Found:
    if (folder / "adapter_config.json").is_file():
        if not (folder / "adapter_model.safetensors").is_file():
            raise UserError(f"{folder} holds an adapter without adapter_model.safetensors; only safetensors are loaded, so save it again.")
        return Found(ref, ref, str(folder), folder, read_json(folder / CARD, {}))
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} is no model: it has neither config.json nor adapter_config.json.")
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"{folder} holds no *.safetensors file; only safetensors are loaded, so save the model again.")
    return Found(ref, ref, str(folder), None, read_json(folder / CARD, {}))


def _find_on_hub(ref: ModelRef) -> Found:
    """Adapter or full model, told apart by small files; only an adapter's files are all fetched here."""
    if hub_file(ref.name, "adapter_config.json") is None:
        config = hub_file(ref.name, "config.json")
        if config is None:
            raise hub_error(ref.name, FileNotFoundError("no config.json and no adapter_config.json found"))
        card = hub_file(ref.name, CARD)
        return Found(str(ref), str(ref), ref.name, None, read_json(card, {}) if card else {}, config.parent.name)
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(ref.name, allow_patterns=ADAPTER_PATTERNS, local_files_only=not hub_answers()))
    except OSError as error:
        raise hub_error(ref.name, error) from error
    return _in_folder(str(ref), folder)


def _base_of(found: Found) -> ModelRef:
    """The base an adapter was trained on: our own card first, else adapter_config.json (a hub id, a folder or `embedded`)."""
    assert found.adapter is not None
    text = found.card.get("base") or read_json(found.adapter / "adapter_config.json", {}).get("base_model_name_or_path") or ""
    if not text:
        raise UserError(f"{found.adapter}/adapter_config.json names no base_model_name_or_path; write the base model there.")
    if text == "embedded" or text.startswith(("hf:", "run:")) or Path(text).expanduser().is_dir():
        return parse_model_ref(text)
    if text.startswith(("/", "./", "../", "~")) or text.count("/") > 1:
        raise UserError(f"The base of the adapter in {found.adapter} is {text}, which is not a folder here; correct "
                        "base_model_name_or_path.")
    return ModelRef("hf", text)
