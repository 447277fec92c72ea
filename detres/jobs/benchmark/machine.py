"""Which processor this is, and how much of it others used meanwhile."""

import os
import platform
import re
from pathlib import Path


def processor_name() -> str:
    """The model name that Linux gives, else what Python knows; empty where neither does."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor()


class OtherLoad:
    """The share of all processors that other processes, and other guests of the host, have taken since it was made."""

    def __init__(self) -> None:
        self._began = _read()

    def share(self) -> float | None:
        """0..1; None where the system does not tell (other than Linux)."""
        now = _read()
        if now is None or self._began is None:
            return None
        busy, own, everything = (b - a for a, b in zip(self._began, now, strict=True))
        return max(0.0, busy - own) / everything if everything > 0 else 0.0


def _read() -> tuple[float, float, float] | None:
    """Seconds of all processors so far: busy, busy for this process and its children, and all."""
    try:
        first = Path("/proc/stat").read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return None
    # user, nice, system, idle, waiting, interrupts (twice), taken by other guests; guests of ours are within user
    ticks = [int(text) for text in first.split()[1:9]]
    second = os.sysconf("SC_CLK_TCK")
    return (sum(ticks) - ticks[3] - ticks[4]) / second, sum(os.times()[:4]), sum(ticks) / second
