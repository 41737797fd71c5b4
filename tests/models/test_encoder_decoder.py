"""Policies with an encoder: T5 against its own plain passes and its own `generate`, row by row."""

from __future__ import annotations

import copy
import random
from dataclasses import replace

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import T5Config, T5ForConditionalGeneration

from rlfamily.config import build
from rlfamily.errors import UserError
from rlfamily.models import scratch, sessions
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts.encoder_decoder import EncoderDecoderLayout, encoder_inputs
from rlfamily.models.layouts.single import SingleLayout
from rlfamily.models.policy import Policy
from rlfamily.models.scratch import train_tokenizer
from rlfamily.rollout import SamplingParams
from rlfamily.rollout.torch_engine import TorchEngine

CPU = torch.device("cpu")
WORDS, START, END = 40, 0, 2
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13]]
ROWS = Rows([PROMPTS[place] for place in (0, 0, 1, 2, 2, 2)],
            [[14, 15, END], [16], [17, 18, 19, 20, END], [END], [21, 22], [14, 15, END]])


def tokenizer_of(ends: bool):
    """One id a word; with `ends`, an end token behind every text, as T5's tokenizer has it."""
    tokenizer = train_tokenizer(map(str, range(WORDS - 3)))
    if ends:
        tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", END)])
    return tokenizer


def model_of(**changes):
    """Random weights, wide enough that what is read decides what is said."""
    torch.manual_seed(0)
    sizes = {"vocab_size": WORDS, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4}
    return T5ForConditionalGeneration(T5Config(**sizes, feed_forward_proj="gated-gelu", dropout_rate=0.1, eos_token_id=END,
                                               decoder_start_token_id=START, **changes)).eval()


MODEL = model_of()


@pytest.fixture(params=[True, False], ids=["ends", "bare"])
def policy(request):
    return Policy(copy.deepcopy(MODEL), tokenizer_of(request.param), "fp32", CPU)


def plain(policy, prompt, completion):
    """logits_LV behind each token of one row, and before the first, by the model's own forward."""
    ends = [END] if policy.layout.ends else []
    with torch.no_grad():
        return policy.model(input_ids=torch.tensor([[*prompt, *ends]]),
                            decoder_input_ids=torch.tensor([[START, *completion]])).logits[0]


def plain_logp(policy, rows):
    """logp_NT of ROWS, each alone."""
    width = max(map(len, rows.completions))
    found = torch.zeros(len(rows), width)
    for n, (prompt, completion) in enumerate(zip(rows.prompts, rows.completions, strict=True)):
        logp_TV = plain(policy, prompt, completion)[:-1].log_softmax(-1)
        found[n, :len(completion)] = logp_TV.gather(1, torch.tensor(completion)[:, None])[:, 0]
    return found


def test_the_end_of_a_text_is_the_tokenizers_own():
    for ends in (True, False):
        layout = Policy(copy.deepcopy(MODEL), tokenizer_of(ends), "fp32", CPU).layout
        assert isinstance(layout, EncoderDecoderLayout)
        assert layout.ends == ((END,) if ends else ())


def test_what_an_encoder_reads():
    read = encoder_inputs(pad(Rows(PROMPTS, [[]] * 3), 99), (1, 2))
    assert read["input_ids"].tolist() == [[5, 6, 7, 1, 2, 0, 0], [8, 1, 2, 0, 0, 0, 0], [9, 10, 11, 12, 13, 1, 2]]
    assert read["attention_mask"].sum(1).tolist() == [5, 3, 7]


def test_what_a_row_reads_decides_its_log_probs(policy):
    """Else every test here would pass whatever the attention did."""
    one, other = (plain(policy, [first, 6], [7])[-1].log_softmax(-1) for first in (4, 5))
    assert (one - other).abs().max() > 0.1


def test_log_probs_are_those_of_each_row_alone(policy):
    with torch.no_grad():
        found = policy.evaluate(pad(ROWS, 0), 1.0)
    torch.testing.assert_close(found.logp_NT, plain_logp(policy, ROWS), atol=1e-5, rtol=1e-5)
    assert found.entropy_N.min() > 0


@pytest.mark.parametrize(("left", "right", "filler"), [(3, 0, 0), (0, 4, END), (2, 5, 30)])
def test_padding_plays_no_part(policy, left, right, filler):
    rows, widen = pad(ROWS, filler), torch.nn.functional.pad
    wide = replace(rows, prompt_ids_NP=widen(rows.prompt_ids_NP, (left, 0), value=filler),
                   prompt_mask_NP=widen(rows.prompt_mask_NP, (left, 0)),
                   ids_NT=widen(rows.ids_NT, (0, right), value=filler), mask_NT=widen(rows.mask_NT, (0, right)))
    with torch.no_grad():
        found = policy.evaluate(wide, 1.0).logp_NT
    torch.testing.assert_close(found[:, :rows.ids_NT.shape[1]], plain_logp(policy, ROWS), atol=1e-5, rtol=1e-5)
    assert not found[:, rows.ids_NT.shape[1]:].any()


def gradients(policy, rows):
    loss = policy.evaluate(rows, 0.7).logp_NT.square().sum()
    return torch.autograd.grad(loss, list(policy.trainable().values()))


@pytest.mark.parametrize("order", [[0, 1, 2, 3, 4, 5], [5, 0, 3, 2, 1, 4]], ids=["shared", "apart"])
def test_gradients_are_those_of_rows_alone(policy, order):
    tensors = pad(ROWS, 0)
    found = gradients(policy, tensors[torch.tensor(order)])
    policy.layout = SingleLayout(policy.layout.ends)
    for ours, right in zip(found, gradients(policy, tensors), strict=True):
        torch.testing.assert_close(ours, right, atol=1e-4, rtol=1e-4)


def test_each_prompt_is_read_once(policy, monkeypatch):
    seen, real = [], policy.model.encoder.forward
    monkeypatch.setattr(policy.model.encoder, "forward",
                        lambda *args, **named: seen.append(len(named["input_ids"])) or real(*args, **named))
    policy.evaluate(pad(ROWS, 0), 1.0)
    TorchEngine(policy, 100).generate(PROMPTS, SamplingParams(False, 1.0, 12), [0, 10, 20], copies=4)
    assert seen == [3, 3]


def test_cross_attention_reads_each_prompt_once(policy, monkeypatch):
    """Keys and values of prompts are computed for three prompts, never for six rows or at a later step."""
    seen = []
    for block in policy.model.decoder.block:
        key = block.layer[1].EncDecAttention.k
        key.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    policy.evaluate(pad(ROWS, 0), 1.0)
    with torch.no_grad():
        session = sessions.start(policy, PROMPTS, [2, 1, 3])
        session.step(torch.tensor([4, 5, 6, 7, 8, 9]))
        session.select(torch.tensor([0, 5]))
        session.step(torch.tensor([4, 5]))
    assert seen == [3] * 4


def test_a_pass_holds_what_it_is_allowed_to(policy):
    rows = pad(ROWS, 0)
    head, tail = 5 + len(policy.layout.ends), 5
    assert policy.layout.cut(rows, 10_000, 0, 6) == [slice(0, 6)]
    assert policy.layout.cut(rows, head + 2 * tail, 0, 6) == [slice(0, 2), slice(2, 3), slice(3, 5), slice(5, 6)]
    assert policy.layout.cut(rows, 1, 1, 3) == [slice(1, 2), slice(2, 3)]


class Walk:
    """A session and, by its side, the rows as lists of tokens; every move is checked."""

    def __init__(self, policy, copies):
        self.policy, self.draw = policy, random.Random(0)
        self.session = sessions.start(policy, PROMPTS, copies)
        self.rows = [(prompt, []) for prompt, count in zip(PROMPTS, copies, strict=True) for _ in range(count)]
        self.check()

    def step(self):
        tokens = [self.draw.randrange(3, WORDS) for _ in self.rows]
        assert self.session.step(torch.tensor(tokens)) is self.session.logits_RV
        self.rows = [(prompt, [*own, token]) for (prompt, own), token in zip(self.rows, tokens, strict=True)]
        self.check()

    def select(self, index):
        self.session.select(torch.tensor(index))
        self.rows = [self.rows[place] for place in index]
        self.check()

    def check(self):
        right = torch.stack([plain(self.policy, *row)[-1] for row in self.rows])
        torch.testing.assert_close(self.session.logits_RV, right, atol=2e-5, rtol=1e-5)


@pytest.mark.parametrize("alone", [False, True], ids=["shared", "row by row"])
@pytest.mark.parametrize("index", [[0, 1, 2], [0, 4, 2], [4, 3, 2, 1, 0], [1, 1, 1, 0, 4], [0, 1, 2, 3, 4, 4, 0, 0], [4]])
def test_rows_are_dropped_moved_and_forked(policy, index, alone):
    policy.layout = SingleLayout(policy.layout.ends) if alone else policy.layout
    with torch.no_grad():
        moves = Walk(policy, [2, 1, 2])
        moves.select(index)  # before any token
        moves.step()
        moves.step()
        moves.select([place % len(moves.rows) for place in index])
        moves.step()


@pytest.mark.parametrize("seed", range(4))
def test_any_moves(policy, seed):
    choose = random.Random(seed)
    with torch.no_grad():
        moves = Walk(policy, [3, 2, 1])
        for _ in range(5):
            moves.step()
            moves.select(choose.choices(range(len(moves.rows)), k=choose.randrange(1, 10)))


@pytest.mark.parametrize("look", [{}, {"repetition_penalty": 1.3}, {"no_repeat_ngram": 2}], ids=str)
def test_greedy_responses_are_those_of_generate(policy, look):
    """What counts as repeated is what the decoder said: the prompt does not."""
    ends = [END] if policy.layout.ends else []
    params = SamplingParams(True, 1.0, 100, max_new_tokens=12, logps=True, **look)
    drawn = TorchEngine(policy, 2).generate(PROMPTS, params, [0, 1, 2])
    for prompt, row in zip(PROMPTS, drawn, strict=True):
        ids = policy.model.generate(
            torch.tensor([[*prompt, *ends]]), do_sample=False, max_new_tokens=12, num_beams=1,
            repetition_penalty=look.get("repetition_penalty", 1.0), no_repeat_ngram_size=look.get("no_repeat_ngram", 0))[0]
        assert row.ids == ids[1:].tolist()
        if look:
            continue
        right = plain_logp(policy, Rows([prompt], [row.ids]))[0]
        assert row.logps == pytest.approx(right.tolist(), abs=1e-4)


def test_bf16_differs_by_rounding_alone(policy):
    exact, rows = plain_logp(policy, ROWS), pad(ROWS, 0)
    policy.dtype = "bf16"
    forward = policy.evaluate(rows, 1.0)
    assert forward.logp_NT.dtype == torch.float32
    assert 0 < (forward.logp_NT - exact).norm() < 0.03 * exact.norm()
    forward.logp_NT.sum().backward()
    assert {weight.grad.dtype for weight in policy.trainable().values()} == {torch.float32}


# ---------------------------------------------------------------------------- models that are built here


def test_a_stand_in_is_built_as_its_settings_say():
    config = build(["model=t5_tiny_small"]).model
    model = scratch.build_model(config, tokenizer_of(False))
    sizes = model.config
    assert (sizes.d_model, sizes.d_ff, sizes.num_layers, sizes.num_decoder_layers, sizes.num_heads, sizes.d_kv) == (
        64, 128, 2, 2, 4, 16)
    assert (sizes.is_gated_act, sizes.relative_attention_max_distance, sizes.decoder_start_token_id) == (True, 128, START)
    again = scratch.build_model(config, tokenizer_of(False))
    other = scratch.build_model(config.model_copy(update={"seed": 5}), tokenizer_of(False))
    assert torch.equal(model.shared.weight, again.shared.weight) and not torch.equal(model.shared.weight, other.shared.weight)


def test_three_stand_ins_are_three_sizes():
    counts = [sum(weight.numel() for weight in scratch.build_model(
        build([f"model=t5_tiny_{size}"]).model, tokenizer_of(False)).parameters()) for size in ("small", "large", "xl")]
    assert counts[1] > 2 * counts[0] and counts[2] > 2 * counts[1]


@pytest.mark.parametrize(("overrides", "message"), [
    (["rollout.engine=vllm"], "rollout.engine=vllm serves no model with an encoder, and model=t5_tiny_small has one"),
    (["algorithm.reward=reward_model"], "algorithm.reward=reward_model starts from the policy's weights"),
    (["model.kv_heads=2"], "t5 has a key head for each head: use kv_heads=4"),
    (["model.max_positions=16"], "t5 tells the first 16 distances apart one by one"),
    (["model.lora.targets=q_proj"], "there are k, o, q, v, wi_0, wi_1, wo"),
    (["task=helpful_tiny", "algorithm=rloo", "algorithm.warm_start=base", "task.reward.models.helpful.shape.kv_heads=4",
      "task.reward.models.helpful.shape.architecture=t5"], "a reward model reads whole texts"),
    (["model=flan_t5_small", "rollout.engine=vllm"], "rollout.engine=vllm serves no model with an encoder"),
    (["model=flan_t5_small", "model.family=causal"], "size.encoder_layers=8 is not that of family=causal"),
])
def test_what_cannot_be_is_refused_in_one_line(overrides, message):
    with pytest.raises(UserError, match=message) as caught:
        build(["model=t5_tiny_small", *overrides])
    assert "\n" not in str(caught.value)
