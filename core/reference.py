"""Every setting of a method as text: the command line's help, and docs/methods.md (checked by `make lint`)."""

from __future__ import annotations

import copy
import types
import typing
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from core.methods import Method, extra_of, fields_of, from_run


def type_words(annotation: Any) -> str:
    """"whole number", "one of: a, b", "text or none" for a field's annotation."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return "one of: " + ", ".join(map(str, arguments))
    if origin in (typing.Union, types.UnionType):
        return " or ".join(type_words(argument) for argument in arguments)
    if origin in (list, tuple):
        return f"list of {type_words(arguments[0])}" if arguments else "list"
    names = {bool: "true or false", int: "whole number", float: "number", str: "text", type(None): "none", dict: "mapping"}
    return names.get(annotation, "mapping" if origin is dict else getattr(annotation, "__name__", str(annotation)))


def bounds_words(field: FieldInfo) -> str:
    """"1 to 20", "at least 0", "" from a field's bounds."""
    kinds = ("ge", "gt", "le", "lt")
    found = {name: getattr(item, name) for item in field.metadata for name in kinds if getattr(item, name, None) is not None}
    low, high = found.get("ge", found.get("gt")), found.get("le", found.get("lt"))
    if low is not None and high is not None:
        return f"{'above ' if 'gt' in found else ''}{low:,} to {high:,}"
    if low is not None:
        return f"above {low:,}" if "gt" in found else f"at least {low:,}"
    return f"at most {high:,}" if high is not None else ""


def default_words(field: FieldInfo) -> str:
    """The default as it would be typed; "needed" where there is none."""
    default = field.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "needed"
    return "none" if default is None else str(default).lower() if isinstance(default, bool) else str(default) if default != "" else "empty"


def settings_of(method: type[Method]) -> Iterator[tuple[str, FieldInfo]]:
    """(name as it is typed, field) of every setting; those of a nested model as `dir.alpha`."""
    for name, field in fields_of(method.Config):
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            default = field.get_default(call_default_factory=True)
            for inner, below in kind.model_fields.items():
                own = copy.copy(below)
                if default is not PydanticUndefined:
                    own.default = getattr(default, inner)
                yield f"{name}.{inner.rstrip('_')}", own
        else:
            yield name, field


def method_text(method: type[Method]) -> str:
    """Help of one method for a terminal."""
    lines = [f"{method.name}: {method.title}", method.summary, *([f"paper: {method.paper}"] if method.paper else []), ""]
    for name, field in settings_of(method):
        aliases = extra_of(field).get("aliases") or []
        kinds = ", ".join(filter(None, [_kind(field), bounds_words(field), f"default {default_words(field)}"]))
        lines.append(f"  {name}{' (' + ', '.join(aliases) + ')' if aliases else ''}: {kinds}")
        lines.append(f"      {field.description or ''}")
    for preset, values in method.presets.items():
        lines.append(f"\npreset {preset}: " + " ".join(f"{key}={value}" for key, value in values.items()))
    return "\n".join(lines)


def method_markdown(method: type[Method]) -> str:
    """One section of docs/methods.md."""
    paper = f" [paper]({method.paper})" if method.paper else ""
    rows = [f"### `{method.name}`: {method.title}", "", f"{method.summary}{paper}", "",
            "| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in settings_of(method):
        aliases = extra_of(field).get("aliases") or []
        label = f"`{name}`" + "".join(f", `{alias}`" for alias in aliases)
        kind = ", ".join(filter(None, [_kind(field), bounds_words(field)]))
        meaning = (field.description or "").replace("|", "\\|").replace("\n", " ")
        rows.append(f"| {label} | {kind} | {default_words(field)} | {meaning} |")
    for preset, values in method.presets.items():
        rows += ["", f"Preset `{preset}`: " + ", ".join(f"`{key}={value}`" for key, value in values.items())]
    return "\n".join(rows) + "\n"


def _kind(field: FieldInfo) -> str:
    mark = from_run(field)
    words = {"data": "data: name, run or file", "model": "model reference", "run": "run id"}
    return words[mark.kind] if mark and not mark.many else type_words(field.annotation)


def reference_markdown(methods: list[type[Method]]) -> str:
    """docs/methods.md whole; written by `python -m core.reference`."""
    head = "# Methods\n\nGenerated from the config classes by `python -m core.reference`; `make lint` checks that it is current.\n\n"
    by_stage: dict[str, list[type[Method]]] = {}
    for method in methods:
        by_stage.setdefault(method.stage.value, []).append(method)
    return head + "\n".join(f"## {stage}\n\n" + "\n".join(map(method_markdown, group)) for stage, group in by_stage.items())


if __name__ == "__main__":
    import sys
    from pathlib import Path

    from core.plugins import load_plugins
    from core.runs import REPOSITORY

    text = reference_markdown(list(load_plugins(Path("/nonexistent"), installed=False).methods.values()))
    target = REPOSITORY / "docs" / "methods.md"
    if "--check" in sys.argv:
        if not target.exists() or target.read_text() != text:
            sys.exit("docs/methods.md is out of date; run: python -m core.reference")
    else:
        target.write_text(text)
