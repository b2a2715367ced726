"""Finding plugins: our `plugins/` folder, the user's folder ($GUARDWALTZ_PLUGINS), installed packages (group `guardwaltz`).

Ours must load, or start-up stops. A stranger's failure is kept and shown on the Plugins page, never fatal.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import pluggy

from core import hookspecs
from core.chat_models import ChatModel
from core.judges import Judge
from core.methods import Method, Stage, UserError, from_run

Origin = Literal["built in", "your folder", "installed package"]


@dataclass(frozen=True)
class LoadedPlugin:
    """One plugin and how it fared. `missing` is the package to install when an import failed."""

    name: str
    origin: Origin
    where: str
    version: str = ""
    error: str = ""
    missing: str = ""
    provides: tuple[str, ...] = ()


@dataclass
class Plugins:
    """All that was found. Made fresh by `load_plugins`, so tests need no global state."""

    manager: pluggy.PluginManager
    loaded: list[LoadedPlugin] = field(default_factory=list)
    methods: dict[str, type[Method]] = field(default_factory=dict)
    judges: dict[str, type[Judge]] = field(default_factory=dict)
    chat_models: dict[str, type[ChatModel]] = field(default_factory=dict)
    data_formats: dict[str, Any] = field(default_factory=dict)
    prompt_formats: dict[str, Any] = field(default_factory=dict)

    def method(self, name: str) -> type[Method]:
        """The method called `name`, or UserError with the nearest one."""
        if name in self.methods:
            return self.methods[name]
        from difflib import get_close_matches

        near = get_close_matches(name, self.methods, n=1)
        failed = [plugin.name for plugin in self.loaded if plugin.error]
        hint = f"did you mean {near[0]}?" if near else "see `python app.py methods`."
        also = f" These plugins failed to load: {', '.join(failed)} (see `python app.py doctor`)." if failed else ""
        raise UserError(f"There is no method {name!r}; {hint}{also}")

    def of_stage(self, stage: Stage) -> list[type[Method]]:
        """Methods of one page: the one that leads, the others by name of their file, and last those that look at finished runs."""
        methods = (method for method in self.methods.values() if method.stage == stage)
        return sorted(methods, key=lambda method: (not method.leads, _looks_back(method)))


class PluginError(Exception):
    """A plugin breaks the contract: misspelled hook, duplicate name, or a class that is not what its hook says."""


def load_plugins(folder: Path | None = None, *, installed: bool = True) -> Plugins:
    """Load everything. `folder` stands for $GUARDWALTZ_PLUGINS in tests."""
    manager = pluggy.PluginManager("guardwaltz")
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for name, module in _built_in():
        _register(plugins, name, module, "built in")
    user_folder = folder or _folder_from_environment()
    if user_folder:
        for path in _plugin_files(user_folder):
            _try(plugins, path.stem, "your folder", str(path), lambda path=path: _import_file(path))
    if installed:
        for entry in entry_points(group="guardwaltz"):
            version = entry.dist.version if entry.dist else ""
            _try(plugins, entry.name, "installed package", entry.value, entry.load, version)
    return plugins


def _built_in() -> Iterator[tuple[str, ModuleType]]:
    import plugins as package

    for info in pkgutil.iter_modules(package.__path__):
        yield info.name, importlib.import_module(f"plugins.{info.name}")


def _folder_from_environment() -> Path | None:
    value = os.environ.get("GUARDWALTZ_PLUGINS")
    return Path(value).expanduser() if value else None


def _plugin_files(folder: Path) -> list[Path]:
    files = [path for path in folder.glob("*.py") if not path.name.startswith("_")]
    packages = [path for path in folder.glob("*/__init__.py") if not path.parent.name.startswith(("_", "."))]
    return sorted(files + packages)


def _import_file(path: Path) -> ModuleType:
    name = path.parent.name if path.name == "__init__.py" else path.stem
    spec = importlib.util.spec_from_file_location(f"guardwaltz_user_{name}", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _try(plugins: Plugins, name: str, origin: Origin, where: str, load: Any, version: str = "") -> None:
    """Load a stranger's plugin; any failure becomes a line on the Plugins page."""
    try:
        _register(plugins, name, load(), origin, version)
    except Exception as error:
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        plugins.loaded.append(LoadedPlugin(name, origin, where, version, f"{type(error).__name__}: {error}", missing))


def _register(plugins: Plugins, name: str, module: ModuleType, origin: Origin, version: str = "") -> None:
    """Register one module, collect what it declares, refuse what breaks the contract; all or nothing."""
    where = getattr(module, "__file__", None) or module.__name__
    manager = plugins.manager
    registered = manager.register(module, name=f"{origin}:{name}")
    try:
        manager.check_pending()  # a misspelled hook is an error, not silence
        methods = _declared(manager, module, "register_methods")
        judges = _declared(manager, module, "register_judges")
        formats = _declared(manager, module, "register_formats")
        chat_models = _declared(manager, module, "register_chat_models")
        _refuse_bad(methods, judges, formats, chat_models, plugins)
    except Exception as error:
        manager.unregister(name=registered)
        raise PluginError(f"plugin {name} ({where}): {error}") from error
    for method in methods:
        plugins.methods[method.name] = method
    for judge in judges:
        plugins.judges[judge.name] = judge
    for chat_model in chat_models:
        plugins.chat_models[chat_model.name] = chat_model
    for item in formats:
        (plugins.prompt_formats if item.kind == "prompt" else plugins.data_formats)[item.name] = item
    provides = tuple(item.name for item in [*methods, *judges, *formats, *chat_models])
    plugins.loaded.append(LoadedPlugin(name, origin, str(where), version, provides=provides))


def _declared(manager: pluggy.PluginManager, module: ModuleType, hook: str) -> list[Any]:
    """What this one plugin returns: pluggy's own call does not say which plugin answered."""
    found = [item for impl in getattr(manager.hook, hook).get_hookimpls() if impl.plugin is module for item in impl.function()]
    if not found and hasattr(module, hook) and not hasattr(getattr(module, hook), "guardwaltz_impl"):
        raise PluginError(f"{hook} has no @hookimpl above it")
    return found


def _refuse_bad(methods: list[Any], judges: list[Any], formats: list[Any], chat_models: list[Any], plugins: Plugins) -> None:
    seen: set[str] = set()
    for item in [*methods, *judges, *formats, *chat_models]:
        for attribute in ("name", "title"):
            if not isinstance(getattr(item, attribute, None), str):
                raise PluginError(f"{item!r} has no {attribute}")
        known: dict[str, Any] = {**plugins.prompt_formats, **plugins.data_formats}
        if item not in formats:
            known = dict(plugins.methods if item in methods else plugins.judges if item in judges else plugins.chat_models)
        if item.name in known or item.name in seen:
            raise PluginError(f"the name {item.name!r} is taken already")
        seen.add(item.name)
    for judge in judges:
        if not (isinstance(judge, type) and issubclass(judge, Judge)):
            raise PluginError(f"register_judges must return Judge classes, got {judge!r}")
        if not judge.name.isidentifier():
            raise PluginError(f"the judge's name {judge.name!r} is not one plain word, so it could not be written before a colon")
    for chat_model in chat_models:
        if not (isinstance(chat_model, type) and issubclass(chat_model, ChatModel)):
            raise PluginError(f"register_chat_models must return ChatModel classes, got {chat_model!r}")
    for method in methods:
        if not (isinstance(method, type) and issubclass(method, Method)):
            raise PluginError(f"register_methods must return Method classes, got {method!r}")
        if not isinstance(getattr(method, "stage", None), Stage):
            raise PluginError(f"{method.name} has no stage; known: {', '.join(Stage)}")


def _looks_back(method: type[Method]) -> bool:
    marks = (from_run(field) for field in method.Config.model_fields.values() if field.is_required())
    return any(mark is not None and mark.kind == "run" for mark in marks)
