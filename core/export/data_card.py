"""README.md of an exported set of rows: where they are from, how many, what they say, what to mind. A Hub dataset card."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import yaml

from core.export.card import with_sections, without_folders
from core.export.contents import ROWS, Contents
from core.export.licence import front_matter
from core.words import plural, size

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def data_readme(contents: Contents) -> str:
    """The card of the rows of a run: the run's own README.md where it wrote one, completed."""
    run, report = contents.run, contents.run.report or {}
    counts = {name: _count(path) for name, path in contents.rows.items()}
    most = max(rows for rows, _ in counts.values())
    values: dict[str, Any] = {"tags": ["guardwaltz", "safety"], "task_categories": ["text-classification"],
                              "size_categories": [next((word for limit, word in SIZES if most < limit), "n>10M")],
                              "configs": [{"config_name": name, "data_files": f"{name}.jsonl", "default": place == 0}
                                          for place, name in enumerate(counts)]}
    licence = str(report.get("licence") or "")
    if licence:
        values["license"] = licence.lower()
    card = run.dir / "README.md"
    own, text = front_matter(card.read_text(encoding="utf-8")) if card.is_file() else ({}, f"# {run.name}\n")
    sections = {"Rows": _rows(contents, counts), "Where it is from": _source(contents, report), "Licence": _licence(licence),
                "Limits": _limits(run.dir / "test_keys.txt")}
    return without_folders("---\n" + yaml.safe_dump({**own, **values}, sort_keys=True, allow_unicode=True).strip() + "\n---\n\n"
                           + with_sections(text, sections))


def _count(path: Path) -> tuple[int, str]:
    """(rows, sha256) in one reading."""
    rows, digest = 0, hashlib.sha256()
    with path.open("rb") as file:
        for line in file:
            digest.update(line)
            rows += bool(line.strip())
    return rows, digest.hexdigest()


def _rows(contents: Contents, counts: dict[str, tuple[int, str]]) -> str:
    lines = ["| file | what | rows | size | sha256 |", "|---|---|---|---|---|"]
    lines += [f"| `{name}.jsonl` | {ROWS[name]} | {rows:,} | {size(contents.rows[name].stat().st_size)} | `{digest}` |"
              for name, (rows, digest) in counts.items()]
    report = contents.run.report or {}
    for split, found in (report.get("splits") or {}).items():
        labels = "; ".join(f"{task}: " + ", ".join(f"{count:,} {label}" for label, count in by.items())
                           for task, by in (found.get("labels") or {}).items())
        lines.append(f"\n{split}: {plural(found.get('rows', 0), 'row')}" + (f" ({labels})." if labels else "."))
    return "\n".join(lines)


def _source(contents: Contents, report: dict[str, Any]) -> str:
    run = contents.run
    said = [f"Made by GuardWaltz run `{run.id}` with the method `{run.method}`."]
    if report.get("headline"):
        said.append(f"In short: {str(report['headline']).rstrip('.')}.")
    if report.get("source"):
        digest = f" (sha256 `{report['sha256']}`)" if report.get("sha256") else ""
        said.append(f"Source: `{report['source']}`{digest}" + (f", read as `{report['format']}`." if report.get("format") else "."))
    if bad := report.get("bad_rows"):
        said.append(f"{plural(bad, 'row')} of the source could not be read and are not in it.")
    settings = [f"| {name} | {value} |" for name, value in run.config.items() if value not in (None, "", [], {})]
    return " ".join(said) + "\n\n| setting | value |\n|---|---|\n" + "\n".join(settings)


def _licence(licence: str) -> str:
    if licence:
        return f"`{licence}`, as whoever imported it stated."
    return "Not stated when it was imported: look at its source before you pass it on."


def _limits(test_keys: Path) -> str:
    limits = ["Prompts and answers may be offensive or describe harm; they are there to train and test safeguards.",
              "Labels and answers are as good as who or what wrote them."]
    if test_keys.is_file():
        limits.append("Rows of the split `test` are a registered test set: do not train on them, and mind that a public copy will be "
                      "trained on by others.")
    return "\n".join(f"- {limit}" for limit in limits)
