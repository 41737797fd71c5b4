"""Keys: what changes them, what does not, what is refused."""

from __future__ import annotations

import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from laboratory import shape
from pydantic import ConfigDict

from rlfamily.errors import UserError
from rlfamily.settings import Strict
from rlfamily.stages.graph import Node, canonical, topological
from rlfamily.stages.kind import KINDS_PATH, get_kind, kind_names

REPOSITORY = Path(__file__).parents[2]


class Free(Strict):
    """Settings of any shape."""

    model_config = ConfigDict(extra="allow", frozen=True, strict=True)


def node(config=None, inputs=None, hardware=None, **more):
    return Node("toy", Free(**({"a": 1} if config is None else config)), inputs or {}, shape("x", **(hardware or {})), **more)


def test_key_is_the_hash_of_kind_version_config_and_input_keys():
    # sha256 of the canonical text, worked out with the standard library alone.
    import hashlib

    assert re.fullmatch(r"1\+[0-9a-f]{8}", node().version)  # a kind that is not ours: its content counts
    text = '{"config":{"a":1},"inputs":{},"kind":"toy","uses":{},"version":"%s"}' % node().version
    assert node().key == hashlib.sha256(text.encode()).hexdigest()[:32]
    outer = '{"config":{"a":1},"inputs":{"data":"%s"},"kind":"toy","uses":{},"version":"%s"}' % (node().key, node().version)
    assert node(inputs={"data": node()}).key == hashlib.sha256(outer.encode()).hexdigest()[:32]


@pytest.mark.parametrize(
    "other",
    [
        node({"a": 2}), node({"a": 1.0}), node({"a": True}), node({"a": "1"}), node({"b": 1}),
        node({"a": 1, "b": None}), node(inputs={"x": node()}), node(inputs={"x": node({"a": 2})}),
    ],
    ids=lambda other: f"{other.config}",
)
def test_what_can_change_a_number_changes_the_key(other):
    assert other.key != node().key


def test_name_of_an_input_counts():
    assert node(inputs={"x": node()}).key != node(inputs={"y": node()}).key


def test_hardware_label_and_order_do_not_change_the_key():
    assert node(hardware={"kind": "gpu"}, label="other").key == node().key
    assert node({"a": 1, "b": 2}).key == node({"b": 2, "a": 1}).key


def test_version_changes_the_key(tmp_path, monkeypatch):
    keys = set()
    for version in ("1", "2"):
        folder = tmp_path / version
        folder.mkdir()
        (folder / "versioned.py").write_text(f"VERSION = '{version}'\ndef run(place, config, inputs): return {{}}\n")
        monkeypatch.setenv(KINDS_PATH, str(folder))
        keys.add(Node("versioned", Free(), {}, shape("x")).key)
    assert len(keys) == 2


def test_inputs_alike_are_nested_under_one_name():
    models = {"a": node({"a": 2}), "b": node({"a": 3})}
    made = node(inputs={"data": node(), "models": models})
    assert made.input_keys == {"data": node().key, "models": {name: one.key for name, one in models.items()}}
    assert [source.key for source in made.sources] == [node().key, models["a"].key, models["b"].key]
    assert made.key != node(inputs={"data": node(), "a": models["a"], "b": models["b"]}).key


@pytest.mark.parametrize("bad", [math.nan, math.inf, (1, 2), {1, 2}, Path("x"), b"x", {1: 2}, object()])
def test_what_json_cannot_hold_is_refused_with_its_place(bad):
    with pytest.raises(UserError, match=re.escape("config.outer[1]")):
        canonical({"outer": [0, bad]}, "config")


def test_canonical_text_is_one_line_of_ascii():
    assert canonical({"b": [1, 2.5, None], "a": "é"}, "config") == '{"a":"\\u00e9","b":[1,2.5,null]}'


def test_topological_has_inputs_first_and_one_node_per_key():
    data = node({"a": 0})
    left, right = node({"a": 2}, {"data": data}), node({"a": 3}, {"data": node({"a": 0})})
    top = node({"a": 4}, {"left": left, "right": right})
    order = [each.key for each in topological([top, left])]
    assert order == [data.key, left.key, right.key, top.key]


def test_deep_shared_graph_is_visited_once_per_node():
    top = node({"depth": 0})
    for depth in range(1, 60):  # 2**59 paths
        top = node({"depth": depth}, {"x": top, "y": top})
    assert len(topological([top])) == 60


def test_unknown_kind_names_the_nearest():
    with pytest.raises(UserError, match="no kind 'toi'.*did you mean 'toy'"):
        get_kind("toi")
    with pytest.raises(UserError, match="no kind"):
        _ = Node("../toy", Free(), {}, shape("x")).key


def test_helpers_of_a_kinds_folder_are_no_kinds(tmp_path, monkeypatch):
    (tmp_path / "_helper.py").write_text("")
    monkeypatch.setenv(KINDS_PATH, str(tmp_path))
    assert "_helper" not in kind_names() and "__init__" not in kind_names()


def test_nothing_here_imports_torch():
    modules = ("graph", "store", "worker", "scheduler", "forecast", "progress", "executors.local", "executors.local.slots")
    code = "import sys\n" + "".join(f"import rlfamily.stages.{module}\n" for module in modules)
    code += "from rlfamily.stages.kind import get_kind, kind_names\n[get_kind(name) for name in kind_names()]\n"
    code += "assert not {'torch', 'transformers', 'pandas'} & set(sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
