"""The public data's formats, in small local folders written here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import datasets
import huggingface_hub
import pyarrow
import pyarrow.parquet
import pytest
import yaml
from data import with_source

from rlfamily.errors import UserError
from rlfamily.examples import read_examples
from rlfamily.tasks import math

CONTENT = yaml.safe_load((Path(__file__).resolve().parents[2] / "conf" / "task" / "math.yaml").read_text())


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


def worked(problem: str, solution: str) -> dict[str, str]:
    return {"problem": problem, "level": "Level 5", "type": "Algebra", "solution": solution}


MATH = [worked(f"What is {i} + {i}?", f"Twice {i} is $\\boxed{{{2 * i}}}$.") for i in range(10)]
MATH += [
    worked("What is 3 + 3?", "Repeated: $\\boxed{6}$."),
    worked("Which fraction?", "First $\\boxed{1}$, no: $\\boxed{\\frac{1}{2}}$."),
    worked("No box?", "The answer is 5."),
    worked("Old box?", "The answer is $\\boxed 5$."),
    worked("Also in AMC?", "$\\boxed{27}$"),
    worked(CONTENT["source"]["shown"][0], "$24 = \\boxed{24}$"),
]
# The columns and types of the public files.
BENCHMARKS: dict[str, list[dict[str, Any]]] = {
    "AMC2023": [{"id": 0, "question": "Also in AMC?", "answer": "27.0", "url": "u"},
                {"id": 1, "question": "Second?", "answer": "36.0", "url": "u"}],
    "Minerva Math": [{"question": "Which wavelength?", "answer": "4.5e-7"},
                     {"question": "Equation?", "answer": "m \\frac{dv}{dt} + b v = f"}],
    "Olympiad-Bench": [{"id": 1606, "question": "How many?", "final_answer": ["$2$"], "is_multiple_answer": False},
                       {"id": 1607, "question": "Which two?", "final_answer": ["$-1$", "$\\frac{1}{2}$"],
                        "is_multiple_answer": True},
                       {"id": 1608, "question": "How many?", "final_answer": ["2"], "is_multiple_answer": False}],
    "AIME2024": [{"id": 60, "problem": "Morning coffee?", "solution": "\\boxed{204}", "url": "u"}],
    "AIME2025": [{"problem": "Bases?", "answer": "70", "id": "0"}],
}
GOLD = {"AMC2023": ["27.0", "36.0"], "Minerva Math": ["4.5e-7", "m \\frac{dv}{dt} + b v = f"],
        "Olympiad-Bench": ["2", "-1, \\frac{1}{2}", "2"], "AIME2024": ["204"], "AIME2025": ["70"]}


def write_parquet(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    (folder / "data").mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "data" / f"{split}-00000-of-00001.parquet")


def write_json(folder: Path, split: str, rows: list[dict[str, Any]]) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture(params=[write_parquet, write_json])
def data(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The shipped settings, with the datasets' paths replaced by small folders in the hub's format."""
    request.param(tmp_path / "math", "train", MATH)
    source = json.loads(json.dumps(CONTENT["source"])) | {"validation": 3}
    source["training"]["path"] = str(tmp_path / "math")
    for benchmark in source["benchmarks"]:
        benchmark["path"] = str(tmp_path / benchmark["name"])
        request.param(tmp_path / benchmark["name"], "test", BENCHMARKS[benchmark["name"]])
    return math.Config.model_validate({**CONTENT, "source": source}).data


def test_benchmarks_keep_every_row_in_order_under_their_names(data: Any, tmp_path: Path) -> None:
    summary = math.build(data, tmp_path)
    test = read_examples(tmp_path / "test.jsonl")
    assert [example.id for example in test] == [f"test-{place}" for place in range(9)]
    found: dict[str, list[str]] = {}
    for example in test:
        found.setdefault(example.meta["benchmark"], []).append(example.meta["answer"])
    assert found == GOLD and list(found) == list(GOLD)
    assert {name: summary[name] for name in GOLD} == {name: len(rows) for name, rows in GOLD.items()}
    assert summary["test"] == 9 and summary["AIME2024_revision"] == "local folder"


def test_training_problems_are_solvable_distinct_and_not_held_out(data: Any, tmp_path: Path) -> None:
    summary = math.build(data, tmp_path)
    splits = [read_examples(tmp_path / f"{name}.jsonl") for name in ("train", "validation")]
    answers = {example.prompt.split("Problem: ")[-1].split("\n")[0]: example.meta["answer"]
               for example in splits[0] + splits[1]}
    assert answers == {f"What is {i} + {i}?": str(2 * i) for i in range(10)} | {"Which fraction?": "\\frac{1}{2}"}
    assert [len(split) for split in splits] == [8, 3] == [summary["train"], summary["validation"]]
    assert all(set(example.meta) == {"answer"} for example in splits[0])


@pytest.mark.parametrize("form", [
    "also  in\tAMC?", "ALSO IN AMC?\r\n", "Also in AMC\uff1f", "Also in\u00a0A\u200bMC?", "Alsoin AMC?", "\u01ceb"])
def test_a_test_problem_in_another_form_is_not_trained_on(tmp_path: Path, form: str) -> None:
    """Blanks, case, line ends and Unicode forms do not tell problems apart; what is kept stays as written."""
    write_json(tmp_path / "math", "train", [worked(f"Wh\u00e4t {i}?", "$\\boxed{1}$") for i in range(4)] + [
        worked(form, "$\\boxed{1}$"), worked("Wha\u0308t  0?", "$\\boxed{1}$")])
    write_json(tmp_path / "AMC2023", "test", [{"question": "Also in AMC?", "answer": "1"},
                                              {"question": "A\u030cB", "answer": "1"}])
    source = json.loads(json.dumps(CONTENT["source"])) | {"validation": 1}
    source["training"]["path"] = str(tmp_path / "math")
    source["benchmarks"] = [source["benchmarks"][0] | {"path": str(tmp_path / "AMC2023")}]
    summary = math.build(math.Config.model_validate({**CONTENT, "source": source}).data, tmp_path)
    assert summary["left_out"] == {"training problems that are held out": 1, "repeated training problems": 1}
    prompts = [example.prompt for name in ("train", "validation") for example in read_examples(tmp_path / f"{name}.jsonl")]
    assert sorted(prompt.split("Problem: ")[-1].split("\n")[0] for prompt in prompts) == [f"Wh\u00e4t {i}?" for i in range(4)]


def test_prompt_is_the_papers_template(data: Any, tmp_path: Path) -> None:
    math.build(data, tmp_path)
    prompt = read_examples(tmp_path / "test.jsonl")[1].prompt
    assert prompt.startswith("Solve the following math problem step by step.\n- Write each reasoning step clearly, "
                             "starting with labels step1, step2, step3, ...\n")
    assert "- Conclude with the final answer inside LaTeX \\boxed{}.\nFormat example:\nstep1: Restate" in prompt
    assert prompt.endswith("\n\nProblem: Second?\nAssistant:")
    assert prompt.count("Problem: ") == prompt.count("Assistant:") == 3  # two examples and the problem
    examples = prompt.split("\n\nProblem: ")[1:3]
    assert [example.split("\n")[0] for example in examples] == CONTENT["source"]["shown"]  # left out of training
    for example, gold in zip(examples, ("24", "16"), strict=True):
        assert math.score(example, {"answer": gold}) == {"format": 1.0, "valid": 1.0}


def test_gold_answers_pass_their_own_check(data: Any, tmp_path: Path) -> None:
    math.build(data, tmp_path)
    for example in read_examples(tmp_path / "test.jsonl"):
        response = f"step1: so \\boxed{{{example.meta['answer']}}}"
        assert math.score(response, example.meta) == {"format": 1.0, "valid": 1.0}, example
    amc = read_examples(tmp_path / "test.jsonl")[0]
    assert [math.score(f"\\boxed{{{answer}}}", amc.meta)["valid"] for answer in ("27", "28")] == [1.0, 0.0]


ON = "\n\nProblem: What is 1 + 1?\nAssistant:\nstep1: \\boxed{2}"


@pytest.mark.parametrize(("response", "verdicts"), [
    (r"step1: so \boxed{27}" + ON, (1, 1)), (r"step1: so \boxed{2}" + ON, (1, 0)), ("step1: no box" + ON, (0, 0)),
    (r" \boxed{27}" + "\n  Problem: next" + ON.replace("2}", "27}"), (1, 1)),
    (r"wait, \boxed{2} is wrong: \boxed{27}" + ON, (1, 1)), ("Problem: restated\n" + r"\boxed{27}" + ON, (1, 1)),
    (r"\boxed{2}" + "\nThe Problem: was hard, " + r"\boxed{27}", (1, 1)), ("\n" + r"\boxed{27}" + "\nProblems: " + r"\boxed{2}", (1, 0)),
])
def test_a_model_that_goes_on_with_a_further_problem_is_scored_on_its_own(response: str, verdicts: tuple[int, int]) -> None:
    found = math.score(response, {"answer": "27"})
    assert (found["format"], found["valid"]) == verdicts


@pytest.mark.parametrize(("template", "opening"), [
    ("Solve.\n\nProblem: {problem}\nAssistant:", "Problem:"), ("Q: 1\nA: 1\n\n Q: {problem}\nA:", "Q:"),
    ("## Exercise 2\n{problem}\n", ""),
])
def test_the_prompt_says_how_a_problem_begins(data: Any, tmp_path: Path, template: str, opening: str) -> None:
    math.build(data.model_copy(update={"template": template}), tmp_path)
    for split in ("train", "test"):
        meta = read_examples(tmp_path / f"{split}.jsonl")[0].meta
        own, other = (f"\\boxed{{{meta['answer']}}}", r"\boxed{-7}")
        for line in {"Problem:", "Q:", opening} - {""}:
            valid = math.score(f"{own}\n\n{line} next\nA: {other}", meta)["valid"]
            assert valid == float(line == opening), line


def test_the_split_depends_on_the_seed_alone(data: Any, tmp_path: Path) -> None:
    contents = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        (tmp_path / name).mkdir()
        math.build(with_source(data, {**data.source.model_dump(), "seed": seed}), tmp_path / name)
        contents.append((tmp_path / name / "train.jsonl").read_bytes())
    assert contents[0] == contents[1] != contents[2]


def refusal(data: Any, out: Path, **source: Any) -> str:
    with pytest.raises(UserError) as error:
        math.build(with_source(data, {**data.source.model_dump(), **source}), out)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_errors_are_one_line_that_says_what_to_do(data: Any, tmp_path: Path) -> None:
    source = data.source.model_dump()
    assert "holds 11 problems to train on: lower it" in refusal(data, tmp_path, validation=11)
    swapped = [source["benchmarks"][0] | {"answer": "solution"}]
    assert refusal(data, tmp_path, benchmarks=swapped).startswith("task.source.benchmarks[0].path: dataset")
    boxless = [source["benchmarks"][0] | {"boxed": True}]
    assert "has an answer in column 'answer' (boxed=true)" in refusal(data, tmp_path, benchmarks=boxless)
    away = source["training"] | {"path": "nobody/nothing"}
    assert "task.source.training.path=/some/folder" in refusal(data, tmp_path, training=away)


# ---------------------------------------------------------------------------- GSM8K in a chat


@pytest.fixture
def chat(tmp_path: Path) -> Any:
    """The shipped settings of gsm8k, with small folders in the hub's format."""
    content = yaml.safe_load((Path(__file__).resolve().parents[2] / "conf" / "task" / "gsm8k.yaml").read_text())

    def rows(split: str, count: int) -> list[dict[str, Any]]:
        return [{"question": f"{split} question {i}?", "answer": f"Twice <<{i}*2={2 * i}>>{2 * i}.\n#### {2 * i},000"} for i in range(count)]

    for split, found in (("train", [*rows("train", 8), {"question": "unmarked?", "answer": "5"}, rows("test", 1)[0]]),
                         ("test", rows("test", 6))):
        write_parquet(tmp_path / "gsm8k" / "main", split, found)
    write_parquet(tmp_path / "math500", "test", [{"problem": f"Root {i}?", "solution": "s", "answer": f"\\sqrt{{{i}}}",
                                                  "subject": "Algebra", "level": 1, "unique_id": str(i)} for i in range(3)])
    source = content["source"] | {"validation": 2}
    source["training"]["path"] = source["benchmarks"][0]["path"] = str(tmp_path / "gsm8k")
    source["benchmarks"][0]["sample"], source["benchmarks"][1]["path"] = 4, str(tmp_path / "math500")
    for one in (source["training"], source["benchmarks"][0]):
        one["folder"] = "main/data"
    return lambda **changes: math.Config.model_validate({**content, "eval_prompts": 7, "source": source | changes}).data


def test_gsm8k_is_asked_in_a_chat_and_sampled(chat: Any, tmp_path: Path) -> None:
    summary = math.build(chat(), tmp_path)
    assert (summary["train"], summary["validation"], summary["GSM8K"], summary["Math500"]) == (6, 2, 4, 3)
    assert summary["left_out"] == {"rows of task.source.training without problem or answer": 1,
                                   "training problems that are held out": 1}
    test = read_examples(tmp_path / "test.jsonl")
    assert [example.meta["benchmark"] for example in test] == ["GSM8K"] * 4 + ["Math500"] * 3
    one, system = test[0], "You are a helpful assistant, and put your final answer within \\boxed{ }."
    question = one.meta["messages"][1]["content"]
    assert one.meta["messages"] == [{"role": "system", "content": system}, {"role": "user", "content": question}]
    assert one.prompt == f"{system}\n\n{question}" and one.meta["answer"] == f"{2 * int(question.split()[-1][:-1])},000"
    assert math.score(f"It is \\boxed{{{one.meta['answer'].replace(',', '')}}}.", one.meta) == {"format": 1.0, "valid": 1.0}
    assert math.score("It is \\boxed{1}.\n\nIt is.", one.meta) == {"format": 1.0, "valid": 0.0}
    assert test[-1].meta["answer"] == "\\sqrt{2}"


def test_more_than_there_are_are_not_sampled(chat: Any, tmp_path: Path) -> None:
    data = chat()
    few = data.source.benchmarks[0].model_copy(update={"sample": 7})
    with pytest.raises(UserError, match=r"GSM8K: sample=7, but '.*gsm8k' has 6 problems: lower it, or null for all"):
        math.build(chat(benchmarks=[few.model_dump()]), tmp_path)
