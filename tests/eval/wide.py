"""A synthetic experiment with everything a wide table has: two models, three tasks, an untrained row, an optional one,
best of seeds, several draws, a hidden gold reward, a derived column, judgements, theory and samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from fixture import HOSTILE, commit, key_of, write_index

from rlfamily.records import CellEntry

MODELS = ["Small", "Large"]
TASKS = ["Chat", "Summary", "Drawing"]
# Mean reward and mean gold of each method; the reward of Hacker rises while its gold falls.
LEVELS = {"base": (0.0, 0.0), "GRPO": (0.5, 0.3), "Ours": (0.8, 0.5), "Hacker": (0.6, -0.6), "Ours (variant)": (0.8, 0.5)}
SHIFT = {"Chat": 1.0, "Summary": -2.0, "Drawing": 0.5}
PROMPTS, DRAWS, SEEDS = 64, 3, [0, 1]
SPEC: dict[str, Any] = {
    "title": "A wide table", "paper": "WIDE", "place": "Table 1", "about": "Synthetic.", "kind": "table",
    "published": "wide_tab.csv", "models": {"Small": ["model=a"], "Large": {"tiny": ["model=b"], "paper": ["model=c"]}},
    "scales": {"tiny": {"seeds": SEEDS, "base": []}, "paper": {"seeds": SEEDS, "base": []}},
    "rows": {
        "base": ["algorithm=none"],
        "GRPO": {"published": "GRPO", "overrides": ["algorithm=grpo"]},
        "Ours": {"published": "Ours", "overrides": ["algorithm=gnivo"]},
        "Hacker": ["algorithm=ppo"],
        "Ours (variant)": {"optional": True, "overrides": ["algorithm=gnivo"]},
        "Never asked": {"optional": True, "overrides": ["algorithm=gnivo"]},
    },
    "columns": {task: [f"task={task.lower()}"] for task in TASKS},
    "metrics": [
        {"name": "Avg@1", "stage": "score", "field": "reward", "where": {"mode": "greedy"}, "better": "higher",
         "over_seeds": "best", "watch": "gold", "digits": 3},
        {"name": "Avg@1, mean", "stage": "score", "field": "reward", "where": {"mode": "greedy"}, "better": "higher"},
        {"name": "Avg@3", "stage": "score", "field": "reward", "where": {"mode": "sample"}, "better": "higher",
         "std": "Avg@3 std", "digits": 3},
        {"name": "Avg@3 std", "stage": "score", "field": "reward", "where": {"mode": "sample"}, "reduce": "trial_std",
         "shown": False, "digits": 3},
        {"name": "Pass@3", "stage": "score", "field": "valid", "where": {"mode": "sample"}, "per_item": "any",
         "times": 100, "better": "higher", "digits": 1},
        {"name": "gold", "stage": "score", "field": "gold", "where": {"mode": "greedy"}, "better": "higher"},
        {"name": "not here", "stage": "score", "field": "nothing", "better": "higher"},
    ],
    "derived": [{"column": "GM over 3 tasks", "metric": "GM of Avg@1", "of": "Avg@1", "over": TASKS,
                 "operation": "signed_geometric_mean", "better": "higher", "digits": 3}],
}
PUBLISHED = """table_id,model,method,task_or_benchmark,metric,value,std,unit,mark,note
wide_tab,Small,GRPO,Chat,Avg@1,1.5,,reward,underline,
wide_tab,Small,Ours,Chat,Avg@1,1.9,,reward,,
wide_tab,Small,GRPO,Chat,Avg@3,1.4,0.01,reward,underline,
wide_tab,Small,Ours,Chat,Avg@3,1.8,0.02,reward,,
wide_tab,Large,Ours,GM over 3 tasks,GM of Avg@1,-0.7,,reward,,
"""


def rng_of(*parts: object) -> np.random.Generator:
    return np.random.default_rng(int(key_of(*parts), 16))


def score_rows(model: str, row: str, task: str, seed: int) -> list[dict[str, Any]]:
    """Greedy and sampled responses to the same prompts for every row."""
    level, gold = LEVELS[row]
    difficulty = rng_of("difficulty", task).normal(0, 1, PROMPTS)
    rng, made = rng_of(model, row.removesuffix(" (variant)"), task, seed), []
    for mode, draws in (("greedy", 1), ("sample", DRAWS)):
        for item in range(PROMPTS):
            for draw in range(draws):
                reward = SHIFT[task] + level + difficulty[item] + 0.1 * seed + float(rng.normal(0, 0.1))
                made.append({"mode": mode, "item": item, "draw": draw, "prompt": f"{task} {item}", "reward": reward,
                             "gold": gold + float(rng.normal(0, 0.1)), "valid": int(rng.random() < 0.4), "length": 9,
                             "truncated": False, "response": HOSTILE if item == 0 else f"{row} says {item}"})
    return made


def cell(root: Path, model: str, row: str, task: str, seed: int) -> CellEntry:
    stages = {}
    if row != "base":
        stages["train"] = commit(root, "train", f"{row} · {model} · {task} · seed {seed}", {}, {
            "metrics.jsonl": [{"step": step, "progress": step / 20, "reward": step / 20 + seed / 10 + len(row) / 10}
                              for step in range(20)]}, {})
    stages["score"] = commit(root, "score", f"score {row} · {model} · {task} · seed {seed}", {},
                             {"scores.jsonl": score_rows(model, row, task, seed)}, {})
    return CellEntry(model=model, row=row, column=task, seed=seed, overrides=[f"seed={seed}"], names={"task": "t"},
                     config={}, stages=stages, status="done")


def experiments(folder: Path) -> Path:
    """An experiments folder with the published numbers, without claims and deviations."""
    for name in ("published", "claims", "deviations"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "published" / "wide_tab.csv").write_text(PUBLISHED)
    return folder


def make_wide(root: Path, **changes: Any) -> list[CellEntry]:
    """Write the table wide_tab, and the same runs as curves and as samples."""
    cells = [cell(root, model, row, task, seed)
             for model in MODELS for row in LEVELS for task in TASKS for seed in SEEDS]
    write_index(root, "wide_tab", SPEC | changes, cells, "tiny")
    plain = {key: value for key, value in SPEC.items() if key not in ("derived", "published")}
    write_index(root, "wide_samples", plain | {"kind": "samples", "place": "Tables 6 to 9"}, cells, "tiny")
    train = {"name": "reward", "stage": "train", "field": "reward", "better": "higher"}
    write_index(root, "wide_fig", plain | {"kind": "curves", "place": "Figure 1", "metrics": [train]}, cells, "tiny")
    return cells
