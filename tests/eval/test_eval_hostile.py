"""Names and model text of any kind: every table, picture and page is made, and shows them as text."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from urllib.parse import unquote

import matplotlib as mpl
import pytest
from fixture import commit, reseal, write_index

from eval.artifacts import Archive
from eval.html import short
from eval.layout import number
from eval.quick import score_lines
from eval.report import build_report
from eval.series import Unusable, read_series
from eval.tables import defused, to_csv
from eval.text import md, tex
from eval.values import half_unit, number_of, one_line, plain, printed
from rlfamily.errors import UserError
from rlfamily.quantities import Metric
from rlfamily.records import CellEntry, Layout, write_jsonl
from rlfamily.results import load

NAMES = ["[ours] TOPR", "* starred", "a $$ b", "$x_", "50% of a_b", "_hidden", "=1+1", "-DPO", "@x", "None", "NA", "\x07\x1b[31mred",
         "two\nlines", "α → 模型 🚀", "a\ud800b", "<b>&amp;", r"\frac{", "#1", "a|b `c`", "{{ 7 }}", "~^"]
SPEC = {
    "title": "a $$ b & <i> \x07", "paper": "P", "place": "Table 1", "about": "a", "kind": "table", "model": "m",
    "scales": {"tiny": {"seeds": [0], "base": []}}, "rows": {name: [] for name in NAMES}, "columns": {"A $ b": [], "B": []},
    "metrics": [{"name": "re_ward %$", "stage": "score", "field": "reward", "better": "higher"}],
}
GOOD = [{"mode": "greedy", "item": i, "draw": 0, "reward": float(i % 2), "prompt": "p", "response": "r"} for i in range(8)]
BAD_LINES = {
    "cut": '{"mode": "greedy", "item": 8, "rew', "no object": "[1, 2]", "lone number": "17",
    "surrogate": json.dumps(GOOD[0] | {"item": 9, "response": "\ud800 <script>"}),
    "no response": json.dumps({"mode": "greedy", "item": 9, "draw": 0, "reward": 1.0}),
    "huge integer": json.dumps(GOOD[0] | {"item": 9, "reward": 10**400}),
    "unreadable integer": '{"mode": "greedy", "item": 9, "draw": 0, "reward": ' + "9" * 5000 + "}",
    "infinite": '{"mode": "greedy", "item": 9, "draw": 0, "reward": Infinity, "prompt": "p", "response": "r"}',
    "text score": json.dumps(GOOD[0] | {"item": 9, "reward": "1"}), "no score": json.dumps(GOOD[0] | {"item": 9, "reward": None}),
    "empty object": "{}", "deep": "[" * 100_000, "no mode": json.dumps({"item": 9, "reward": 1.0}),
    "item of text": json.dumps(GOOD[0] | {"item": "nine"}), "list item": json.dumps(GOOD[0] | {"item": [1], "prompt": 3}),
}
WRONG = {"cut", "no object", "lone number", "huge integer", "unreadable integer", "infinite", "text score", "no score", "deep"}


def scored(root, row, column, extra=""):
    key = commit(root, "score", f"score {row!r} {column}", {}, {"scores.jsonl": GOOD}, {})
    path = Layout(root).object(key) / "scores.jsonl"
    path.write_text(extra + path.read_text())
    reseal(root, key)
    return CellEntry(model="m", row=row.encode("utf-8", "replace").decode(), column=column, seed=0, overrides=[], names={},
                     config={}, stages={"score": key}, status="done")


def clean(name):
    return name.encode("utf-8", "replace").decode()


@pytest.fixture(scope="module")
def named(tmp_path_factory):
    root = tmp_path_factory.mktemp("named") / "results"
    cells = [scored(root, row, column) for row in NAMES for column in SPEC["columns"]]
    write_index(root, "named", SPEC | {"rows": {clean(name): [] for name in NAMES}}, cells, "tiny")
    build_report(root)
    return root


def test_any_name_stands_in_every_form_of_a_table(named):
    made = {path.suffix: path.read_text() for path in (named / "tables").iterdir()}
    assert not any(re.search("[\x00-\x08\x0b-\x1f]", text) for text in made.values())
    rows = list(csv.DictReader(io.StringIO(made[".csv"])))
    assert {row["method"] for row in rows} >= {"'=1+1", "'-DPO", "'@x", "None", "NA", "two lines", "_hidden", "a $$ b"}
    body = made[".tex"]
    assert not re.search(r"(\\\\|\\midrule|\\toprule)\s*[\[*]", body)
    assert not re.search(r"(?<!\\)[#]|(?<!\\)\$(?!-\$|\\pm\$|\$)", re.sub(r"\$(-|\\pm)\$", "", body))
    assert "<b>" not in made[".html"]
    assert "{{ 7 }}" in made[".html"]


def test_frames_hold_names_as_they_are(named):
    names = set(load(named).tables.method)
    assert {"None", "NA", "=1+1", "-DPO", "@x"} <= names
    assert load(named).tables.reproduced.dtype == float


def test_any_name_is_drawn(named):
    from eval.plots import name

    assert (named / "figures" / "named.png").is_file()
    assert not name("_hidden").startswith("_")
    assert mpl.rcParams["text.parse_math"]  # of the picture alone


@pytest.mark.parametrize(("cell", "shown"), [
    ("=1+1", "'=1+1"), ("+cmd", "'+cmd"), ("-DPO", "'-DPO"), ("@SUM", "'@SUM"), ("  =1", "'  =1"), ("-1.5", "-1.5"), ("+2", "+2"),
    ("-1e-05", "-1e-05"), ("-1,234", "-1,234"), ("-5+3", "'-5+3"), ("=", "'="), ("a=b", "a=b"), ("", ""), ("＝1", "'＝1"),
    ("'=1", "''=1"), ("-", "'-"),
])
def test_no_cell_is_a_formula(cell, shown):
    assert defused(cell) == shown
    assert next(csv.DictReader(io.StringIO(to_csv([{"a": cell + ",\r\n\t"}], ["a"]))))["a"].endswith(", ") or not cell


@pytest.mark.parametrize("value", [-0.0, -1e-9])
def test_zero_has_no_sign(tmp_path, value):
    assert number(value, 4) == "0.0000"
    assert not short(value).startswith("-0")
    path = tmp_path / "scores.jsonl"
    write_jsonl(path, [{"mode": "greedy", "reward": value}])
    assert score_lines(path) == ["greedy   reward 0.000  (n 1)"]


def test_published_numbers_in_another_encoding_are_one_line(tmp_path):
    (tmp_path / "published").mkdir()
    (tmp_path / "published" / "x.csv").write_bytes("method,value\n\u00e9,1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"x.csv is no UTF-8 text .*: save it as UTF-8"):
        Archive(tmp_path, tmp_path).published_rows("x.csv")


def test_text_by_hand():
    assert plain("a\x00b\ud800c\u202e\r\nd") == "a\ufffdb\ufffdc\ufffd\nd"
    assert one_line("a\n\tb") == "a b"
    assert tex("[x] *y* \x07") == "{[}x] {*}y{*} ?"
    assert md("a & [b](c) $x$ ~~d~~ #e\nf") == r"a &amp; \[b\](c) \$x\$ \~\~d\~\~ \#e f"
    assert number_of(10**400) == float("inf")
    assert str(number_of("1")) == "nan"


@pytest.mark.parametrize(("text", "value", "unit"), [
    ("0.0740", 0.074, 5e-5), ("500", 500, 0.5), ("1.0e-5", 1e-5, 5e-7), ("1E3", 1000, 500), ("1,234", 1234, 0.5),
    ("12.5 %", 12.5, 0.05), ("12.5%", 12.5, 0.05), ("\u22120.7", -0.7, 0.05), ("+.5", 0.5, 0.05), ("1,234.50", 1234.5, 0.005),
])
def test_numbers_as_papers_print_them(text, value, unit):
    assert printed(text) == value
    assert half_unit(text) == pytest.approx(unit)


@pytest.mark.parametrize("text", ["", "-", "n/a", "1,23", "nan", "inf", "about 3", "1.2.3", "1_000"])
def test_what_is_no_printed_number(text):
    assert str(printed(text)) == "nan"


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_row_is_shown_as_bad_and_the_page_is_made(tmp_path, kind):
    cell = scored(tmp_path, "A", "B", BAD_LINES[kind] + "\n")
    spec = SPEC | {"rows": {"A": []}, "columns": {"B": []}}
    write_index(tmp_path, "bad", spec, [cell], "tiny")
    write_index(tmp_path, "shown", spec | {"kind": "samples"}, [cell], "tiny")
    build_report(tmp_path)
    page = (tmp_path / "report" / "runs" / f"{cell.stages['score']}.html").read_bytes().decode()
    assert "<script" not in page
    assert {"cut": "unreadable row", "no response": "(no response)"}.get(kind, "") in page
    metric = Metric.model_validate(SPEC["metrics"][0])
    if kind in WRONG:
        with pytest.raises(Unusable, match="has 1 (unreadable lines|of 9 values that are not finite numbers)"):
            read_series(Archive(tmp_path), cell, metric)


class Links(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.links, self.ids, self.policy, self.tags = [], set(), "", set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        here = dict(attributes)
        self.tags |= {tag, *(f"@{name}" for name in here)}
        self.links += [here[name] for name in ("href", "src") if name in here]
        self.ids |= {here["id"]} if "id" in here else set()
        if here.get("http-equiv") == "Content-Security-Policy":
            self.policy = here["content"]


@pytest.mark.parametrize("which", ["root", "named"])
def test_every_link_of_every_page_leads_somewhere(which, request):
    root = request.getfixturevalue(which)
    pages = {path.resolve(): Links(path.read_text()) for folder in (root / "report", root / "tables")
             for path in folder.rglob("*.html")}
    assert any(path.parent.parts[-2:] == ("report", "tables") for path in pages)
    for path, page in pages.items():
        for link in page.links:
            address, _, anchor = link.partition("#")
            target = (path.parent / unquote(address)).resolve() if address else path
            assert target.is_file(), (path, link)
            assert not anchor or unquote(anchor) in pages[target].ids, (path, link)
            if path.is_relative_to((root / "report").resolve()):  # the folder stands alone
                assert target.is_relative_to((root / "report").resolve()), (path, link)


def test_every_page_has_a_policy_that_it_keeps(root, named):
    for path in [*root.rglob("*.html"), *named.rglob("*.html")]:
        text = path.read_text()
        page = Links(text)
        assert "default-src 'none'" in page.policy
        assert "script-src" not in page.policy
        assert not page.tags & {"script", "iframe", "object", "link", "base", "form", "@style", "@onload", "@onclick"}
        (style,) = re.findall("<style>(.*?)</style>", text, re.S)
        assert base64.b64encode(hashlib.sha256(style.encode()).digest()).decode() in page.policy


def test_files_that_begin_with_a_byte_order_mark_are_read(named, tmp_path):
    for folder in ("tables", "index"):
        (tmp_path / folder).mkdir()
        for path in [*(named / folder).glob("*.csv"), *(named / folder).glob("*.json")]:
            (tmp_path / folder / path.name).write_text(f"\ufeff{path.read_text()}")
    assert {"table_id", "method"} <= set(load(tmp_path).tables)
    assert Archive(tmp_path).index("named")[0].experiment == "named"


def test_a_locale_that_is_not_utf_8_makes_the_same_report(named):
    code = "import sys; from eval.report import build_report; build_report(sys.argv[1])"
    before = (named / "tables" / "named.csv").read_bytes()
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(named)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-500:]
    assert (named / "tables" / "named.csv").read_bytes() == before
