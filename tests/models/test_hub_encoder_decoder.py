"""Flan-T5 in the hub's own format: what its files hold is what is trained, drawn from, saved and loaded again."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from small import place
from tokenizers import Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import Unigram
from transformers import T5Config, T5ForConditionalGeneration

from rlfamily.errors import UserError
from rlfamily.models import Finetuning, Lora, policy, reward_model
from rlfamily.models.batching import Rows, pad
from rlfamily.models.families import auto_class
from rlfamily.models.tokens import prompt_ids, raw_ids
from rlfamily.stages.kinds import hub

CPU = torch.device("cpu")
FULL = Finetuning(dtype="fp32", finetune="full", lr_multiplier=1.0, lora=Lora(rank=4, alpha=8, targets=["q", "v", "wi_0", "wo"]))
WORDS = ["▁use", "▁make", "▁to", "▁3", "▁7", "▁12", "▁"]
SIZES = {"d_model": 16, "d_kv": 4, "d_ff": 24, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4, "vocab_size": 24}


@pytest.fixture
def published(tmp_path):
    """A folder as google/flan-t5-* has it: embeddings and output layer apart, settings of an old transformers."""
    folder = tmp_path / "flan"
    folder.mkdir()
    torch.manual_seed(0)
    weights = T5ForConditionalGeneration(T5Config(**SIZES, feed_forward_proj="gated-gelu")).state_dict()
    weights = {name: weight.clone() for name, weight in weights.items() if "embed_tokens" not in name}
    weights["lm_head.weight"] = torch.randn(24, 16)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({
        "architectures": ["T5ForConditionalGeneration"], "model_type": "t5", "is_encoder_decoder": True, **SIZES,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "decoder_start_token_id": 0, "pad_token_id": 0,
        "eos_token_id": 1, "n_positions": 512, "output_past": True, "dropout_rate": 0.1, "layer_norm_epsilon": 1e-6,
        "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128, "initializer_factor": 1.0,
        "use_cache": True, "transformers_version": "4.23.1"}))
    tokenizer = Tokenizer(Unigram([(word, 0.0) for word in ("<pad>", "</s>", "<unk>")] + [(word, -2.0) for word in WORDS], 2))
    tokenizer.normalizer = normalizers.Replace("  ", " ")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({
        "tokenizer_class": "T5Tokenizer", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}))
    return folder


def fetched(tmp_path, published, family="encoder_decoder"):
    here = place(tmp_path / family)
    hub.run(here, hub.Config(path=str(published), revision="main", date_string="26 Jul 2024", family=family), hub.Inputs())
    return here.out / "model"


def logp(learner):
    prompt = prompt_ids(learner.tokenizer, "use 3 7")
    with torch.no_grad():
        return learner.evaluate(pad(Rows([prompt] * 2, [[6, 7, 1], [8]]), learner.pad_id), 1.0).logp_NT


def test_what_the_files_hold_is_what_is_read(tmp_path, published):
    learner = policy.load(fetched(tmp_path, published), FULL, CPU, trainable=True)
    held = load_file(published / "model.safetensors")
    assert torch.equal(learner.model.lm_head.weight, held["lm_head.weight"])
    assert torch.equal(learner.model.shared.weight, held["shared.weight"])
    assert learner.model.encoder.embed_tokens.weight is learner.model.shared.weight
    assert not learner.model.config.scale_decoder_outputs
    learner.model.tie_weights()  # as what shards a model does
    assert torch.equal(learner.model.lm_head.weight, held["lm_head.weight"])
    copied = auto_class(learner.model.config).from_config(learner.model.config)
    copied.tie_weights()
    assert copied.lm_head.weight is not copied.shared.weight
    assert (learner.positions, learner.stop_ids, learner.layout.ends, learner.pad_id) == (None, (1,), (1,), 0)
    prompt = prompt_ids(learner.tokenizer, "use 3 7")
    assert prompt == raw_ids(learner.tokenizer, "use 3 7") and 2 not in prompt and prompt[-1] != 1
    right = learner.model(input_ids=torch.tensor([[*prompt, 1]]), decoder_input_ids=torch.tensor([[0, 6, 7]])).logits[0]
    assert logp(learner)[0].tolist() == pytest.approx(
        right.log_softmax(-1).gather(1, torch.tensor([[6], [7], [1]]))[:, 0].tolist(), abs=1e-5)


@pytest.mark.parametrize("finetune", ["full", "lora"])
def test_what_was_trained_comes_back(tmp_path, published, finetune):
    tuning = FULL.model_copy(update={"finetune": finetune})
    learner = policy.load(fetched(tmp_path, published), tuning, CPU, trainable=True)
    assert ("lora_A" in next(iter(learner.trainable()))) == (finetune == "lora")
    first = logp(learner)
    with torch.no_grad():
        for weight in learner.trainable().values():
            weight.add_(torch.randn_like(weight) * 0.1)
    moved = logp(learner)
    assert (moved - first).abs().max() > 1e-2
    learner.save(tmp_path / "saved")
    assert torch.equal(logp(learner), moved)  # as it was
    again = policy.load(tmp_path / "saved", FULL, CPU, trainable=True)
    torch.testing.assert_close(logp(again), moved, atol=1e-5, rtol=1e-5)
    assert again.layout.ends == (1,)
    again.save(tmp_path / "twice")
    torch.testing.assert_close(logp(policy.load(tmp_path / "twice", FULL, CPU, False)), moved, atol=1e-5, rtol=1e-5)


def test_another_family_than_the_settings_say_is_one_line(tmp_path, published):
    with pytest.raises(UserError, match=r"model.family=causal: '.*flan' is encoder_decoder: set model.family=encoder_decoder"):
        fetched(tmp_path, published, "causal")


def test_no_reward_model_starts_from_one(tmp_path, published):
    with pytest.raises(UserError, match="reward model: .* reads prompts and responses apart"):
        reward_model.load(fetched(tmp_path, published), FULL, CPU, trainable=True)


def test_weights_that_are_no_safetensors_are_refused(tmp_path, published):
    (published / "model.safetensors").unlink()
    (published / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(UserError, match="no .safetensors file"):
        fetched(tmp_path, published)
