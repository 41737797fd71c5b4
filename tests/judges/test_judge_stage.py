"""The judge stage, and the local language model as a judge."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import TypeAdapter
from small import place
from test_judge_pairwise import ASKED, STAND_IN

from rlfamily.errors import UserError
from rlfamily.judges import CausalLmJudge, JudgeConfig, Question, get
from rlfamily.records import read_jsonl, write_jsonl
from rlfamily.stages.kinds import judge

LOCAL = ASKED | {"kind": "causal_lm", "engine": "torch", "max_unreadable": 0.0, "path": "judge", "revision": "main",
                 "batch": 3}


def scores(folder: Path, golds: list[float], **changes) -> Path:
    folder.mkdir(parents=True)
    rows = [{"mode": mode, "item": item, "draw": 0, "prompt": f"q{item}", "response": f"{mode} answer {gold}",
             "reward": 0.0, "gold": gold} | changes for mode in ("greedy", "sample") for item, gold in enumerate(golds)]
    write_jsonl(folder / "scores.jsonl", rows)
    return folder


def run(root: Path, inputs: dict[str, Path], settings: dict) -> tuple[dict, list[dict]]:
    """The stage's summary and its rows; what stages share lies in `root`."""
    here = place(root)
    config = judge.Config(judge=TypeAdapter(JudgeConfig).validate_python(settings))
    summary = judge.run(here, config, judge.Inputs(**inputs))
    return summary, list(read_jsonl(here.out / "judgements.jsonl"))


def test_rows_of_the_stand_in(tmp_path) -> None:
    inputs = {"ours": scores(tmp_path / "a", [1.0, 0.0, 0.5]), "theirs": scores(tmp_path / "b", [0.0, 1.0, 0.5])}
    summary, rows = run(tmp_path, inputs, STAND_IN)
    assert [(row["win"], row["tie"], row["loss"]) for row in rows] == [(1, 0, 0), (0, 0, 1), (0, 1, 0)]
    assert [(row["item"], row["first"], row["second"]) for row in rows] == [
        (0, "ours", "ours"), (1, "theirs", "theirs"), (2, "tie", "tie")]
    assert all("stand-in" in row["judge"] for row in rows)
    assert summary["pairs"] == 3 and summary["calls"] == 4 and summary["orders_disagree"] == 0
    assert not (tmp_path / "judge_cache").exists()


def test_rows_of_one_order_stand_beside_those_of_both(tmp_path) -> None:
    golds = [0.02 * item for item in range(60)]
    inputs = {"ours": scores(tmp_path / "a", golds), "theirs": scores(tmp_path / "b", [0.6] * 60)}
    summary, rows = run(tmp_path / "three", inputs, STAND_IN | {"noise": 0.3, "orders": 3, "label": "Mistral"})
    both = [row for row in rows if row["order"] == "both"]
    assert summary["calls"] == 118 and len(both) == 60 and len(rows) == 4 * 60  # one response is the same
    assert both == [row | {"judge": both[0]["judge"]} for row in run(
        tmp_path / "none", inputs, STAND_IN | {"noise": 0.3})[1]], "draws change nothing there"
    same = {row["item"]: row for row in both}
    assert "consistent" not in same[30] and same[30]["tie"] == 1
    assert sum(row.get("consistent", 0) for row in both) == sum(
        row["first"] == row["second"] for row in both if row["item"] != 30) < 59
    for draw in range(3):
        drawn = [row for row in rows if row.get("draw") == draw]
        assert [row["item"] for row in drawn] == list(range(60)) and {row["order"] for row in drawn} == {"one"}
        assert {row["shown_first"] for row in drawn} == {"ours", "theirs"}
        for row in drawn:
            decided = same[row["item"]]["first" if row["shown_first"] == "ours" else "second"]
            assert row["win"] == (decided == "ours") and row["loss"] == (decided == "theirs")
            assert row["win"] + row["tie"] + row["loss"] == 1 and "Mistral" in row["judge"]


def test_rows_on_different_prompts_are_refused(tmp_path) -> None:
    ours = scores(tmp_path / "a", [1.0, 0.0])
    for name, other in (("b", scores(tmp_path / "b", [1.0])), ("c", scores(tmp_path / "c", [1.0, 0.0], prompt="other"))):
        with pytest.raises(UserError, match="different prompts"):
            run(tmp_path / f"at_{name}", {"ours": ours, "theirs": other}, STAND_IN)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Llama with a byte tokenizer, in a hub artifact's layout."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("hub") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: index for index, letter in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(vocab_size=len(alphabet), hidden_size=32, intermediate_size=64, num_hidden_layers=2,
                         num_attention_heads=2, max_position_embeddings=1400, initializer_range=0.5)
    LlamaForCausalLM(config).save_pretrained(folder, safe_serialization=True)
    return folder


def load(model: Path, **changes):
    import torch

    config = TypeAdapter(JudgeConfig).validate_python(LOCAL | changes)
    assert isinstance(config, CausalLmJudge)
    return get("causal_lm").load(config, model, torch.device("cpu"))


def test_the_local_model_is_read_at_the_last_position_whatever_the_batch(model) -> None:
    import torch
    from transformers import LlamaForCausalLM

    questions = [Question("x" * length + str(length), None) for length in (5, 40, 11, 200, 80, 3, 60, 24)]
    alone = dict(load(model, batch=1).answers(questions))
    assert alone == dict(load(model, batch=3).answers(questions)) == dict(load(model, batch=8).answers(questions))
    assert len(set(alone.values())) > 1, "a judge that always says the same shows nothing"
    local, transformer = load(model), LlamaForCausalLM.from_pretrained(model)
    for index, question in enumerate(questions):
        ids = local.tokenizer(question.text + "\n[[")["input_ids"]
        logits = transformer(input_ids=torch.tensor([ids])).logits[0, -1].tolist()
        best = max(zip("ABC", ("first", "second", "tie"), strict=True),
                   key=lambda pair: logits[local.tokenizer.encode(pair[0])[0]])
        assert alone[index] == best[1]


def test_a_chat_template_is_used(model) -> None:
    local = load(model)
    local.tokenizer.chat_template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    assert local.tokenizer.decode(local._ids("hi")) == "<user>hi<assistant>[["


def test_a_question_too_long_for_the_model_is_unreadable(model) -> None:
    answers = dict(load(model).answers([Question("x" * 2000, None), Question("y", None)]))
    assert answers[0] == "unreadable" and answers[1] != "unreadable"


def test_the_local_judge_as_a_stage(tmp_path, model) -> None:
    inputs = {"ours": scores(tmp_path / "a", [1.0, 0.0, 0.5]), "theirs": scores(tmp_path / "b", [0.0, 1.0, 0.7]),
              "judge": model.parent}
    summary, rows = run(tmp_path, inputs, LOCAL)
    assert summary["calls"] == 6
    assert len(list((tmp_path / "judge_cache").rglob("*.json"))) == 6
    assert all(row["win"] + row["tie"] + row["loss"] == 1 and row["judge"] == "judge" for row in rows)


def test_a_tokenizer_without_the_letters_is_refused(tmp_path, model) -> None:
    import shutil

    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path / "model"
    shutil.copytree(model, folder)
    tokenizer = Tokenizer(models.WordLevel({"<unk>": 0, "word": 1}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>").save_pretrained(folder)
    with pytest.raises(UserError, match="does not tell A, B, C apart by their first tokens: use another model"):
        load(folder)


def test_rpos_answers_are_read_as_the_model_writes_them(tmp_path, model) -> None:
    """A, B or Neutral by its first token, at the prompt's end; behind a blank where the template sets one."""
    import torch
    from transformers import LlamaForCausalLM

    local, transformer = load(model, prompt="rpo"), LlamaForCausalLM.from_pretrained(model)
    assert local.tokenizer.convert_ids_to_tokens(local.letters) == ["A", "B", "N"]
    questions = [Question("x" * length + str(length), None) for length in (5, 40, 11, 200, 80, 3, 60, 24)]
    answers = dict(local.answers(questions))
    assert len(set(answers.values())) > 1
    for index, question in enumerate(questions):
        ids = local.tokenizer(question.text + "\n")["input_ids"]
        logits = transformer(input_ids=torch.tensor([ids])).logits[0, -1][local.letters]
        assert answers[index] == ("first", "second", "tie")[int(logits.argmax())]
    tokenizer = local.tokenizer
    tokenizer.chat_template = ("{% for m in messages %}{% if m.role == 'user' %}[Q]{{ m.content }}[/Q]"
                               "{% else %} {{ m.content }}!{% endif %}{% endfor %}")
    with pytest.raises(UserError, match="does not tell A, B, Neutral apart by their first tokens"):
        tokens_of(tmp_path / "bytes", tokenizer, model, prompt="rpo")  # each begins with a blank of its own


def test_an_answer_behind_a_blank_is_one_token_of_many_tokenizers(tmp_path, model) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("Ġ", "A"), ("Ġ", "B"), ("N", "e"), ("Ġ", "Ne")]
    words = [*alphabet, *(one + other for one, other in merges)]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    assert tokens_of(tmp_path / "plain", fast, model, prompt="rpo").letters == [
        fast.convert_tokens_to_ids(word) for word in ("A", "B", "Ne")]
    fast.chat_template = ("{% for m in messages %}{% if m.role == 'user' %}[Q]{{ m.content }}[/Q]"
                          "{% else %} {{ m.content }}!{% endif %}{% endfor %}")
    behind = tokens_of(tmp_path / "chat", fast, model, prompt="rpo")
    assert fast.convert_ids_to_tokens(behind.letters) == ["ĠA", "ĠB", "ĠNe"]
    assert fast.decode(behind._ids("hi")).replace(" ", "") == "[Q]hi[/Q]"


def test_what_an_answer_depends_on(model) -> None:
    """A cached answer of one engine is none of another's."""
    torch, vllm = (TypeAdapter(JudgeConfig).validate_python(LOCAL | {"engine": name}) for name in ("torch", "vllm"))
    assert torch.identity() != vllm.identity()


def test_an_engine_is_opened_once_for_the_longest_question_that_fits(model) -> None:
    import torch

    opened = []

    def chooser(folder, dtype, longest):
        opened.append((folder, dtype, longest))
        return lambda rows, allowed: [len(row) % 3 for row in rows]

    config = TypeAdapter(JudgeConfig).validate_python(LOCAL | {"engine": "vllm", "batch": 2})
    judge = get("causal_lm").load(config, model, torch.device("cpu"), chooser)
    questions = [Question("x" * length, None) for length in (5, 40, 1396, 1397, 11)]  # three characters of ours follow
    answers = dict(judge.answers(questions))
    assert opened == [(model, "fp32", 1399)]
    assert [answers[index] for index in range(5)] == ["tie", "second", "second", "unreadable", "tie"]


def tokens_of(folder: Path, tokenizer, model: Path, **changes):
    import shutil

    shutil.copytree(model, folder)
    tokenizer.save_pretrained(folder)
    return load(folder, **changes)


def test_a_letter_is_read_as_it_follows_the_bracket(tmp_path, model) -> None:
    """Not as it begins a word, whatever the tokenizer; and nothing ends the prompt before the answer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = ["<unk>", "<s>", "</s>", "▁", "▁A", "▁B", "▁C", "A", "B", "C", "[[", "▁[[", "\n", "x"]
    tokenizer = Tokenizer(models.Unigram([(piece, -float(len(pieces) - len(piece))) for piece in pieces], 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", "<s> $A </s> $B </s>",
                                                             [("<s>", 1), ("</s>", 2)])
    local = tokens_of(tmp_path / "model", PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"), model)
    assert local.tokenizer.convert_ids_to_tokens(local.letters) == ["A", "B", "C"]
    ids = local.tokenizer.convert_ids_to_tokens(local._ids("x"))
    assert ids[0] == "<s>" and ids[-1] == "[["


def test_a_bracket_that_swallows_its_letter_leaves_the_letter_behind_it(tmp_path, model) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*alphabet, "[[", "[[A"]
    tokenizer = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, [("[", "["), ("[[", "A")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    local = tokens_of(tmp_path / "model", PreTrainedTokenizerFast(tokenizer_object=tokenizer), model)
    assert local.tokenizer.convert_ids_to_tokens(local.letters) == ["A", "B", "C"]
