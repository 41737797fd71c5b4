"""What all benchmarks share: sides that take turns, CPU seconds, spread, memory, and the shape of a result.

A part is a module with `run(quick: bool) -> Result`. `python -m bench PART` writes it to bench/results/PART.json, from
which `bench.report` renders docs/benchmarks.md without knowing any part:

    {"title": "Generation",                    one heading
     "about": "Both sides draw ...",           one paragraph (may be "")
     "quick": false,                           true: small sizes, never committed
     "machine": machine("vllm"),               where and with what
     "tables": [{"title": "...",               may be ""
                 "columns": {"case": "case", "cpu": "CPU s per step"},   key of a row's cell -> heading
                 "rows": [{"case": "0.8M", "cpu": spread([1.0, 1.1])}]}],
     "notes": ["Tried and dropped: ..."]}      one bullet each

A cell is text, a number, None (a dash) or a `spread`, printed as "median (lower quartile - upper quartile)". Figures
stay unrounded in the file. Other keys may be added for whoever wants raw numbers; the page ignores them.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import resource
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

Result = dict[str, Any]
Answer = TypeVar("Answer")

RESULTS = Path(__file__).parent / "results"


class Cost(NamedTuple):
    """Seconds of one call: CPU time of this process (all its threads, none of its children), and wall time."""

    cpu: float
    wall: float


def timed(call: Callable[[], object]) -> Cost:
    """What one call costs."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Cost(time.process_time() - cpu, time.perf_counter() - wall)


def turns(sides: Mapping[str, Callable[[], Answer]], rounds: int, warm_up: int = 1) -> dict[str, list[Answer]]:
    """What each side answers in `rounds` rounds that count, after `warm_up` that do not.

    Every other round goes in reverse order, so that a drift of the machine hits all sides alike.
    """
    answers: dict[str, list[Answer]] = {name: [] for name in sides}
    for number in range(warm_up + rounds):
        for name in sides if number % 2 == 0 else reversed(list(sides)):
            answers[name].append(sides[name]())
    return {name: found[warm_up:] for name, found in answers.items()}


def alternate(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> dict[str, list[Cost]]:
    """The costs of calls in this process, side by side."""
    return turns({name: partial(timed, call) for name, call in sides.items()}, rounds, warm_up)


def spread(values: list[float]) -> dict[str, float]:
    """Median, minimum, quartiles and count of at least one value."""
    low, _, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return {"median": statistics.median(values), "min": min(values), "low": low, "high": high, "count": len(values)}


def peak_mib() -> float:
    """The most memory this process has held so far, in MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / (2**20 if platform.system() == "Darwin" else 2**10)


def machine(*packages: str) -> dict[str, Any]:
    """Processor, cores, threads, load average, and the versions of torch, transformers and `packages`."""
    return {
        "processor": processor(), "cpus": os.cpu_count(), "threads": os.environ.get("OMP_NUM_THREADS", "unset"),
        "load": round(os.getloadavg()[0], 2), "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", *packages)},
    }


def version(package: str) -> str | None:
    """The installed version; None where there is none."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def processor() -> str:
    """The processor's name as Linux gives it, else its architecture."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
