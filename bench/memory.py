"""How much memory this process has."""

from __future__ import annotations

from pathlib import Path


def resident(name: str) -> int:
    """VmRSS (now) or VmHWM (the peak of this process) in bytes. Linux only; getrusage would count the parent's peak as well."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise SystemExit("/proc/self/status has no memory figures here; this check needs Linux.")
