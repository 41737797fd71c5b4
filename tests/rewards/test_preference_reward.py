"""The weighted sum of learned scores: what each model is given, rounding, weights, parts, and refusals."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
import yaml
from published import save_bart, save_gpt2
from pydantic import ValidationError

from rlfamily import composing, rewards
from rlfamily.errors import UserError
from rlfamily.examples import Example
from rlfamily.models import classifier, reward_model
from rlfamily.rewards import preference

CPU = torch.device("cpu")
TASK: Any = types.SimpleNamespace(score=lambda response, meta: {"gold": float(len(response))})
EXAMPLES = [Example("a", "w1 w2", {}), Example("b", "ignored", {"context": "w3 w4 w5"})]
RESPONSES = [" w6 w7 ", "w8"]


def settings(decimals: int | None = None, engine: str = "torch", **components: tuple[float, str, int]) -> preference.Config:
    return preference.Config.model_validate({
        "kind": "preference", "models": {}, "max_tokens": 64, "decimals": decimals,
        "components": {name: {"weight": weight, "convention": convention, "logit": logit, "engine": engine}
                       for name, (weight, convention, logit) in components.items()}})


def test_the_order_of_texts_of_each_convention():
    tokenizer: Any = types.SimpleNamespace(bos_token="<b>", eos_token="<e>")

    def arranged(convention: Any) -> Any:
        return preference.arrange(convention, ["post"], ["answer"], tokenizer)

    assert arranged("pair") == (["post"], ["answer"])
    assert arranged("response_then_context") == (["answer"], ["post"])
    assert arranged("response_bos_context") == (["answer <b> post"], None)
    assert arranged("continuation") == (["post answer<e>"], None)


def test_a_chat_is_written_by_the_models_own_template_and_begins_once(tmp_path):
    tokenizer = classifier.load(save_gpt2(tmp_path), CPU).tokenizer
    tokenizer.chat_template = "{{ bos_token }}{% for m in messages %} {{ m.role }} {{ m.content }}{% endfor %}"
    assert preference.arrange("chat", ["w1"], ["w2"], tokenizer) == ([" user w1 assistant w2"], None)


def test_a_reward_guides_without_what_has_no_weight():
    source = {"kind": "hub", "path": "somebody/model", "revision": "main"}
    config = preference.Config.model_validate(settings(rm=(1.0, "pair", 0), gold_rm=(0.0, "pair", 0)).model_dump() | {
        "models": {"rm": source, "gold_rm": source}})
    assert list(config.guiding().components) == list(config.guiding().models) == ["rm"]
    assert config.guiding().unsourced() == settings(rm=(1.0, "pair", 0))
    other = settings(a=(0.5, "pair", 0), b=(-0.5, "pair", 0))
    assert other.guiding() == other
    gold = rewards.get("gold").Config(kind="gold", models={})
    assert gold.guiding() == gold


def test_published_models_are_called_as_their_authors_do(tmp_path):
    folders = {"helpful": save_gpt2(tmp_path / "g"), "summary": save_gpt2(tmp_path / "s"), "faithful": save_bart(tmp_path / "b")}
    reward = rewards.load(
        settings(helpful=(0.5, "pair", 0), summary=(0.3, "response_bos_context", 0),
                 faithful=(0.2, "response_then_context", 1)).unsourced(), TASK.score, folders, CPU, 2)
    got = reward.score(EXAMPLES, RESPONSES)
    gpt2, bart = classifier.load(folders["helpful"], CPU), classifier.load(folders["faithful"], CPU)

    def logit(scorer: Any, *texts: str) -> list[float]:
        with torch.no_grad():
            return scorer.model(**scorer.tokenizer(*texts, return_tensors="pt")).logits[0].tolist()

    for parts, context, response in zip(got, ["w1 w2", "w3 w4 w5"], ["w6 w7", "w8"], strict=True):
        expected = {"helpful": logit(gpt2, context, response)[0],
                    "summary": logit(gpt2, f"{response} <|endoftext|> {context}")[0],
                    "faithful": logit(bart, response, context)[1]}
        assert {name: parts.parts[name] for name in expected} == pytest.approx(expected, abs=1e-5)
        assert parts.reward == pytest.approx(
            0.5 * expected["helpful"] + 0.3 * expected["summary"] + 0.2 * expected["faithful"], abs=1e-5)
    assert [parts.parts["gold"] for parts in got] == [7.0, 2.0]  # of the response as drawn


def test_scores_are_rounded_before_they_are_weighed(tmp_path):
    folders = {"helpful": save_gpt2(tmp_path)}
    raw = rewards.load(settings(helpful=(0.5, "pair", 0)).unsourced(), TASK.score, folders, CPU, 2).score(EXAMPLES, RESPONSES)
    cut = rewards.load(settings(1, helpful=(0.5, "pair", 0)).unsourced(), TASK.score, folders, CPU, 2).score(EXAMPLES, RESPONSES)
    for fine, coarse in zip(raw, cut, strict=True):
        assert coarse.parts["helpful"] == round(fine.parts["helpful"], 1) != fine.parts["helpful"]
        assert coarse.reward == 0.5 * coarse.parts["helpful"]


def test_a_model_trained_here_reads_prompt_and_response_with_its_end(world, tmp_path):
    torch.manual_seed(0)
    scorer = reward_model.load(world.base, world.finetuning, CPU, trainable=False)
    scorer.bias = 0.25
    scorer.save(tmp_path)
    reward = rewards.load(settings(only=(2.0, "ids", 0)).unsourced(), TASK.score, {"only": tmp_path}, CPU, 8)
    prompts = ["use 1 2 3 to make 6 :", "use 4 5 9 to make 18 :"]
    got = reward.score([Example("a", prompts[0], {}), Example("b", prompts[1], {})], ["1 + 2", "so 4"])
    expected = scorer.score_texts(prompts, ["1 + 2", "so 4"], 8)
    assert [parts.parts["only"] for parts in got] == pytest.approx(expected, abs=1e-5)
    assert [parts.reward for parts in got] == pytest.approx([2 * value for value in expected], abs=1e-5)
    with pytest.raises(UserError, match="so it was not trained here: give the convention of a published model"):
        rewards.load(settings(only=(2.0, "ids", 0)).unsourced(), TASK.score, {"only": world.base}, CPU, 8)


@pytest.mark.parametrize("convention", ["pair", "response_then_context", "response_bos_context"])
@pytest.mark.parametrize("engine", ["torch", "vllm"])
def test_a_limit_takes_the_beginning_of_the_context_and_keeps_ends(tmp_path, convention, engine):
    folder = save_bart(tmp_path) if convention == "response_then_context" else save_gpt2(tmp_path)
    model = classifier.load(folder, CPU)

    def pool(rows):
        with torch.no_grad():
            return [model.model(torch.tensor([row])).logits[0].tolist() for row in rows]

    def score(limit, context, response):
        config = settings(engine=engine, one=(1.0, convention, 0)).model_copy(update={"max_tokens": limit})
        vllm = rewards.ClassifierEngine(lambda folder, longest: pool, lambda name, text: None)
        (found,) = rewards.load(config.unsourced(), TASK.score, {"one": folder}, CPU, 2, vllm).score(
            [Example("a", context, {})], [response], [True])
        return found.parts["one"], found.parts["cut"]

    context, response = "w1 w2 w3 w4 w5", "w6 w7 w8"
    texts, pairs = preference.arrange(convention, [context], [response], model.tokenizer)
    whole = len(model.tokenizer(texts[0], None if pairs is None else pairs[0])["input_ids"])
    assert score(whole, context, response) == (pytest.approx(score(64, context, response)[0], abs=1e-6), 0.0)
    for gone in (1, 3):
        shorter = " ".join(context.split()[gone:])
        assert score(whole - gone, context, response) == (pytest.approx(score(64, shorter, response)[0], abs=1e-6), 1.0)
    assert score(whole - 6, context, response)[0] == pytest.approx(score(64, "", "w7 w8")[0], abs=1e-6)


def test_ids_are_read_with_their_end_and_cut_from_the_left(world, tmp_path):
    torch.manual_seed(0)
    scorer = reward_model.load(world.base, world.finetuning, CPU, trainable=False)
    scorer.save(tmp_path)
    prompt, text = "use 1 2 3 to make 6 :", "1 + 2"

    def score(limit, *truncated):
        config = settings(only=(1.0, "ids", 0)).model_copy(update={"max_tokens": limit})
        reward = rewards.load(config.unsourced(), TASK.score, {"only": tmp_path}, CPU, 8)
        return [(one.reward, one.parts["cut"]) for one in reward.score([Example("a", prompt, {})] * 2, [text] * 2, truncated)]

    ended, cut = score(64, False, True)
    assert ended[0] == pytest.approx(scorer.score_texts([prompt], [text], 1)[0], abs=1e-5)
    assert cut[0] == pytest.approx(ended[0], abs=1e-5)  # it learned whole texts: without an end it would say what nothing taught it
    assert ended[0] != pytest.approx(scorer.score_texts([prompt], [text], 1, [True])[0], abs=1e-5)
    assert ended[1] == 0.0
    shorter = scorer.score_texts(["to make 6 :"], [text], 1)[0]
    assert score(8, False, False)[0] == (pytest.approx(shorter, abs=1e-5), 1.0)


def test_a_logit_that_the_model_lacks_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"task.reward.components.a.logit=1: the model has 1 logits"):
        rewards.load(settings(a=(1.0, "pair", 1)).unsourced(), TASK.score, {"a": save_gpt2(tmp_path)}, CPU, 8)


def test_models_and_components_have_the_same_names():
    content = yaml.safe_load((composing.CONF / "task" / "helpful.yaml").read_text())["reward"]
    preference.Config.model_validate(content)
    content["components"]["kind_of"] = content["components"].pop("helpful")
    with pytest.raises(ValidationError, match="components are harmless, kind_of but models are harmless, helpful"):
        preference.Config.model_validate(content)


def test_what_an_engine_scores_and_what_it_leaves_to_transformers(tmp_path):
    """An engine in place of the model gets the same ids; one that does not know the model is not silent."""
    folders, notes, opened = {"known": save_gpt2(tmp_path / "g"), "unknown": save_bart(tmp_path / "b")}, [], {}
    gpt2 = classifier.load(folders["known"], CPU)

    def pool(rows):
        with torch.no_grad():
            return [gpt2.model(torch.tensor([row])).logits[0].tolist() for row in rows]

    def opener(folder, longest):
        opened[folder] = longest
        return pool if folder == folders["known"] else "no such class"

    components = {"known": (0.5, "response_bos_context", 0), "unknown": (0.5, "pair", 1)}
    vllm = rewards.ClassifierEngine(opener, lambda name, text: notes.append((name, text)))
    got = rewards.load(settings(engine="vllm", **components).unsourced(), TASK.score, folders, CPU, 2, vllm).score(EXAMPLES, RESPONSES)
    expected = rewards.load(settings(**components).unsourced(), TASK.score, folders, CPU, 2).score(EXAMPLES, RESPONSES)
    assert [one.parts for one in got] == [pytest.approx(one.parts, abs=1e-5) for one in expected]
    assert notes == [("unknown", "run by transformers, not by vllm: no such class")]
    assert set(opened.values()) == {64}
    with pytest.raises(UserError, match="the model has 1 logits"):
        rewards.load(settings(engine="vllm", known=(1.0, "pair", 1)).unsourced(), TASK.score, folders, CPU, 8, vllm)
