"""Sessions against slow and plain truth: every row alone, from its first token on, without a cache."""

from __future__ import annotations

import copy
import random

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlfamily.models import sessions
from rlfamily.models.layouts import packed
from rlfamily.models.layouts.packed import PackedLayout, PackedSession
from rlfamily.models.layouts.padded import PaddedLayout, PaddedSession
from rlfamily.models.policy import Policy

CPU = torch.device("cpu")
WORDS, WIDTH = 32, 12  # of a head
RAGGED = ([[5, 6, 7], [8], [9, 10, 11, 12, 13], [14, 3]], [3, 2, 1, 2])
EVEN = ([[5, 6, 7], [8, 9, 10]], [3, 3])
REPEATED = ([[5, 6], [8], [5, 6]], [1, 2, 2])  # the same prompt, not side by side
GIVEN = pytest.mark.parametrize("given", [RAGGED, EVEN, REPEATED], ids=["ragged", "even", "repeated"])


def model_of(kind, heads, kv_heads):
    """Random weights, wide enough that what a token attends to decides its logits."""
    torch.manual_seed(0)
    model, config = {"llama": (LlamaForCausalLM, LlamaConfig), "qwen2": (Qwen2ForCausalLM, Qwen2Config)}[kind]
    return model(config(vocab_size=WORDS, hidden_size=WIDTH * heads, intermediate_size=64, num_hidden_layers=2,
                        num_attention_heads=heads, num_key_value_heads=kv_heads, initializer_range=0.2)).eval()


MODELS = {"llama": model_of("llama", 4, 4), "gqa": model_of("qwen2", 4, 2), "one kv head": model_of("qwen2", 3, 1)}


def policy_of(world, model, shares_prefixes=True, dtype="fp32"):
    policy = Policy(copy.deepcopy(model), world.policy().tokenizer, dtype, CPU)
    assert isinstance(policy.layout, PackedLayout)
    if not shares_prefixes:
        policy.model.set_attn_implementation("sdpa")
        policy.layout = PaddedLayout()
    return policy


@pytest.fixture(params=[True, False], ids=["shared", "padded"])
def shares_prefixes(request):
    return request.param


class Walk:
    """A session and, by its side, the rows as lists of tokens; every move is checked."""

    def __init__(self, policy, plain, given):
        self.plain, self.draw = plain, random.Random(0)
        self.session = sessions.start(policy, *given)
        assert isinstance(self.session, PackedSession if isinstance(policy.layout, PackedLayout) else PaddedSession)
        self.rows = [prompt for prompt, count in zip(*given, strict=True) for _ in range(count)]
        self.check()

    def step(self, times=1):
        for _ in range(times):
            tokens = [self.draw.randrange(3, WORDS) for _ in self.rows]
            assert self.session.step(torch.tensor(tokens)) is self.session.logits_RV
            self.rows = [[*row, token] for row, token in zip(self.rows, tokens, strict=True)]
            self.check()

    def extend(self, counts):
        """Rows get so many tokens each, in one pass; every token of it is checked, and those left behind are rubbish."""
        width = max(counts)
        ids_RL = torch.tensor([[self.draw.randrange(3, WORDS) for _ in range(width)] for _ in counts])
        found_RLV = self.session.extend(ids_RL, torch.tensor(counts))
        for row, (count, ids_L) in enumerate(zip(counts, ids_RL.tolist(), strict=True)):
            before = self.rows[row]
            self.rows[row] = [*before, *ids_L[:count]]
            if count:
                plain = self.plain(torch.tensor([self.rows[row]]), use_cache=False).logits[0, len(before):]
                torch.testing.assert_close(found_RLV[row, :count], plain, atol=2e-5, rtol=1e-5)
        self.check()

    def select(self, index):
        self.session.select(torch.tensor(index))
        self.rows = [self.rows[place] for place in index]
        self.check()

    def check(self):
        expected_RV = torch.stack([self.plain(torch.tensor([row]), use_cache=False).logits[0, -1] for row in self.rows])
        torch.testing.assert_close(self.session.logits_RV, expected_RV, atol=2e-5, rtol=1e-5)


@pytest.fixture
def walk(world, shares_prefixes):
    with torch.no_grad():
        yield lambda given, name="gqa": Walk(policy_of(world, MODELS[name], shares_prefixes), MODELS[name], given)


def test_what_a_row_attends_to_decides_its_logits():
    """Else every test here would pass whatever the attention did."""
    with torch.no_grad():
        one, other = (MODELS["gqa"](torch.tensor([[first, 6, 7, 8, 9]])).logits[0, -1] for first in (4, 5))
    assert (one - other).abs().max() > 0.1


@pytest.mark.parametrize("capacity", [2, 64])
@pytest.mark.parametrize("name", MODELS)
@GIVEN
def test_rows_grow_as_if_they_were_alone(walk, monkeypatch, given, name, capacity):
    monkeypatch.setattr(packed, "CAPACITY", capacity)
    walk(given, name).step(5)


@pytest.mark.parametrize("index", [
    [0, 1, 2, 3, 4], [0, 1, 2], [3, 4], [0, 4, 2], [4, 3, 2, 1, 0], [1, 0, 4, 2], [1, 1, 1, 0, 4], [0, 0, 1, 2, 3],
    [0, 1, 2, 3, 4, 4, 0, 0], [2, 2, 2, 2, 2, 2, 2], [4],
], ids=["stay", "drop the last", "drop the first", "fill gaps", "reverse", "drop and permute", "fork in place", "shift",
        "fork to more", "fork one to more", "one left"])
@GIVEN
def test_selected_rows_go_on_as_what_they_were(walk, monkeypatch, given, index):
    monkeypatch.setattr(packed, "CAPACITY", 2)
    moves = walk(given)
    moves.select(index)  # before any token
    moves.step(3)
    moves.select([place % len(moves.rows) for place in index])
    moves.step(2)


@pytest.mark.parametrize("seed", range(8))
def test_any_moves(walk, monkeypatch, seed):
    """Rows dropped, moved and forked at random, so that prompts are forgotten and room runs out on the way."""
    monkeypatch.setattr(packed, "CAPACITY", 2)
    moves, choose = walk(RAGGED), random.Random(seed)
    for _ in range(6):
        moves.step(choose.randrange(1, 3))
        moves.select(choose.choices(range(len(moves.rows)), k=choose.randrange(1, 12)))
    moves.step()


@pytest.mark.parametrize("counts", [[3] * 8, [1] * 8, [3, 1, 2, 3, 0, 1, 3, 2], [0, 0, 0, 1, 0, 0, 0, 0]],
                         ids=["even", "one token", "ragged", "one row"])
@pytest.mark.parametrize("name", MODELS)
def test_rows_grow_by_several_tokens_in_one_pass(walk, monkeypatch, name, counts):
    monkeypatch.setattr(packed, "CAPACITY", 2)
    moves = walk(RAGGED, name)
    moves.extend(counts)
    moves.step()
    moves.extend(counts[::-1])
    moves.select([0, 3, 3, 5, 7])
    moves.step(2)
    moves.extend([2, 0, 1, 2, 2])


@pytest.mark.parametrize("seed", range(8))
def test_any_moves_of_rows_that_wait(walk, monkeypatch, seed):
    monkeypatch.setattr(packed, "CAPACITY", 2)
    moves, choose = walk(RAGGED), random.Random(seed)
    for _ in range(5):
        moves.extend([choose.randrange(0, 3) for _ in moves.rows[1:]] + [1])
        moves.step(choose.randrange(0, 2))
        moves.select(choose.choices(range(len(moves.rows)), k=choose.randrange(1, 12)))


def test_gaps_are_forgotten_with_the_rows_that_have_them(world):
    with torch.no_grad():
        session = sessions.start(policy_of(world, MODELS["gqa"]), *RAGGED)
        session.extend(torch.full((8, 2), 4), torch.tensor([2, 1, 2, 2, 2, 2, 2, 2]))
        assert session.gaps_RC is not None
        session.select(torch.tensor([0, 2, 3]))
    assert session.gaps_RC is None


def test_bf16_differs_by_rounding_alone(world, shares_prefixes):
    policy = policy_of(world, MODELS["gqa"], shares_prefixes, "bf16")
    rows = [prompt for prompt, count in zip(*RAGGED, strict=True) for _ in range(count)]
    with torch.no_grad():
        session = sessions.start(policy, *RAGGED)
        for token in (4, 5, 6):
            found_RV = session.step(torch.full((len(rows),), token)).float()
        plain_RV = torch.stack([MODELS["gqa"](torch.tensor([[*row, 4, 5, 6]])).logits[0, -1] for row in rows])
    assert 0 < (found_RV - plain_RV).norm() < 0.03 * plain_RV.norm()


# ---------------------------------------------------------------------------- what a selection costs


@pytest.fixture
def shared(world):
    """RAGGED in a shared session, each row with two tokens."""
    with torch.no_grad():
        session = sessions.start(policy_of(world, MODELS["gqa"]), *RAGGED)
        for _ in range(2):
            session.step(torch.full((8,), 4))
        yield session


def test_prompts_are_forgotten_once_half_are_unused(shared):
    shared.select(torch.tensor([0, 3, 5]))  # of prompts 0, 1 and 2: three of four
    assert shared.prompts.lengths_R.tolist() == [3, 1, 5, 2]
    shared.select(torch.tensor([0, 1]))
    assert shared.prompts.lengths_R.tolist() == [3, 1]
    assert {part.shape for part in shared.prompt_keys} == {(2, 2, WIDTH, 3)}
    assert {part.shape for part in shared.prompt_values} == {(2, 2, 3, WIDTH)}


class Copied(TorchDispatchMode):
    """Inside, notes of how many numbers every part of keys or values is that a selection takes out, puts back or copies."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        name = func.__name__.split(".")[0]
        if name in ("index", "index_select", "cat", "clone", "copy_", "index_put_"):
            copied = args[2] if name == "index_put_" else result
            self.sizes += [copied.numel()] if copied.dim() == 4 else []
        return result


@pytest.mark.parametrize(("index", "moved"), [
    ([0, 1, 2, 3, 4, 5, 6, 7], 0), ([0, 1, 2, 3, 4, 5], 0), ([0, 7, 2, 3, 4, 6], 2), ([1, 0, 2, 3, 4, 5, 6, 7], 2)])
def test_rows_that_stay_in_place_are_not_copied(shared, index, moved):
    heads, length = 2, 2
    before = [part.data_ptr() for part in (*shared.keys, *shared.values)]
    with Copied() as copied:
        shared.select(torch.tensor(index))
    assert [part.data_ptr() for part in (*shared.keys, *shared.values)] == before
    # Keys and values of both layers: what moves is taken out and put back, as many tokens as there are.
    assert copied.sizes == [moved * heads * length * WIDTH] * 8


def test_room_doubles_when_it_runs_out(shared):
    assert shared.keys[0].shape == (8, 2, packed.CAPACITY, WIDTH)
    for _ in range(packed.CAPACITY - 1):
        shared.step(torch.full((8,), 4))
    assert {part.shape for part in (*shared.keys, *shared.values)} == {(8, 2, 2 * packed.CAPACITY, WIDTH)}
