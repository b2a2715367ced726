"""GuardWaltz core. These names are a plugin author's whole vocabulary; see docs/plugins.md.

They are looked up on first use, so that `python app.py --help` does not wait for pydantic.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from core.asking import AskingConfig
    from core.chat_models import ChatModel, Outcome, Sampling, Words
    from core.formats import DataFormat, Parsed, PromptFormat, RowError
    from core.hookspecs import hookimpl
    from core.judges import Judge, Judged
    from core.methods import Config, Estimate, FromRun, Method, OneOf, Problem, Stage, UserError, setting
    from core.records import ChatExample, GuardExample, HardSample, Labels, MinedSample, Output, Prediction, Preference, Record, Verdict
    from core.tuning import EpochsConfig, WeightsConfig

__all__ = [
    "AskingConfig",
    "ChatExample",
    "ChatModel",
    "Config",
    "DataFormat",
    "EpochsConfig",
    "Estimate",
    "FromRun",
    "GuardExample",
    "HardSample",
    "Judge",
    "Judged",
    "Labels",
    "Method",
    "MinedSample",
    "OneOf",
    "Outcome",
    "Output",
    "Parsed",
    "Prediction",
    "Preference",
    "Problem",
    "PromptFormat",
    "Record",
    "RowError",
    "Sampling",
    "Stage",
    "UserError",
    "Verdict",
    "WeightsConfig",
    "Words",
    "hookimpl",
    "setting",
]

_HOME = {
    "core.asking": ("AskingConfig",),
    "core.chat_models": ("ChatModel", "Outcome", "Sampling", "Words"),
    "core.formats": ("DataFormat", "Parsed", "PromptFormat", "RowError"),
    "core.hookspecs": ("hookimpl",),
    "core.judges": ("Judge", "Judged"),
    "core.methods": ("Config", "Estimate", "FromRun", "Method", "OneOf", "Problem", "Stage", "UserError", "setting"),
    "core.records": ("ChatExample", "GuardExample", "HardSample", "Labels", "MinedSample", "Output", "Prediction", "Preference", "Record",
                     "Verdict"),
    "core.tuning": ("EpochsConfig", "WeightsConfig"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(module), name)
    raise AttributeError(f"module 'core' has no attribute {name!r}")
