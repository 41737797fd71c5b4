"""One cell, or a Hydra multirun of cells: `python -m rlfamily.train [-m] task=... model=... algorithm=... seed=...`.

Every combination is checked and planned before the first one starts. A cell writes the same artifacts as `reproduce`,
so what is already there is not computed again. A cell that fails does not stop the others.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from rlfamily.composing import CONF, expand
from rlfamily.config import RunConfig, build, check
from rlfamily.errors import UserError, nearest
from rlfamily.execution import FAILED, INTERRUPTED, OK, check_places, execute, failure_of, guarded
from rlfamily.plan import stages
from rlfamily.records import Layout
from rlfamily.stages.scheduler import Interrupted

_SHOW = ("--help", "-h", "--info", "--cfg", "-c")  # Hydra prints something and starts nothing
_SHOWN = ("job", "hydra", "all", "config", "defaults", "defaults-tree", "plugins", "searchpath")  # what of it
_FLAGS = ("--multirun", "-m", *_SHOW)
_OF_A_KIND = re.compile(r"([\w.]+)=\{.*\bkind\s*:")
NOTHING_TRAINED = {"base": "none: the scores are the base model's", "sft": "none: the scores are the SFT warm start's"}


def run_cell(config: RunConfig, differing: Iterable[str] = ()) -> int:
    """Train (unless algorithm=none) and score one cell, print where it is and how it did; returns an exit code.

    `differing` are the overrides that tell it from the other cells of its sweep: they stand in its name.
    """
    own = [one for one in differing if one.split("=")[0] not in ("algorithm", "task", "seed")]
    label = " · ".join([f"{config.names['algorithm']} on {config.names['task']}", *own, f"seed {config.seed}"])
    nodes = stages(config, ["train", "score"], label)
    outcomes = execute(nodes.values(), config.results, config.hardware, config.executor)
    broken = {key: outcome for key, outcome in outcomes.items() if outcome.status == "failed"}
    for key, outcome in broken.items():
        print(f"error: {label}: {failure_of(config.results, key, outcome.reason)}", file=sys.stderr)
    if broken:
        return FAILED
    _report(config, label, {role: node.key for role, node in nodes.items()})
    return OK


def _report(config: RunConfig, label: str, keys: dict[str, str]) -> None:
    from eval.quick import score_lines

    layout = Layout(config.results)
    print(label)
    for line in score_lines(layout.object(keys["score"]) / "scores.jsonl"):
        print(f"  {line}")
    print(f"  run   {layout.object(keys['train']) if config.trained else NOTHING_TRAINED[config.algorithm.warm_start]}")
    print(f"  score {layout.object(keys['score'])}")


def _check(arguments: list[str]) -> str:
    """Refuse what cannot run, all of it, before Hydra starts anything; return the results folder ("" if unused)."""
    showing = set(_SHOW) & set(arguments)
    overrides = [argument for argument in arguments if not argument.startswith("-")
                 and not (showing and argument in _SHOWN)]
    for flag in set(arguments) - set(overrides) - set(_FLAGS) - set(_SHOWN if showing else ()):
        raise UserError(f"command line: unknown flag '{flag}'{nearest(flag, _FLAGS)}")
    if showing and {"-m", "--multirun"} & set(arguments):
        raise UserError(f"command line: {min(showing)} shows one configuration and -m runs several: leave one out")
    if showing:
        build(overrides)
        return ""
    combinations = expand(overrides)
    if len(combinations) > 1 and not {"-m", "--multirun"} & set(arguments):
        raise UserError(f"command line: these overrides are a sweep of {len(combinations)} cells: add -m")
    configs = [build(combination) for combination in combinations]
    for config in configs:
        check_places(stages(config, ["train", "score"]).values(), config.results, config.hardware, config.executor)
    return configs[0].results


def _swept(arguments: list[str]) -> set[str]:
    """Keys to which a sweep gives several values."""
    words = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    return {word.split("=")[0] for word in words if len(expand([word])) > 1}


def _emptied(arguments: list[str]) -> list[str]:
    """Set to null first what a mapping with its kind takes the place of: Hydra would merge it, and refuse new keys."""
    found = [(_OF_A_KIND.match(argument), argument) for argument in arguments]
    return [part for match, argument in found for part in ([f"{match[1]}=null"] if match else []) + [argument]]


def _main() -> int:
    codes: list[int] = []

    @hydra.main(version_base="1.3", config_path=str(CONF), config_name="config")
    def job(composed: DictConfig) -> None:
        try:
            hydra_config = HydraConfig.get()
            differing = [one for one in hydra_config.overrides.task if one.split("=")[0] in swept]
            codes.append(guarded(lambda: run_cell(check(composed, hydra_config.runtime.choices), differing)))
        except Interrupted as interrupted:
            print(f"interrupted: {interrupted}", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from interrupted

    results = _check(sys.argv[1:])
    swept = _swept(sys.argv[1:])
    sys.argv[1:] = _emptied(sys.argv[1:])
    if results and not any(argument.startswith("hydra.sweep.dir=") for argument in sys.argv):
        folder = f"{results}/multirun".replace("'", "\\'")
        sys.argv.append(f"hydra.sweep.dir='{folder}'")  # beside everything else a sweep writes
    job()
    return max(codes, default=OK)


if __name__ == "__main__":
    sys.exit(guarded(_main))
