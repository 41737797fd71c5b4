"""Step ends on tokenizers that behave like real ones: merged newlines, words, blanks that come and go."""

from __future__ import annotations

import random
import time
from itertools import chain
from os.path import commonprefix

import pytest
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE, Unigram, WordPiece
from tokenizers.trainers import BpeTrainer, UnigramTrainer
from transformers import PreTrainedTokenizerFast

from rlfamily.models import scratch
from rlfamily.rollout.steps import label_starts, step_ends

TEXTS = [
    "step1: add 2 and 3.\n\nstep2: 2 + 3 = 5.\nstep3: the answer is \\boxed{5}.",
    "Let us see.\n\n**Step 1:** restate.\n\n\n**Step 2:** compute 7*8 = 56\n\n  step 3. done \\boxed{56}",
    "STEP1) é 🙂 naïve 🙂🙂\nSTEP2) 数学 is fun 🙂\n\tstep 3: ok",
    "step1: a\r\nstep2: b\r\n\r\nstep10: c",
    "no labels at all, though step2: is named in the middle of a line",
    "step2: begins with two\nstep3: then three",
    "step1: x\nstep2: y\nstep2: y again\nstep1: z\nstep3: w",
]


# How Qwen2 and Llama 3 split text before they merge: newlines stay with each other and with the punctuation before them.
SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_level(merged: bool):
    """Byte-level BPE, as Qwen2; with `merged` it learns whole lines, so that newlines merge with what follows as well."""
    tokenizer = Tokenizer(BPE())
    bytes_only = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = bytes_only if merged else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(SPLIT), "isolated"), bytes_only])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(vocab_size=420, special_tokens=["<|end|>"], show_progress=False,
                         initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    lines = ["step1: add\n\nstep2: then\n\nstep3: done.\nstep4: 5", ".\n\nstep2: so", "\n\n", ".\n", "🙂 é"] * 30
    tokenizer.train_from_iterator(lines, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")


def metaspace():
    """As sentencepiece: a blank before the first word that decoding takes away, blanks inside tokens."""
    tokenizer = Tokenizer(Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    letters = sorted({letter for text in TEXTS for letter in text})
    tokenizer.train_from_iterator(TEXTS * 20, UnigramTrainer(
        vocab_size=300, special_tokens=["<unk>", "</s>"], unk_token="<unk>", initial_alphabet=letters, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")


def words():
    """The stand-ins' tokenizer: "\\n" is a word."""
    return scratch.train_tokenizer(["\n", "step1:", "step2:", "step3:", "step", "1", "2", "3", ":", "+", "=", "5", "."])


def byte_fallback():
    """As Llama 2's sentencepiece: what has no token of its own is spelt in bytes, a newline too."""
    pieces = ["<unk>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *("▁" + letter for letter in "abstep12"),
              *"▁abcdefghijklmnopqrstuvwxyz0123456789:.#*-"]
    tokenizer = Tokenizer(BPE(vocab={piece: index for index, piece in enumerate(dict.fromkeys(pieces))}, merges=[],
                              byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(),
                                           decoders.Strip(" ", 1, 0)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")


def word_piece():
    """As BERT: a word's later pieces carry ##, decoding puts blanks between words and tidies those before marks."""
    letters = sorted({letter for text in TEXTS for letter in text} | set("abcdefghijklmnopqrstuvwxyz0123456789:.#*-_>"))
    pieces = dict.fromkeys(["[UNK]", "[SEP]", "\n", "step", *letters, *("##" + letter for letter in letters)])
    tokenizer = Tokenizer(WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(Regex(r"[ \t\r]+"), "removed"),
        pre_tokenizers.Punctuation()])
    tokenizer.decoder = decoders.WordPiece(cleanup=True)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="[SEP]", unk_token="[UNK]")


TOKENIZERS = {"WordPiece": word_piece(), "byte fallback": byte_fallback(), "byte-level": byte_level(False), "byte-level, merged lines": byte_level(True), "metaspace": metaspace()}


def slices(ids, ends):
    return [ids[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def slow_ends(tokenizer, ids):
    """One decoding per prefix: the definition."""
    def decode(part):
        return tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    text = decode(ids)
    starts = {next(token for token in range(len(ids)) if len(commonprefix([decode(ids[:token + 1]), text])) > start)
              for start in label_starts(text) if start}
    return [*sorted(starts - {0}), len(ids)]


# ---------------------------------------------------------------------------- labels


@pytest.mark.parametrize(("text", "expected"), [
    (TEXTS[0], ["step2:", "step3:"]), (TEXTS[1], ["**Step 2:", "  step 3."]), (TEXTS[2], ["STEP2)", "\tstep 3:"]),
    (TEXTS[3], ["step2:", "step10:"]), (TEXTS[4], []), (TEXTS[5], ["step2:", "step3:"]), (TEXTS[6], ["step2:", "step3:"]),
    ("", []), ("step1: alone", []), ("a\nstep 2 : spaced", ["step 2 :"]), ("a\nstep2 no mark", []),
    ("## Step 1: a\n\n## Step 2: b", ["## Step 2:"]), ("**Step 1**\nso\n**Step 2**\nthen", ["**Step 2**"]),
    ("- step 1: a\n- step 2: b\n> * step 3. c", ["- step 2:", "> * step 3."]), ("### Step 1\na\n### Step 2\nb", ["### Step 2"]),
    ("1\n__Step 2__ b\n#### **Step 3:** c", ["__Step 2__", "#### **Step 3:"]), ("a\nstep 2\nb", []),
    ("-" * 20000 + "\n" + "#" * 20000, []), ("a\nstep" + "9" * 5000 + ": huge", []), ("step3: late\nstep2: back\nstep4: on", ["step3:", "step4:"]),
])
def test_a_step_begins_at_a_label_above_all_before_it(text, expected):
    starts = label_starts(text)
    assert [text[start:start + len(label)] for start, label in zip(starts, expected, strict=True)] == expected


# ---------------------------------------------------------------------------- tokens


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("ended", [True, False])
def test_slices_give_the_response_back(name, text, ended):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(text, add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id] * ended
    ends = step_ends(tokenizer, ids)
    assert list(chain(*slices(ids, ends))) == ids
    assert all(slices(ids, ends))
    assert ends == slow_ends(tokenizer, ids)
    assert len(ends) == 1 + len([start for start in label_starts(text) if start > 0])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_each_slice_holds_its_label(name):
    tokenizer = TOKENIZERS[name]
    ids = tokenizer(TEXTS[0], add_special_tokens=False)["input_ids"]
    parts = [tokenizer.decode(part) for part in slices(ids, step_ends(tokenizer, ids))]
    assert [part.strip(".\n ")[:5] for part in parts] == ["step1", "step2", "step3"]
    assert all(part.count("step") == 1 for part in parts)


def test_a_newline_merged_with_the_label_goes_with_it():
    tokenizer = TOKENIZERS["byte-level, merged lines"]
    text = "step1: add\n\nstep2: then\n\nstep3: done.\nstep4: 5"
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    tokens = [tokenizer.decode([token]) for token in ids]
    assert any("\n" in token.rstrip("\n") for token in tokens)  # the tokenizer does merge them
    whole = "".join(tokens)
    assert whole == text
    for end in step_ends(tokenizer, ids)[:-1]:
        before, token = "".join(tokens[:end]), tokens[end]
        # the label begins inside this token, or where it does
        assert any(len(before) <= start < len(before) + len(token) for start in label_starts(text))


def test_newlines_merged_with_the_text_before_stay_there():
    tokenizer = TOKENIZERS["byte-level"]
    ids = tokenizer("a.\n\nstep2: b", add_special_tokens=False)["input_ids"]
    assert ".\n\n" in [tokenizer.decode([token]) for token in ids]  # one token, as in Qwen2 and Llama 3
    first, second = slices(ids, step_ends(tokenizer, ids))
    assert (tokenizer.decode(first), tokenizer.decode(second)) == ("a.\n\n", "step2: b")


@pytest.mark.parametrize(("text", "expected"), [
    ("step1: 2 + 3 = 5 \n step2: 5 \n step3: 5", [7, 10, 12]),
    ("step 1 : 2 \n step 2 : 3", [5, 9]),
    ("2 + 3 step2: 5", [5]),  # no newline, no label
    ("step2: 5", [2]),
    ("\n step2: 5 \n", [1, 4]),
    ("5", [1]),
])
def test_words(text, expected):
    tokenizer = words()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert step_ends(tokenizer, ids) == expected
    assert step_ends(tokenizer, [*ids, tokenizer.eos_token_id]) == [*expected[:-1], expected[-1] + 1]


def test_a_character_of_several_tokens_belongs_to_the_step_before():
    """A newline spelt in bytes, behind an emoji spelt in bytes: the step begins after all of them."""
    tokenizer = TOKENIZERS["byte fallback"]
    ids = tokenizer("step1: 😀\nstep2: b", add_special_tokens=False)["input_ids"]
    first, second = slices(ids, step_ends(tokenizer, ids))
    assert (tokenizer.decode(first), tokenizer.decode(second)) == ("step1: 😀\n", "step2: b")


def test_no_tokens_no_steps():
    assert step_ends(words(), []) == []


def test_a_tokenisation_that_encoding_would_not_choose():
    """A policy may spell a label with other tokens than the tokenizer would; its own tokens count."""
    tokenizer = TOKENIZERS["byte-level, merged lines"]
    text = "step1: add\n\nstep2: then"
    ids = [tokenizer(letter, add_special_tokens=False)["input_ids"][0] for letter in text]
    assert ids != tokenizer(text, add_special_tokens=False)["input_ids"]
    assert step_ends(tokenizer, ids) == [text.index("step2"), len(text)]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_random_token_soup(name):
    """What an untrained policy writes: partial characters, specials, labels in odd places."""
    tokenizer, rng = TOKENIZERS[name], random.Random(0)
    labels = [tokenizer(f"\nstep{n}: ", add_special_tokens=False)["input_ids"] for n in range(1, 5)]
    for _ in range(60):
        ids = []
        for _ in range(rng.randrange(1, 6)):
            ids += rng.choices(range(len(tokenizer)), k=rng.randrange(6)) + rng.choice(labels)
        ends = step_ends(tokenizer, ids)
        assert ends == slow_ends(tokenizer, ids)
        assert list(chain(*slices(ids, ends))) == ids


def test_a_step_of_training_is_cut_in_no_time():
    tokenizer = TOKENIZERS["byte-level"]
    text = "\n\n".join(f"step{n}: " + "some words of a solution 12 + 34 = 46. " * 4 for n in range(1, 8))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    assert len(ids) > 400
    start = time.perf_counter()
    for _ in range(16):
        assert len(step_ends(tokenizer, ids)) == 7
    assert (time.perf_counter() - start) / 16 < 0.05  # measured 0.005 for a thousand tokens: 512 such rows in 2.5 seconds
