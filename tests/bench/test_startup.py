"""Commands that train nothing import nothing heavy; how long they take is nobody's promise."""

from __future__ import annotations

import pytest

from bench import startup


@pytest.fixture(scope="module")
def commands(tmp_path_factory):
    results = str(tmp_path_factory.mktemp("results"))
    startup.prepare(results)
    return {command.name: command for command in startup.listed(results)}


@pytest.mark.parametrize("number", range(7))
def test_nothing_heavy_is_imported(commands, number):
    command = list(commands.values())[number]
    assert len(startup.imported(command)) > 50
    assert {"torch", "transformers"} <= set(command.without)


def test_what_is_imported_is_seen():
    heavy = startup.Command("heavy", ("-c", "import rlfamily, hydra"), without=("hydra",))
    with pytest.raises(RuntimeError, match="heavy imports hydra"):
        startup.imported(heavy)
    with pytest.raises(RuntimeError, match="imports nothing of rlfamily"):
        startup.imported(startup.Command("other", ("-c", "pass")))


def test_an_exit_code_is_checked(commands):
    command = startup.Command("typo", ("-m", "rlfamily.reproduce", "topr_tab2", "seeds=x"))
    with pytest.raises(RuntimeError, match=r"typo: exit code 2: error: seeds: 'x' is not a list of numbers"):
        startup.ended(command)


def test_the_part_has_a_row_a_command(monkeypatch):
    everything = startup.listed
    monkeypatch.setattr(startup, "listed", lambda results: everything(results)[:2])
    found = startup.run(quick=True)
    assert [row["command"] for row in found["tables"][0]["rows"]] == ["import rlfamily", "reproduce --help"]
    assert all(row["cpu"]["median"] > 0 and row["modules"] > 50 for row in found["tables"][0]["rows"])
