"""Value functions: V of every state against a plain pass of each prefix, whatever the layout, and how they come and go."""

from __future__ import annotations

import json
import math
import random

import pytest
import torch
from architectures import tiny_config
from transformers import AutoConfig, AutoModelForSequenceClassification

from rlfamily.errors import UserError
from rlfamily.models import reward_model, sessions, value
from rlfamily.models.batching import Rows, pad
from rlfamily.models.layouts import check, layout_of
from rlfamily.models.layouts.packed import PackedLayout
from rlfamily.models.layouts.padded import PaddedLayout
from rlfamily.models.layouts.single import SingleLayout

CPU = torch.device("cpu")
ROWS = Rows([[5, 6, 7], [5, 6, 7], [8], [9, 10], [9, 10]], [[11, 2], [12, 13, 14, 2], [2], [], [4, 4, 4]])
ARCHITECTURES = ["gpt2", "gpt_neox", "llama", "mistral", "mixtral", "qwen2", "qwen3", "gemma", "opt", "phi3", "bloom", "olmo2"]


@pytest.fixture
def fresh(world):
    return value.load(world.base, "fp32", CPU, trainable=True, seed=0)


@pytest.fixture(scope="module")
def scorer(world, tmp_path_factory):
    """A reward model with a bias, and its folder."""
    torch.manual_seed(0)
    model = reward_model.load(world.base, world.finetuning, CPU, trainable=True)
    model.bias = 0.75
    folder = tmp_path_factory.mktemp("reward")
    model.save(folder)
    return model, folder


def laid_out(found, layout):
    if not isinstance(layout, PackedLayout):
        found.model.set_attn_implementation("sdpa")
    found.layout = layout
    return found


def plainly(found, rows):
    """V of each state of each row: its prefix alone through the backbone, and the head."""
    head = found.classifier.score
    with torch.no_grad():
        return [[float(head(found.classifier.base_model(torch.tensor([[*prompt, *ids[:h]]])).last_hidden_state[0, -1])) - found.bias
                 for h in range(len(ids) + 1)] for prompt, ids in zip(rows.prompts, rows.completions, strict=True)]


def near(found, expected, tolerance=2e-5):
    assert [len(row) for row in found] == [len(row) for row in expected]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours == pytest.approx(theirs, abs=tolerance)


@pytest.mark.parametrize("layout", [PackedLayout(), PaddedLayout(), SingleLayout()], ids=lambda layout: type(layout).__name__)
def test_every_state_has_its_own_value(world, scorer, layout):
    found = laid_out(value.load(scorer[1], "fp32", CPU, trainable=False), layout)
    expected = plainly(found, ROWS)
    assert len({round(number, 3) for row in expected for number in row}) > 8
    near(found.score_states(ROWS, 1000), expected)
    near([[one] for one in found.score_rows(ROWS, 1)], [[row[-1]] for row in expected])
    with torch.no_grad():
        values_NS = found.evaluate(pad(ROWS, found.pad_id), 1.0).values_NS
        assert found.evaluate(pad(ROWS, found.pad_id), 1.0).entropy_N.tolist() == [0.0] * 5
    assert values_NS.shape == (5, 5) and values_NS[3].tolist()[1:] == [0.0] * 4 and values_NS[0, 3:].tolist() == [0.0] * 2
    assert found.score_rows(Rows([], []), 10) == []


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_any_architecture(world, name):
    torch.manual_seed(0)
    config = tiny_config(name)
    config.num_labels = 1
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for weight in classifier.parameters():
            if weight.dim() > 1 and 0 < weight.std() < 0.1:
                weight.mul_(0.2 / weight.std())
    found = value.ValueFunction(classifier, world.policy().tokenizer, "fp32", CPU, 0.5)
    near(found.score_states(ROWS, 60), plainly(found, ROWS), 2e-4)


@pytest.mark.parametrize("layout", [PackedLayout(), PaddedLayout()], ids=lambda layout: type(layout).__name__)
def test_a_session_values_what_each_row_is_so_far(scorer, layout):
    found, draw = laid_out(value.load(scorer[1], "fp32", CPU, trainable=False), layout), random.Random(0)
    with torch.no_grad():
        session = sessions.start(found, [[5, 6, 7], [8]], [2, 1])
        rows = [[5, 6, 7], [5, 6, 7], [8]]
        for places in ([0, 1, 2], [2, 0], [1, 1, 0]):
            session.select(torch.tensor(places))
            tokens = [draw.randrange(3, 20) for _ in places]
            rows = [[*rows[place], token] for place, token in zip(places, tokens, strict=True)]
            session.step(torch.tensor(tokens))
            expected = [row[0] for row in plainly(found, Rows(rows, [[]] * len(rows)))]
            assert session.logits_RV[:, 0].tolist() == pytest.approx(expected, abs=2e-5)


def test_it_starts_from_a_reward_model_with_the_same_head(scorer):
    model, folder = scorer
    found = value.load(folder, "fp32", CPU, trainable=True)
    texts = ["1 + 2 = 3", "so 4"]
    rows = reward_model.encode_texts(model.tokenizer, ["use 1 2 3 to make 6 :"] * 2, texts)
    assert found.score_rows(rows, 100) == pytest.approx(model.score_texts(["use 1 2 3 to make 6 :"] * 2, texts, 2), abs=1e-5)


def test_it_is_a_reward_model_again_when_saved(world, scorer, tmp_path):
    found = value.load(scorer[1], "fp32", CPU, trainable=True)
    with torch.no_grad():
        for weight in found.trainable().values():
            weight.add_(0.01)
    found.save(tmp_path)
    again, other = value.load(tmp_path, "fp32", CPU, trainable=False), reward_model.load(tmp_path, world.finetuning, CPU, False)
    near(again.score_states(ROWS, 1000), found.score_states(ROWS, 1000), 1e-6)
    whole = Rows(ROWS.prompts[:3], ROWS.completions[:3])
    assert found.score_rows(whole, 1000) == pytest.approx([one - 0.75 for one in other.score_rows(whole, 4)], abs=1e-5)
    assert other.bias == 0.75 and not again.trainable() and not list(tmp_path.glob("*.bin"))


def test_a_fresh_one_has_the_policys_backbone_and_a_head_from_the_seed(world, fresh):
    base = world.policy().model.state_dict()
    own = fresh.classifier.state_dict()
    shared = [name for name in own if name.startswith("model.")]
    assert len(shared) > 10 and all(torch.equal(own[name], base[name]) for name in shared)
    hidden = world.config.model.hidden_size
    heads = [value.load(world.base, "fp32", CPU, False, seed).classifier.score.weight for seed in range(30)]
    assert torch.equal(heads[0], own["score.weight"]) and not torch.equal(heads[0], heads[1])
    assert float(torch.cat(heads).std()) == pytest.approx(1 / math.sqrt(hidden + 1), rel=0.1)


def test_its_weights_are_the_backbone_and_the_head_and_no_more(world, fresh):
    words, hidden = fresh.model.get_input_embeddings().weight.shape
    of_words = [name for name, weight in fresh.model.named_parameters() if words in weight.shape]
    assert of_words == ["model.embed_tokens.weight"]
    trained = fresh.trainable()
    assert trained["lm_head.weight"] is fresh.classifier.score.weight and trained["lm_head.weight"].shape == (1, hidden)
    assert set(fresh.classifier.state_dict()) == {name.replace("lm_head", "score") for name in trained}


def test_gradients_reach_every_weight_and_are_those_of_plain_passes(fresh):
    weights = list(fresh.trainable().values())
    rows = pad(ROWS, fresh.pad_id)
    slopes = torch.autograd.grad(fresh.evaluate(rows, 1.0).values_NS.square().sum(), weights)
    plain = sum(fresh.model(torch.tensor([[*prompt, *ids[:h]]])).logits[0, -1, 0].square()
                for prompt, ids in zip(ROWS.prompts, ROWS.completions, strict=True) for h in range(len(ids) + 1))
    for ours, theirs in zip(slopes, torch.autograd.grad(plain, weights), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-3)


def test_bf16_rounds_states_and_not_values(scorer):
    found, exact = (value.load(scorer[1], dtype, CPU, trainable=False) for dtype in ("bf16", "fp32"))
    numbers, right = ([one for row in each.score_states(ROWS, 1000) for one in row] for each in (found, exact))
    assert numbers != right and numbers == pytest.approx(right, abs=0.05)
    assert any(float(torch.tensor(one).bfloat16()) != one for one in numbers)


# ---------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(("name", "changes"), [("gemma2", {"final_logit_softcapping": 0.1})])
def test_a_model_that_changes_its_heads_number_is_refused(world, name, changes):
    config = tiny_config(name, num_labels=1, **changes)
    classifier = AutoModelForSequenceClassification.from_config(config).eval()
    torch.nn.init.normal_(classifier.score.weight)
    with pytest.raises(UserError, match="value function: Gemma2ForCausalLM changes what its output layer gives") as error:
        value.ValueFunction(classifier, world.policy().tokenizer, "fp32", CPU, 0.0)
    assert "\n" not in str(error.value)


def test_models_with_an_encoder_are_refused(t5_world):
    with pytest.raises(UserError, match="reads prompts and responses apart"):
        value.load(t5_world.base, "fp32", CPU, trainable=True, seed=0)


def test_a_model_whose_head_reads_more_than_a_state_is_refused(world, tmp_path):
    AutoModelForSequenceClassification.from_config(tiny_config("roberta", num_labels=1)).save_pretrained(tmp_path)
    world.policy().tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="RobertaForSequenceClassification has no linear head that every state can go through"):
        value.load(tmp_path, "fp32", CPU, trainable=False)


def test_without_a_seed_there_must_be_a_head(world):
    with pytest.raises(UserError, match="is a language model without a value head: train one first"):
        value.load(world.base, "fp32", CPU, trainable=False)


@pytest.mark.parametrize("labels", [1, 3])
def test_a_classifier_from_the_hub_has_one_label(world, tmp_path, labels):
    config = AutoConfig.from_pretrained(world.base)
    config.num_labels = labels
    model = AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path)
    world.policy().tokenizer.save_pretrained(tmp_path)
    if labels == 1:
        found = value.load(tmp_path, "fp32", CPU, trainable=False)
        assert torch.equal(found.classifier.score.weight, model.score.weight) and found.bias == 0.0
    else:
        with pytest.raises(UserError, match="has 3 labels, and a value is one number"):
            value.load(tmp_path, "fp32", CPU, trainable=False)


def test_an_empty_folder_is_refused_in_one_line(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({}))
    with pytest.raises(UserError) as error:
        value.load(tmp_path, "fp32", CPU, trainable=False)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["gpt2", "gptj"])
def test_a_row_may_fill_the_positions(world, name):
    """One packed, one padded, both with a table of positions."""
    torch.manual_seed(0)
    config = tiny_config(name, num_labels=1)
    found = value.ValueFunction(AutoModelForSequenceClassification.from_config(config).eval(), world.policy().tokenizer, "fp32", CPU, 0.0)
    room = found.positions - (not isinstance(found.layout, PackedLayout))
    rows = Rows([[5] * (room - 3)], [[8, 9, 2]])
    near(found.score_states(rows, 1000), plainly(found, rows), 2e-4)
    with pytest.raises(UserError, match="has room for"):
        found.score_rows(Rows([[5] * (room - 2)], [[8, 9, 2]]), 1000)


def test_rows_beyond_its_positions_are_refused(world, fresh):
    fresh.positions = 6
    assert fresh.score_rows(Rows([[5, 6, 7]], [[8, 9, 2]]), 100)
    with pytest.raises(UserError, match="a row takes 7 positions, and Qwen2ForCausalLM has room for 6"):
        fresh.score_rows(Rows([[5, 6, 7]], [[8, 9, 10, 2]]), 100)
    laid_out(fresh, PaddedLayout())  # it passes one token more
    assert fresh.score_rows(Rows([[5, 6, 7]], [[9, 2]]), 100)
    with pytest.raises(UserError, match="a row takes 7 positions"):
        fresh.score_rows(Rows([[5, 6, 7]], [[8, 9, 2]]), 100)
    with pytest.raises(UserError, match="a prompt has no tokens"):
        fresh.score_rows(Rows([[5], []], [[2], [3]]), 100)


# ---------------------------------------------------------------------------- the check of a layout


class Late(PaddedLayout):
    """Gives each token what the token behind it is predicted from."""

    def at_tokens(self, states, rows):
        return states[0][:, -rows.ids_NT.shape[1]:][rows.mask_NT > 0]


def test_a_layout_that_gives_other_values_is_noticed(fresh):
    """Log-probs of a single logit are all 0, and would be right in any layout."""
    laid_out(fresh, PaddedLayout())
    with torch.no_grad():
        expected = check.plain(fresh, [])
        assert check.differs(PaddedLayout(), fresh, expected) == ""
        assert check.differs(Late(), fresh, expected) == "the log-probs of padded or packed rows"
    assert isinstance(layout_of(fresh), PackedLayout)
