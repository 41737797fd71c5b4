"""`make bench`: ratios of things measured side by side in one run on this machine; no thresholds, nothing asserted.

1. Generation: our torch engine against transformers' `generate`: same tiny model, prompts, group size and lengths, with
   a KV cache. No token ends a row, so both draw the same number of tokens.
2. Both engines, where vllm is installed: tokens per CPU second at 64 rows of 64 new tokens, and a hand-over of weights.
3. The stage engine: no-op stages per second, through worker processes.
4. Planning topr_tab2: seconds per cell, from overrides to keys.

Sides take turns in alternating order, in CPU seconds of one thread; medians are printed. A race of the training step
against another RL library is not here yet.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from rlfamily import experiment, plan
from rlfamily.config import build
from rlfamily.records import write_atomic
from rlfamily.stages.executors.local import LocalExecutor
from rlfamily.stages.graph import KINDS_PATH, Node
from rlfamily.stages.scheduler import run_graph

ROUNDS, WARM_UP = 7, 1
PROMPTS, GROUP, STAGES, LENGTHS = 32, 4, 20, ((8, 40), (32, 32), (96, 32))  # LENGTHS: prompt tokens, new tokens
NO_OP = 'VERSION = "1"\n\n\ndef run(context):\n    return {}\n'


def alternate(sides: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median CPU seconds of each side; every other round goes in reverse order, the first do not count."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(WARM_UP + ROUNDS):
        for name in (sides if number % 2 else reversed(sides)):
            start = time.process_time()
            sides[name]()
            seconds[name].append(time.process_time() - start)
    return {name: statistics.median(values[WARM_UP:]) for name, values in seconds.items()}


def generation() -> list[dict[str, Any]]:
    """One line for each pair of lengths: CPU seconds of both sides and their ratio."""
    import torch

    from rlfamily.models import scratch
    from rlfamily.models.policy import Policy
    from rlfamily.rollout import SamplingParams
    from rlfamily.rollout.torch_engine import TorchEngine

    endless = type("Endless", (Policy,), {"eos_id": -1})  # a policy that no token ends
    torch.set_num_threads(1)
    tokenizer = scratch.train_tokenizer(list(map(str, range(128))))
    model: Any = scratch.build_model(build(["model=qwen2_tiny", "model.max_positions=256"]).model, tokenizer).eval()
    model.generation_config.eos_token_id = None
    engine, lines = TorchEngine(endless(model, tokenizer, "fp32", torch.device("cpu")), PROMPTS * GROUP), []
    for prompt, new in LENGTHS:
        ids = torch.randint(3, len(tokenizer), (PROMPTS, prompt), generator=torch.Generator().manual_seed(0))
        rows = [row for row in ids.tolist() for _ in range(GROUP)]
        sampling = {"do_sample": True, "top_k": 0, "num_return_sequences": GROUP, "max_new_tokens": new}

        theirs = partial(model.generate, ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **sampling)
        ours = partial(engine.generate, rows, SamplingParams(False, 1.0, prompt + new), range(len(rows)))
        assert theirs().shape == (len(rows), prompt + new) and {len(row.ids) for row in ours()} == {new}
        cost = alternate({"torch engine": ours, "transformers": theirs})
        ratio = cost["torch engine"] / cost["transformers"]
        lines.append({"rows": len(rows), "prompt": prompt, "new": new, **cost, "ratio": ratio})
    return lines


def engines() -> list[dict[str, Any]]:
    """Tokens per CPU second of the torch engine and of vLLM on one saved model, and CPU seconds of a hand-over."""
    import torch

    from rlfamily.models import policy, scratch
    from rlfamily.rollout import SamplingParams, engines

    config = build(["model=qwen2_tiny", "model.max_positions=256", "rollout.engine=vllm"])
    tokenizer = scratch.train_tokenizer(list(map(str, range(128))))
    params = SamplingParams(False, 1.0, 24 + 64, min_new_tokens=64)  # so that no row ends early
    prompts = torch.randint(3, len(tokenizer), (16, 24), generator=torch.Generator().manual_seed(0)).tolist()
    with tempfile.TemporaryDirectory() as folder:
        scratch.build_model(config.model, tokenizer).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        learner = policy.load(Path(folder), config.model, torch.device("cpu"), trainable=True)
        machine = engines.Machine(config.hardware.model_dump(), Path(folder), 1, lambda step, total, note: None)
        sides = {name: engines.following(learner, Path(folder), config.rollout.model_copy(update={"engine": name}),
                                         machine, params.max_total_tokens) for name in ("torch", "vllm")}
        draws = {name: partial(one.generate, prompts, params, range(0, 160, 10), 4) for name, one in sides.items()}
        tokens = {name: sum(len(row.ids) for row in draw()) for name, draw in draws.items()}
        assert set(tokens.values()) == {64 * 64}
        speed = {name: tokens[name] / seconds for name, seconds in alternate(draws).items()}
        handed = alternate({"vllm hand-over, CPU seconds": sides["vllm"].refresh})
    return [{f"{name} tokens per CPU second": value for name, value in speed.items()} | handed
            | {"vllm / torch": speed["vllm"] / speed["torch"]}]


def stages() -> dict[str, float]:
    """No-op stages per second of wall time with one slot; the start of the workers' parent does not count."""
    one = {"kind": "cpu", "slots": 1, "processes": 1}
    with tempfile.TemporaryDirectory() as folder:
        os.environ[KINDS_PATH] = folder
        (Path(folder) / "noop.py").write_text(NO_OP)
        nodes = [Node("noop", {"number": number}, {}, one, f"no-op {number}") for number in range(STAGES + 1)]
        with LocalExecutor(folder, 1, [], 5.0) as executor:
            run_graph(nodes[:1], folder, executor, lambda event: None)
            start = time.perf_counter()
            run_graph(nodes[1:], folder, executor, lambda event: None)
            return {"no-op stages per second": STAGES / (time.perf_counter() - start)}


def planning() -> dict[str, float]:
    """CPU seconds per cell of topr_tab2, from overrides to the keys of its stages."""
    spec = experiment.load("topr_tab2")
    cells = len(plan.cells(spec, "tiny"))
    cost = alternate({"plan": lambda: [cell.stages["score"].key for cell in plan.cells(spec, "tiny")]})
    return {"cells": cells, "CPU seconds per cell": cost["plan"] / cells}


def main() -> None:
    """Measure, print, write results/bench.json."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("results/bench.json"), help="file to write (%(default)s)")
    out: Path = parser.parse_args().out
    machine = {"cpus": os.cpu_count(), "threads": 1, "load": os.getloadavg()[0], "python": platform.python_version(),
               **{name: importlib.metadata.version(name) for name in ("torch", "transformers")}}
    found = {"machine": [machine], "stages": [stages()], "planning": [planning()], "generation": generation(),
             "engines": engines() if importlib.util.find_spec("vllm") else []}
    print(f"medians of {ROUNDS} rounds in alternating order")
    for name, line in [(name, line) for name, lines in found.items() for line in lines]:
        values = (f"{key} {value:.3g}" if isinstance(value, float) else f"{key} {value}" for key, value in line.items())
        print(f"{name:11}{', '.join(values)}")
    write_atomic(out, json.dumps(found, indent=1) + "\n")
    print(f"written to {out}")


if __name__ == "__main__":
    main()
