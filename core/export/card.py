"""README.md of an export: the run's own card, completed with what it could not know when the training ended. Folders of this machine go."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from core.export.contents import Contents, Part
from core.export.evaluations import evaluation_section
from core.export.licence import EMBEDDED, base_licence, front_matter
from core.methods import UserError
from core.runs import Workspace

_PATH = re.compile(r"(?<![\w./:-])/(?:[\w.@+-]+/)+[\w.@+-]+")


def model_readme(contents: Contents, workspace: Workspace, merged: str = "") -> str:
    """The card of a model. merged: a sentence about the merge, where the weights are whole; "" for adapters as they are."""
    path = contents.run.dir / "README.md"
    card = next((one for one in (path, *(part.folder / "README.md" for part in contents.parts)) if one.is_file()), None)
    if card is None or (contents.checkpoint and not path.is_file()):
        values, text = _start_of_a_card(contents)
    else:
        values, text = front_matter(card.read_text(encoding="utf-8"))
    base = contents.parts[0].base
    licence = base_licence(base)
    if licence:
        values.setdefault("license", licence)
    if merged:
        values["library_name"] = "transformers"
    sections = {"How it is loaded elsewhere": _loading(contents, merged), "Evaluation": evaluation_section(contents, workspace)}
    if contents.checkpoint:
        note = "the numbers under Results are those of the end of the run." if path.is_file() else "the run has not ended."
        sections = {"Which state": f"These weights are `{contents.checkpoint}` of run `{contents.run.id}`; {note}", **sections}
    if licence and licence != EMBEDDED[1]:
        sections["Licence of the base"] = f"`{licence}`, as the card of {_base_words(base)} states it."
    return without_folders(_joined(values, with_sections(text, sections)))


def _start_of_a_card(contents: Contents) -> tuple[dict[str, Any], str]:
    """What can be said of a run that has not written its card: its settings. Only checkpoints are exported of such a run."""
    run = contents.run
    lines = [f"| {name} | {value} |" for name, value in run.config.items() if value not in (None, "")]
    text = (f"# {run.name}\n\nMade by GuardWaltz run `{run.id}` (`{run.method}`), which has not ended.\n\n## Settings\n\n"
            "| setting | value |\n|---|---|\n" + "\n".join(lines) + "\n")
    base = contents.parts[0].base
    values: dict[str, Any] = {"tags": ["guardwaltz", "safety"], "pipeline_tag": "text-generation",
                              "library_name": "peft" if contents.parts[0].is_adapter else "transformers"}
    known = EMBEDDED[0] if base == "embedded" else base.removeprefix("hf:")
    return ({**values, "base_model": known} if known and not contents.local_base else values), text


def _loading(contents: Contents, merged: str) -> str:
    names = [part.name for part in contents.parts if part.name]
    folders = " Each agent is a folder: " + " and ".join(f"`{name}/`" for name in names) + "." if names else ""
    ours = ("GuardWaltz takes the downloaded folder of each agent by its path." if names else
            "GuardWaltz takes this repository as `hf:OWNER/NAME`, and a downloaded folder by its path.")
    if merged:
        return f"{merged}{folders} transformers loads it by itself (`AutoModelForCausalLM.from_pretrained`). {ours}"
    if not all(part.is_adapter for part in contents.parts):
        return f"transformers loads it by itself (`AutoModelForCausalLM.from_pretrained`).{folders} {ours}"
    base = contents.parts[0].base
    near = (" It was trained on weights made from a 4-bit file of that model (Q4_1, dequantised), so its answers differ a little on the "
            "published ones; GuardWaltz uses the former." if base == "embedded" else "")
    return f"PEFT puts the adapter on {_base_words(base)} (`AutoPeftModelForCausalLM.from_pretrained`).{folders}{near} {ours}"


def _base_words(base: str) -> str:
    return f"`{EMBEDDED[0] if base == 'embedded' else base.removeprefix('hf:')}`" if base else "its base"


def with_sections(text: str, sections: dict[str, str]) -> str:
    """Put sections before ## Limits, where a card has it, else at its end."""
    made = "\n\n".join(f"## {title}\n\n{words}" for title, words in sections.items())
    before, mark, after = text.partition("\n## Limits\n")
    return f"{before.rstrip()}\n\n{made}\n{mark}{after}".rstrip() + "\n"


def portable_config(part: Part, text: str) -> bytes:
    """adapter_config.json for others: PEFT does not know the name `embedded`, the Hub does know the model it was made from."""
    import json

    config = json.loads(text)
    if part.base == "embedded":
        config["base_model_name_or_path"] = EMBEDDED[0]
    return (json.dumps(config, indent=2, ensure_ascii=False) + "\n").encode()


def without_folders(text: str) -> str:
    """Full paths of this machine become their last part: a card is for others, and a home folder has somebody's name."""
    def short(found: re.Match[str]) -> str:
        path = Path(found[0])
        return path.name if path.exists() or path.is_relative_to(Path.home()) else found[0]

    return _PATH.sub(short, text)


def _joined(values: dict[str, Any], text: str) -> str:
    return "---\n" + yaml.safe_dump(values, sort_keys=True, allow_unicode=True).strip() + "\n---\n\n" + text


def refuse_local_base(contents: Contents) -> None:
    """An adapter whose base others cannot have is of no use to them."""
    if base := contents.local_base:
        raise UserError(f"{contents.ref} is an adapter on {base}, which only this machine has, so nobody could load it from the Hub; push "
                        "the merged model instead: add --merged.")
