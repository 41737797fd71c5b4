"""Policies in folders: what is saved is what is loaded, adapters included, and nothing but safetensors."""

from __future__ import annotations

import json

import pytest
import torch
from small import place
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from rlfamily.errors import UserError
from rlfamily.models import policy, scratch
from rlfamily.models.batching import Rows, mask_of, pad
from rlfamily.models.layouts import padded
from rlfamily.records import read_jsonl
from rlfamily.stages.kinds import hub

CPU = torch.device("cpu")
ROWS = Rows([[5, 6, 7], [8, 9], [10]], [[11, 12], [13], [14, 15, 16, 2]])


def logits(learner, rows=ROWS):
    """What the model itself says, padded rows and no `Policy.evaluate` between."""
    given = padded.inputs(pad(rows, learner.pad_id))
    with torch.no_grad(), learner.autocast():
        output = learner.model(**given, use_cache=False)
    return output.logits[given["attention_mask"] > 0]


def disturb(learner):
    """Move every trainable weight, as training would."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learner.model.parameters():
            if parameter.requires_grad:
                parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


# ---------------------------------------------------------------------------- batching


def test_padding_is_left_of_prompts_and_right_of_completions():
    rows = pad(ROWS, 0)
    given = padded.inputs(rows)
    assert given["input_ids"].tolist() == [[5, 6, 7, 11, 12, 0, 0], [0, 8, 9, 13, 0, 0, 0], [0, 0, 10, 14, 15, 16, 2]]
    assert given["attention_mask"].tolist() == [[1] * 5 + [0] * 2, [0, 1, 1, 1, 0, 0, 0], [0, 0, 1, 1, 1, 1, 1]]
    assert given["position_ids"].tolist() == [[0, 1, 2, 3, 4, 4, 4], [0, 0, 1, 2, 2, 2, 2], [0, 0, 0, 1, 2, 3, 4]]
    assert rows.mask_NT.tolist() == [[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]
    assert rows.ids_NT.tolist() == [[11, 12, 0, 0], [13, 0, 0, 0], [14, 15, 16, 2]]
    assert padded.inputs(rows[1:])["input_ids"].tolist() == given["input_ids"][1:].tolist()
    assert mask_of([[], [1]], 2).tolist() == [[0, 0], [1, 0]]


def test_log_probs_and_entropies_are_those_of_a_plain_forward(world):
    learner = world.policy()
    with torch.no_grad():
        forward = learner.evaluate(pad(ROWS, learner.pad_id), 0.7)
    for n, (prompt, completion) in enumerate(zip(ROWS.prompts, ROWS.completions, strict=True)):
        with torch.no_grad():
            logp_LV = (learner.model(torch.tensor([[*prompt, *completion]])).logits[0] / 0.7).log_softmax(-1)
        chosen = [float(logp_LV[len(prompt) - 1 + t, token]) for t, token in enumerate(completion)]
        assert forward.logp_NT[n, :len(completion)].tolist() == pytest.approx(chosen, abs=1e-5)
        assert not forward.logp_NT[n, len(completion):].any()
        steps_TV = logp_LV[len(prompt) - 1:len(prompt) - 1 + len(completion)]
        assert float(forward.entropy_N[n]) == pytest.approx(float(-(steps_TV.exp() * steps_TV).sum(1).mean()), abs=1e-5)


# ---------------------------------------------------------------------------- save and load


def test_saving_and_loading_changes_nothing(world, tmp_path):
    learner = world.policy(trainable=True)
    disturb(learner)
    learner.save(tmp_path)
    again = policy.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert torch.equal(logits(again), logits(learner))
    assert not any(parameter.requires_grad for parameter in again.model.parameters())
    assert all(parameter.requires_grad for parameter in learner.model.parameters())
    assert not (learner.model.training or again.model.training)
    assert {path.suffix for path in tmp_path.iterdir()} <= {".safetensors", ".json", ".jinja"}


def test_equal_weights_give_equal_bytes(world, tmp_path):
    for name in ("a", "b"):
        world.policy().save(tmp_path / name)
    first, second = ((tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b"))
    assert first == second == (world.base / "model.safetensors").read_bytes()


def test_a_pickle_is_refused(world, tmp_path):
    learner = world.policy()
    learner.save(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(learner.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"model: cannot load .*safetensors") as caught:
        policy.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert "\n" not in str(caught.value)


def test_remote_code_is_not_run(world, tmp_path):
    world.policy().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {name: "evil.Evil" for name in ("AutoConfig", "AutoModelForCausalLM")}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    with pytest.raises(UserError, match="cannot load"):
        policy.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert not (tmp_path / "ran").exists()


def test_the_same_seed_builds_the_same_model(world):
    tokenizer = world.policy().tokenizer
    first, second = (scratch.build_model(world.config.model, tokenizer).state_dict() for _ in range(2))
    other = scratch.build_model(world.config.model.model_copy(update={"seed": 7}), tokenizer).state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize(("architecture", "kind"), [("qwen2", "Qwen2ForCausalLM"), ("llama", "LlamaForCausalLM")])
def test_both_architectures_are_built_and_come_back(world, tmp_path, architecture, kind):
    tokenizer = world.policy().tokenizer
    model = scratch.build_model(world.config.model.model_copy(update={"architecture": architecture}), tokenizer)
    assert type(model).__name__ == kind
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight
    model.eval()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = policy.load(tmp_path, world.finetuning, CPU, trainable=True)
    assert type(again.model).__name__ == kind
    assert torch.equal(logits(again), logits(policy.Policy(model, tokenizer, "fp32", CPU)))
    assert again.tokenizer.get_vocab() == tokenizer.get_vocab()
    again.add_value_head()
    assert again.evaluate(pad(ROWS, 0), 1.0).values_NT.shape == (3, 4)


# ---------------------------------------------------------------------------- tokenizers


def test_the_word_level_tokenizer_comes_back_as_it_was(world):
    """Loading by the model's class would put Qwen2's own byte-level tokenizer in its place."""
    words = json.loads((world.data / "vocabulary.json").read_text())
    tokenizer = scratch.train_tokenizer(words)
    loaded = world.policy().tokenizer
    texts = [text for row in read_jsonl(world.data / "corpus.jsonl") for text in (row["prompt"], row["completion"])][:200]
    for text in [*texts, *words]:
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert loaded(text, add_special_tokens=False)["input_ids"] == ids
        assert len(ids) == len(text.split(" "))
        assert tokenizer.unk_token_id not in ids
        assert loaded.decode(ids) == tokenizer.decode(ids) == text
    assert loaded.get_vocab() == tokenizer.get_vocab()
    for name in ("pad_token_id", "eos_token_id", "unk_token_id"):
        assert getattr(loaded, name) == getattr(tokenizer, name) is not None


def test_words_lie_between_single_spaces(tmp_path):
    words = ["step1:", "\n", "2", "\\boxed{", "}", "don't", "é", "a\tb", "two\nlines"]
    tokenizer = scratch.train_tokenizer([*words, "2"])
    assert len(tokenizer) == 3 + len(words)
    text = "step1: 2 \n don't \n \n \\boxed{ é } a\tb two\nlines \n"
    ids = tokenizer(text)["input_ids"]
    assert len(ids) == len(text.split(" "))
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
    assert tokenizer("2 unknown 2")["input_ids"] == [ids[1], tokenizer.unk_token_id, ids[1]]
    assert tokenizer.get_vocab() == scratch.train_tokenizer(reversed(words)).get_vocab()
    tokenizer.save_pretrained(tmp_path)
    assert PreTrainedTokenizerFast.from_pretrained(tmp_path)(text)["input_ids"] == ids
    for word in ("two words", ""):
        with pytest.raises(UserError, match="vocabulary: .* is no word"):
            scratch.train_tokenizer([word])


@pytest.fixture(scope="module")
def hub_folder(tmp_path_factory):
    """A tiny Qwen2 as it lies on the hub: byte-level BPE in tokenizer.json, Qwen2's class names, no pad token."""
    folder = tmp_path_factory.mktemp("hub")
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(vocab_size=300, special_tokens=["<|endoftext|>"], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(["Using the numbers [1, 2, 3]"], trainer)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"tokenizer_class": "Qwen2Tokenizer"}))
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(Qwen2Config(vocab_size=300, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                                         num_attention_heads=2, num_key_value_heads=1))
    model.save_pretrained(folder)
    return folder


def fetch(path, folder, revision="main"):
    """Run the hub stage."""
    return hub.run(place(folder), hub.Config(path=str(path), revision=revision, date_string="01 Feb 2025", family="causal"),
                   hub.Inputs())


def test_a_local_folder_stands_in_for_a_hub_id(world, hub_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(hub_folder.parent)  # a relative path must survive a worker in another folder
    assert fetch(hub_folder.name, tmp_path)["path"] == str(hub_folder)
    monkeypatch.chdir("/")
    learner = policy.load(tmp_path / "out" / "model", world.finetuning, CPU, trainable=True)
    text = "Using the numbers [3, 7], create\n<think> é </think>"
    ids = learner.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert learner.tokenizer.decode(ids) == text
    assert Tokenizer.from_file(str(hub_folder / "tokenizer.json")).encode(text).ids == ids
    assert learner.pad_id == learner.eos_id == 0
    learner.save(tmp_path / "saved")
    again = policy.load(tmp_path / "saved", world.finetuning, CPU, trainable=False)
    assert again.tokenizer(text, add_special_tokens=False)["input_ids"] == ids
    rows = Rows([ids[:5]], [ids[5:9]])
    torch.testing.assert_close(logits(again, rows), logits(learner, rows), atol=1e-6, rtol=0)


def test_a_local_folder_needs_safetensors(tmp_path):
    (tmp_path / "model").mkdir()
    with pytest.raises(UserError, match=r"model.path: no .safetensors file in .*: save"):
        fetch(tmp_path / "model", tmp_path)


@pytest.mark.parametrize("name", ["nobody/no-such-model", "./no/such/folder"])
def test_an_unknown_hub_id_is_one_line(tmp_path, name):
    with pytest.raises(UserError, match=f"model.path: cannot get '{name}' at revision 'abc' from the hub") as caught:
        fetch(name, tmp_path, "abc")
    assert "\n" not in str(caught.value)


def test_a_pointer_to_a_hub_id_that_is_gone_is_one_line(world, tmp_path):
    (tmp_path / policy.POINTER).write_text(json.dumps({"path": "nobody/no-such-model", "revision": "abc"}))
    with pytest.raises(UserError, match="model: cannot load 'nobody/no-such-model'") as caught:
        policy.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------- adapters and precision


def test_adapters_alone_are_trained_and_merge_on_saving(world, tmp_path):
    base, learner = world.policy(), world.policy(trainable=True, finetune="lora")
    trained = {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    assert torch.equal(logits(learner), logits(base))
    disturb(learner)
    adapted = logits(learner)
    assert (adapted - logits(base)).abs().max() > 0.1
    with learner.initial():
        assert torch.equal(logits(learner), logits(base))

    learner.save(tmp_path)
    merged = policy.load(tmp_path, world.finetuning, CPU, trainable=False)
    assert not merged.adapted
    torch.testing.assert_close(logits(merged), adapted, atol=1e-4, rtol=1e-4)
    assert not list(tmp_path.glob("adapter*"))
    # Saving is no end: the adapters are still there and still apart.
    assert {name for name, parameter in learner.model.named_parameters() if parameter.requires_grad} == trained
    assert torch.equal(logits(learner), adapted)
    with learner.initial():
        assert torch.equal(logits(learner), logits(base))


def test_adapters_start_the_same_at_the_same_seed(world):
    torch.manual_seed(4)
    first = world.policy(trainable=True, finetune="lora").model.state_dict()
    torch.manual_seed(4)
    second = world.policy(trainable=True, finetune="lora").model.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bf16_is_autocast_on_fp32_weights(world):
    exact, rounded = world.policy(trainable=True), world.policy(trainable=True, dtype="bf16")
    assert all(parameter.dtype == torch.float32 for parameter in rounded.model.parameters())
    rows = pad(ROWS, exact.pad_id)
    ours, theirs = rounded.evaluate(rows, 1.0), exact.evaluate(rows, 1.0)
    assert ours.logp_NT.dtype == torch.float32
    assert not torch.equal(ours.logp_NT, theirs.logp_NT)
    torch.testing.assert_close(ours.logp_NT, theirs.logp_NT, atol=0.3, rtol=0)
    ours.logp_NT.sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in rounded.model.parameters() if parameter.grad is not None)


def test_dropout_is_off(world, tmp_path):
    world.policy().save(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"attention_dropout": 0.5}))
    learner = policy.load(tmp_path, world.finetuning, CPU, trainable=True)
    assert torch.equal(logits(learner), logits(learner))
