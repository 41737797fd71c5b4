"""Nonsense for every setting there is, made from the settings themselves: refused in one line, or none at all."""

from __future__ import annotations

import pytest

from rlfamily import composing, config
from rlfamily.errors import UserError

# Overrides that show every shape a section takes.
BASES = ([], ["task=math_tiny", "algorithm=ppo"], ["task=helpful_tiny", "algorithm=gnivo"], ["model=qwen25_05b", "hardware=gpu"])
NUMBERS = ("nan", "inf", "-inf", "-1e30", "1e400", "9223372036854775808", "[1]", "{a:1}", "two", "null", "''", "True")
WORDS = ("''", "' '", "[a]", "{a:1}", "null", "7")
PATHS = ("../../etc/passwd", "$(reboot)", "`id`", ";ls", "\u202e", "a|b", "~root", "''")


def leaves(content, place=""):
    for key, value in content.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{place}{key}.")
        elif not isinstance(value, list) and value is not None:
            yield f"{place}{key}", value


def cases():
    seen = set()
    for base in BASES:
        for key, value in leaves(composing.compose(list(base))[0]):
            wrong = WORDS if isinstance(value, str) else NUMBERS
            for text in wrong:
                if (key, text) not in seen and not allowed(key, value, text):
                    seen.add((key, text))
                    yield base, f"{key}={text}"


def allowed(key, value, text):
    """What is no nonsense after all: null where there may be none, a switch for a switch."""
    return ((text == "null" and key in NULLABLE) or (text == "True" and isinstance(value, bool))
            or (text == "-1e30" and key in UNBOUNDED) or (text == "7" and key == "algorithm.sampled_t"))


UNBOUNDED = {"task.pretrain.gate.least", "algorithm.baseline_constant", "task.reward.components.helpful.weight",
             "task.reward.components.harmless.weight"}
NULLABLE = {"algorithm.value_clip", "hardware.vllm.server_url"}
CASES = list(cases())


def refused(overrides):
    try:
        config.build(overrides)
    except UserError as error:
        return bool(str(error).strip()) and "\n" not in str(error)
    return False


def test_every_setting_is_tried():
    assert len(CASES) >= 300


def test_no_nonsense_is_accepted_and_none_is_a_traceback():
    accepted = [override for base, override in CASES if not refused([*base, override])]
    assert accepted == []


@pytest.mark.parametrize("group", composing.GROUPS)
@pytest.mark.parametrize("name", PATHS)
def test_a_choice_is_a_name_of_its_folder_and_nothing_else(group, name):
    assert refused([f"{group}={name}"])


@pytest.mark.parametrize(("override", "message"), [
    ("model.heads=3", "heads=3 does not cut hidden_size=128 into parts of an even size"),
    ("model.kv_heads=3", "kv_heads=3 does not divide heads=4"),
    ("seed=18446744073709551616", "seed: 18446744073709551616 is past 64 bits"),
    ("results=", "results: is empty"),
])
def test_settings_know_each_others_limits(override, message):
    with pytest.raises(UserError, match=message):
        config.build([override])


def test_a_local_model_that_is_not_there_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(UserError, match=r"model\.path: there is no folder ./nowhere"):
        config.build(["model=qwen25_05b", "model.path=./nowhere"])
    assert config.build(["model=qwen25_05b", f"model.path={tmp_path}"]).model.path == str(tmp_path)


JUDGED = ["task=helpful", "model=qwen25_05b", "algorithm.warm_start=base"]


@pytest.mark.parametrize("text", ["None", "none", "nowhere", "localhost:8000", "localhost/v1", "https://", "ftp://localhost", "http:// localhost"])
@pytest.mark.parametrize("key", ["task.judge.base_url", "hardware.vllm.server_url"])
def test_an_address_is_one_or_null(key, text):
    with pytest.raises(UserError, match=r"(no address: write one as in http://localhost:8000/v1|is the text None)") as error:
        config.build([*JUDGED, f"{key}='{text}'"])
    assert "\n" not in str(error.value) and key.rpartition(".")[2] in str(error.value)
    for good in ("null", "http://localhost:8000", "https://localhost/v1"):
        config.build([*JUDGED, "hardware.vllm.mode=server", f"{key}={good}"])


@pytest.mark.parametrize("key", ["task.judge.prompt_file", "task.source.dialogues.path", "task.reward.models.helpful.path"])
def test_a_quoted_home_folder_is_the_home_folder(monkeypatch, tmp_path, key):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "m").mkdir()
    config.build(["model=qwen25_05b", "model.path='~/m'"])  # it is there
    made = config.build([*JUDGED, f"{key}='~/m'", "model.path='~/m'"]).settings()
    for name in key.split("."):
        made = made[name]
    assert made == str(tmp_path / "m")


@pytest.mark.parametrize(("module", "arguments"), [
    ("rlfamily.train", ["--cfg", "job", "algorithm.group_size=0"]),
    ("rlfamily.train", ["--cfg", "job", "algorithm.sampling.temperature=0"]),
    ("rlfamily.train", ["--cfg", "job", "algorithm.optimizer.lr=abc"]),
    ("rlfamily.train", ["--cfg", "job", "task=../../etc/passwd"]),
    ("rlfamily.train", ["results=/proc/x", "wandb=off"]),
    ("rlfamily.reproduce", ["topr_tab1", "results=/proc/x"]),
    ("rlfamily.reproduce", ["topr_tab1", "seeds=\u00b2"]),
    ("rlfamily.reproduce", ["topr_tab1", "rows=nope"]),
])
def test_commands_refuse_in_one_line(run_cli, module, arguments):
    done = run_cli(module, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
