"""vLLM in process against the trainer's own model and against the torch engine, on models too small to hide anything."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import CPU, finetuning, gap, machine, perturb, save_policy

from rlfamily.errors import UserError
from rlfamily.models import policy as policies
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.engines import following, frozen
from rlfamily.rollout.settings import Drawing

pytestmark = pytest.mark.vllm

LIMIT = 48
SAMPLED = SamplingParams(greedy=False, temperature=1.0, max_total_tokens=LIMIT, logps=True)
GREEDY = replace(SAMPLED, greedy=True, logps=False)
AGREE = 2e-4  # nats, fp32 on a CPU
PROMPTS = [[5 + i, 7, 9 + i, 11, 13 + 2 * i][:3 + i % 3] for i in range(12)]
SEEDS = [1000 * place for place in range(len(PROMPTS))]
VLLM = Drawing(engine="vllm", importance_cap=None)


def engine(folder, work, name="vllm", limit=LIMIT, dtype="fp32", **vllm):
    return frozen(folder, finetuning(dtype=dtype), CPU, name, machine(work, **vllm), limit)[0]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A Qwen2 whose output layer is its embedding, and a Llama that has one of its own."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tied = save_policy(tmp_path_factory.mktemp("qwen2"))
    shape = AutoModelForCausalLM.from_pretrained(tied).config
    torch.manual_seed(0)
    own = tmp_path_factory.mktemp("llama")
    LlamaForCausalLM(LlamaConfig(
        vocab_size=shape.vocab_size, hidden_size=64, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=128, initializer_range=0.5, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=shape.eos_token_id, pad_token_id=shape.pad_token_id)).save_pretrained(own)
    AutoTokenizer.from_pretrained(tied).save_pretrained(own)
    return {"qwen2, tied": tied, "llama": own}


@pytest.fixture(scope="module", params=["qwen2, tied", "llama"])
def both(request, folders, tmp_path_factory):
    """vLLM, the torch engine, and the policy, all with the same weights."""
    folder, work = folders[request.param], tmp_path_factory.mktemp("work")
    return engine(folder, work), engine(folder, work, "torch"), policies.load(folder, finetuning(), CPU, trainable=False)


def ids(rows):
    return [row.ids for row in rows]


def test_greedy_responses_are_those_of_the_torch_engine(both):
    ours, torch_engine, _ = both
    drawn = ours.generate(PROMPTS, GREEDY, SEEDS, copies=2)
    expected = torch_engine.generate(PROMPTS, GREEDY, SEEDS, copies=2)
    assert ids(drawn) == ids(expected)
    assert [row.truncated for row in drawn] == [row.truncated for row in expected]
    assert len({tuple(row) for row in ids(drawn)}) > 1
    assert all(row.logps == [] for row in drawn)


@pytest.mark.parametrize("temperature", [1.0, 0.7, 1.8])
def test_log_probs_are_those_of_the_trainer(both, temperature):
    ours, _, policy = both
    drawn = ours.generate(PROMPTS, replace(SAMPLED, temperature=temperature), SEEDS, copies=4)
    assert len(drawn) == 4 * len(PROMPTS)
    assert all(len(row.logps) == len(row.ids) for row in drawn)
    assert gap(policy, PROMPTS, drawn, replace(SAMPLED, temperature=temperature)) < AGREE


def test_a_response_depends_on_its_prompt_and_seed_alone(both):
    ours = both[0]
    together = ids(ours.generate(PROMPTS, SAMPLED, SEEDS, copies=3))
    assert ids(ours.generate(PROMPTS, SAMPLED, SEEDS, copies=3)) == together
    assert len({tuple(row) for row in together}) > len(PROMPTS)
    alone = [ids(ours.generate([PROMPTS[b]], SAMPLED, [SEEDS[b] + k]))[0] for b in range(4) for k in range(3)]
    assert alone == together[:12]
    order = list(reversed(range(len(PROMPTS))))
    turned = ids(ours.generate([PROMPTS[b] for b in order], SAMPLED, [SEEDS[b] for b in order], copies=3))
    assert [turned[3 * order.index(b) + k] for b in range(len(PROMPTS)) for k in range(3)] == together
    assert ids(ours.generate(PROMPTS, SAMPLED, [seed + 500 for seed in SEEDS], copies=3)) != together


def law(policy, prompt, temperature, top_k=0, top_p=1.0):
    """Probability of every pair of first tokens, by plain forwards."""
    from rlfamily.rollout.processors import likeliest

    def next_V(ids):
        with torch.no_grad():
            logits_1V = policy.model(torch.tensor([ids]), use_cache=False).logits[:, -1] / temperature
        return likeliest(logits_1V, top_k, top_p).softmax(-1)[0].double().tolist()

    first = next_V(prompt)
    return {(a, b): p * q for a, p in enumerate(first) if p > 1e-3 and a != policy.eos_id
            for b, q in enumerate(next_V([*prompt, a]))}


@pytest.mark.parametrize("cut", [{}, {"temperature": 0.6}, {"top_k": 3}, {"top_p": 0.7}, {"top_k": 5, "top_p": 0.8}])
def test_both_engines_draw_from_the_same_distribution(both, cut):
    """4000 draws of two tokens each, against the exact law: every pair within 5 standard errors."""
    draws, prompt = 4000, PROMPTS[0]
    params = replace(SAMPLED, max_total_tokens=len(prompt) + 2, logps=False, **cut)
    exact = law(both[2], prompt, **({"temperature": 1.0} | cut))
    for one in both[:2]:
        counts = Counter(tuple(row.ids) for row in one.generate([prompt], params, [77], copies=draws))
        checked = 0
        for pair, p in exact.items():
            if p * draws >= 5:
                checked += 1
                assert abs(counts[pair] / draws - p) < 5 * math.sqrt(p * (1 - p) / draws), (type(one), pair)
            elif p == 0:
                assert counts[pair] == 0
        assert checked >= 3


def test_log_probs_of_a_cut_distribution_are_of_what_is_left(both):
    for cut in ({"top_k": 3}, {"top_p": 0.7}):
        rows = both[0].generate(PROMPTS[:4], replace(SAMPLED, max_total_tokens=6, **cut), SEEDS[:4], copies=8)
        twins = {tuple(row.ids): row.logps for row in both[1].generate(
            PROMPTS[:4], replace(SAMPLED, max_total_tokens=6, **cut), SEEDS[:4], copies=200)}
        shared = [row for row in rows if tuple(row.ids) in twins]
        assert shared
        for row in shared:
            assert row.logps == pytest.approx(twins[tuple(row.ids)], abs=AGREE)


@pytest.mark.parametrize("penalty", [1.3, 0.7])
def test_what_was_said_is_penalised_in_both_alike_the_prompt_included(both, penalty):
    greedy = replace(GREEDY, repetition_penalty=penalty, logps=True)
    ours, other = (one.generate(PROMPTS, greedy, SEEDS) for one in both[:2])
    assert ids(ours) == ids(other) != ids(both[0].generate(PROMPTS, GREEDY, SEEDS))
    for row, twin in zip(ours, other, strict=True):
        assert row.logps == pytest.approx(twin.logps, abs=AGREE)
    first = replace(greedy, max_new_tokens=1)  # said so far is the prompt alone
    assert [row.logps for row in both[0].generate(PROMPTS, first, SEEDS)] != [
        row.logps for row in both[0].generate(PROMPTS, replace(first, repetition_penalty=1.0), SEEDS)]


def test_ends_of_responses(both):
    ours, torch_engine, policy = both
    drawn = ours.generate(PROMPTS, SAMPLED, SEEDS, copies=4)
    for row, prompt in zip(drawn, [prompt for prompt in PROMPTS for _ in range(4)], strict=True):
        assert row.truncated == (row.ids[-1] != policy.eos_id)
        assert policy.eos_id not in row.ids[:-1]
        assert len(row.ids) == LIMIT - len(prompt) or not row.truncated
    assert {row.truncated for row in drawn} == {True, False}
    cut = ours.generate(PROMPTS, replace(SAMPLED, max_new_tokens=9), SEEDS, copies=4)
    assert [(row.ids, row.truncated) for row in cut] == [
        (row.ids[:9], row.truncated or len(row.ids) > 9) for row in drawn]
    free = torch_engine.generate(PROMPTS, GREEDY, SEEDS)
    stop = Counter(token for row in free for token in row.ids[1:]).most_common(1)[0][0]
    cut = replace(GREEDY, stop_ids=(stop,))
    for params in (cut, replace(cut, min_new_tokens=5)):
        theirs = torch_engine.generate(PROMPTS, params, SEEDS)
        assert ids(ours.generate(PROMPTS, params, SEEDS)) == ids(theirs) != ids(free)
    held = ours.generate(PROMPTS, replace(SAMPLED, min_new_tokens=20), SEEDS, copies=4)
    assert all(policy.eos_id not in row.ids[:20] for row in held)
    assert any(policy.eos_id in row.ids[:20] for row in drawn)


def test_no_prompts_and_prompts_without_room(both):
    assert both[0].generate([], SAMPLED, []) == []
    with pytest.raises(UserError, match="a prompt of 48 tokens leaves no room below the limit of 48"):
        both[0].generate([[5] * LIMIT], SAMPLED, [0])


def test_bf16_agrees_within_its_rounding(tmp_path):
    """Tokens within 0.2 nats, KL below the default rollout.mismatch_limit; fp32 is a thousand times closer."""
    from rlfamily.config import build

    folder = save_policy(tmp_path / "model", initializer_range=0.1)
    ours = engine(folder, tmp_path, dtype="bf16")
    policy = policies.load(folder, finetuning(dtype="bf16"), CPU, trainable=False)
    drawn = ours.generate(PROMPTS, SAMPLED, SEEDS, copies=8)
    found = gap(policy, PROMPTS, drawn, SAMPLED)
    print(f"bf16 gap {found:.4f}")
    assert 1e-3 < found < 0.2
    assert found ** 2 / 2 < build().rollout.mismatch_limit * 2  # KL is about half the mean square


# ---------------------------------------------------------------------------- hand-over of weights

LONG = [[3 + (7 * i + 3 * j) % 40 for j in range(300)] for i in range(3)]  # of several blocks: vLLM caches whole ones
LONG_DRAWS = replace(SAMPLED, max_total_tokens=340)


@pytest.fixture(scope="module")
def roomy(tmp_path_factory):
    """A model with a longer context."""
    return save_policy(tmp_path_factory.mktemp("roomy"), max_positions=512)


def followed(folder, work, finetune, **settings):
    policy = policies.load(folder, finetuning(finetune=finetune), CPU, trainable=True)
    return policy, following(policy, folder, VLLM, machine(work, **settings), 340)


def gap_now(ours, policy):
    return gap(policy, LONG, ours.generate(LONG, LONG_DRAWS, [5, 50, 500], copies=2), LONG_DRAWS)


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_after_every_hand_over_engine_and_trainer_agree(roomy, tmp_path, finetune):
    policy, ours = followed(roomy, tmp_path, finetune)
    ours.refresh()
    assert gap_now(ours, policy) < AGREE
    for _ in range(3):
        perturb(policy, 0.05)
        assert gap_now(ours, policy) > 0.05
        ours.refresh()
        assert gap_now(ours, policy) < AGREE
    assert not list(tmp_path.glob("tmp*"))
    if finetune == "lora":
        assert ours.llm.llm_engine.list_loras() == {ours.version} == {4}


def test_an_engine_that_sleeps_wakes_for_every_use(roomy, tmp_path, monkeypatch):
    """CPUs cannot sleep; what is tested is when it is asked to."""
    policy, ours = followed(roomy, tmp_path, "full")
    calls = []
    monkeypatch.setattr(ours.llm, "wake_up", lambda: calls.append("wake"))
    monkeypatch.setattr(ours.llm, "sleep", lambda level: calls.append(f"sleep {level}"))
    monkeypatch.setattr(ours, "settings", ours.settings.model_copy(update={"sleep": True}))
    ours.refresh()
    assert gap_now(ours, policy) < AGREE
    assert calls == ["wake", "sleep 1"] * 2


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_the_check_finds_a_hand_over_that_keeps_old_prefixes(roomy, tmp_path, monkeypatch, finetune):
    """A new adapter has a cache of its own; the same number with new weights has not."""
    policy, ours = followed(roomy, tmp_path, finetune)
    ours.refresh()
    monkeypatch.setattr(ours.llm, "reset_prefix_cache", lambda: None)
    assert gap_now(ours, policy) < AGREE
    perturb(policy, 0.05)
    ours.refresh()
    assert (gap_now(ours, policy) > 0.01) == (finetune == "full")


def test_the_check_finds_an_output_layer_left_behind(roomy, tmp_path, monkeypatch):
    from rlfamily.rollout import vllm_engine

    policy, ours = followed(roomy, tmp_path, "full")
    monkeypatch.setattr(vllm_engine, "tied", lambda policy, weights: weights)
    perturb(policy, 0.05)
    ours.refresh()
    assert gap_now(ours, policy) > 0.01


# ---------------------------------------------------------------------------- what cannot start


def refused(folder, work, limit=LIMIT, **vllm):
    with pytest.raises(UserError) as caught:
        engine(folder, work, limit=limit, **vllm)
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("vllm: cannot start with ")
    return line


def test_a_context_longer_than_the_model_allows(folders, tmp_path):
    assert "the model's context is shorter than task.max_tokens_rollout" in refused(folders["llama"], tmp_path, 4096)


def test_a_cache_too_small_for_one_response(tmp_path):
    folder = save_policy(tmp_path / "model", max_positions=8192)
    assert "raise hardware.vllm.memory_share (GPU) or hardware.vllm.kv_cache_mib" in refused(
        folder, tmp_path, 8192, kv_cache_mib=1)


def test_more_memory_than_there_is(folders, tmp_path):
    line = refused(folders["llama"], tmp_path, kv_cache_mib=0, memory_share=1.0)
    assert "not enough free memory: lower hardware.vllm.memory_share" in line


def test_a_model_class_that_vllm_lacks(tmp_path):
    from transformers import CTRLConfig, CTRLLMHeadModel

    CTRLLMHeadModel(CTRLConfig(vocab_size=60, n_embd=64, n_head=2, n_layer=1, dff=64, n_positions=128)).save_pretrained(tmp_path / "model")
    save_policy(tmp_path / "words")
    for file in Path(tmp_path / "words").glob("tokenizer*"):
        file.rename(tmp_path / "model" / file.name)
    assert "vLLM has no such model class: use rollout.engine=torch" in refused(tmp_path / "model", tmp_path)
