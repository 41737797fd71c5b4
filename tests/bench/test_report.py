"""The page is what the results say."""

from __future__ import annotations

import pytest

from bench import __main__ as command
from bench import measure, report

RESULT = {
    "title": "Things", "about": "About them.", "quick": False, "machine": {"cpus": 2, "torch": "1.0", "trl": None},
    "tables": [{"title": "Seconds", "columns": {"side": "side", "cpu": "CPU s", "peak": "MiB"},
                "rows": [{"side": "ours", "cpu": measure.spread([1.0, 2.0, 3.0]), "peak": 1234.5}, {"side": "none"}]}],
    "notes": ["one", "two"],
}
SECTION = """\
## Things

About them.

**Seconds**

| side | CPU s | MiB |
| --- | --- | --- |
| ours | 2.00 (1.50 - 2.50) | 1,234 |
| none | – | – |

* one
* two

Measured with: cpus 2, torch 1.0.
"""


def test_a_result_becomes_a_section():
    assert report.section(RESULT) == SECTION
    assert "say that it runs, and nothing else" in report.section(RESULT | {"quick": True})


@pytest.mark.parametrize(("value", "text"), [
    (0.0, "0"), (1.4e-7, "1.4e-07"), (0.0123, "0.0123"), (1.0, "1.00"), (-2.345, "-2.35"), (99.94, "99.9"),
    (99.96, "100"), (12345.6, "12,346"),
])
def test_numbers_have_three_digits(value, text):
    assert report.number(value) == text


def test_the_page_has_the_parts_in_order_and_ends_with_the_techniques(tmp_path):
    for name in ("zoo", "generation", "race"):
        (tmp_path / f"{name}.json").write_text('{"title": "%s"}' % name)
    assert list(report.load(tmp_path)) == ["race", "generation", "zoo"]
    page = report.page({"race": RESULT}, "## Techniques\n")
    assert page.startswith("# Benchmarks") and page.endswith(SECTION + "\n## Techniques\n")


def test_the_committed_page_is_made_from_the_committed_results():
    results = report.load()
    assert not any(result["quick"] for result in results.values())
    techniques = report.TECHNIQUES.read_text() if report.TECHNIQUES.exists() else ""
    assert report.PAGE.read_text() == report.page(results, techniques), "run `python -m bench.report`"


def test_the_command_measures_prints_and_keeps(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("bench.race.run", lambda quick: RESULT | {"quick": quick})
    assert command.main(["race", "--quick", "--out", str(tmp_path)]) == 0
    assert report.load(tmp_path)["race"]["quick"] is True
    assert "| ours | 2.00 (1.50 - 2.50) | 1,234 |" in capsys.readouterr().out


def test_a_part_that_is_not_there_is_refused(capsys):
    assert command.main(["raze"]) == 2
    assert capsys.readouterr().err == "error: bench: there is no part 'raze' (did you mean 'race'?)\n"
