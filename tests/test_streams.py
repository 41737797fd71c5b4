"""Streams of different names are different, in all their bits."""

from __future__ import annotations

import hashlib

import torch
from hypothesis import given
from hypothesis import strategies as some

from rlfamily.rollout.torch_growth import _uniforms
from rlfamily.streams import held_out_seed, rollout_seed, stream_seed

PARTS = some.lists(some.text("a/\\\"[],", max_size=4), min_size=1, max_size=3)


@given(PARTS, PARTS)
def test_names_do_not_meet(one, other):
    assert (stream_seed(*one) == stream_seed(*other)) == (one == other)


def test_a_slash_belongs_to_its_part():
    assert len({stream_seed("a", "b/c"), stream_seed("a/b", "c"), stream_seed("a", "b", "c")}) == 3
    assert rollout_seed(0, 1, "2/x") != rollout_seed(0, 1, "2") != held_out_seed("2")


def test_clear_names_have_the_streams_they_always_had():
    digest = hashlib.sha256(b"3/rollout/1/use 7 8 :").digest()
    assert rollout_seed(3, 1, "use 7 8 :") == int.from_bytes(digest[:8], "big") >> 1


def test_any_text_is_a_name():
    assert held_out_seed("\ud800") != held_out_seed("")


def test_all_bits_of_a_seed_count_in_drawing():
    seeds = [5, 5 + 2**32, 5 + 2**62, 2**32 * 5, 2**32 * 5 + 5, 5 * 2**32 + 7, 7 * 2**32 + 5, 2**63 - 1]
    uniforms_NT = _uniforms(seeds, 50)
    assert len({tuple(row) for row in uniforms_NT.tolist()}) == len(seeds)
    assert ((uniforms_NT >= 0) & (uniforms_NT < 1)).all()
    assert torch.corrcoef(_uniforms([5 + place * 2**32 for place in range(8)], 4000)).triu(1).abs().max() < 0.08
    right_T = torch.rand(50, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert torch.equal(uniforms_NT[0], right_T)


def test_what_is_turned_is_as_even_as_what_is_not():
    drawn = _uniforms([stream_seed("even", number) for number in range(200)], 200).flatten()
    counts = drawn.mul(20).long().bincount(minlength=20)
    assert (counts - 2000).abs().max() < 250
