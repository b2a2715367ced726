"""`python app.py doctor`: what is here, what is wrong, and the command that mends it."""

from __future__ import annotations

import os
import platform
import shutil
from importlib.metadata import PackageNotFoundError, version

from core import keep
from core.runs import Workspace
from core.words import size

NEEDED = ("gradio", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes", "mistralai", "anthropic", "plotly")
KEYS = ("HF_TOKEN", "MISTRAL_API_KEY", "ANTHROPIC_API_KEY", "OPENAI_API_KEY")
LITTLE_DISK = 2e9


def examine(workspace: Workspace) -> int:
    """Print the examination; 1 when something is wrong, else 0."""
    wrong: list[str] = []
    print(f"python {platform.python_version()} on {platform.platform()}")
    for package in NEEDED:
        try:
            print(f"  {package} {version(package)}")
        except PackageNotFoundError:
            print(f"  {package} missing")
            wrong.append(f"{package} is not installed: pip install {package}")
    wrong += _devices()
    free = shutil.disk_usage(workspace.runs_dir).free
    print(f"runs folder {workspace.runs_dir}: {len(workspace.runs())} runs, {size(free)} free")
    if free < LITTLE_DISK:
        wrong.append(f"only {size(free)} free in {workspace.runs_dir}: delete runs on the Runs page, or set GUARDWALTZ_RUNS")
    if not os.access(workspace.runs_dir, os.W_OK):
        wrong.append(f"{workspace.runs_dir} cannot be written: set GUARDWALTZ_RUNS to a folder of yours")
    print("keys: " + ", ".join(f"{key} {'set' if os.environ.get(key) else 'not set'}" for key in KEYS))
    for plugin in workspace.plugins.loaded:
        print(f"plugin {plugin.name} ({plugin.origin}): {plugin.error or ', '.join(plugin.provides)}")
        if plugin.error:
            fix = f"pip install {plugin.missing}" if plugin.missing else f"look at {plugin.where}"
            wrong.append(f"plugin {plugin.name} failed: {fix}")
    wrong += _embedded_model()
    if trouble := keep.trouble_of(workspace):
        wrong.append(trouble)
    lost = [run.id for run in workspace.runs() if run.state == "lost" and not run.status.get("parent")]
    wrong += [f"{run_id} is lost (its worker died): python app.py resume {run_id}" for run_id in lost]
    print("\n" + ("\n".join(f"wrong: {line}" for line in wrong) or "nothing is wrong"))
    return 1 if wrong else 0


def _devices() -> list[str]:
    try:
        import torch
    except ImportError:
        return []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            print(f"device cuda:{index}: {torch.cuda.get_device_name(index)}")
    elif torch.backends.mps.is_available():
        print("device mps")
    print(f"device cpu: {os.cpu_count()} cores")
    return []


def _embedded_model() -> list[str]:
    from core.lm.embedded import embedded_folder

    folder = embedded_folder()
    print(f"embedded model: {folder if folder.exists() else 'not fetched yet; the first run that uses it does (93 MB)'}")
    return []
