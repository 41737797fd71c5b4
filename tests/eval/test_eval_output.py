"""What people look at: csv, markdown, LaTeX, HTML, terminal, figures, report."""

from __future__ import annotations

import csv
import io
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from fixture import HOSTILE, fail, make_experiment, make_results, spec_of, write_index
from rich.console import Console

import eval as evaluation
from eval.artifacts import Archive
from eval.report import build_report
from eval.tables import COLUMNS, Book
from eval.text import md, tex, to_latex, to_markdown
from rlfamily.errors import UserError

CONTRACT = ["table_id", "model", "method", "task_or_benchmark", "metric", "published", "published_std", "reproduced",
            "ci_low", "ci_high", "n", "seeds", "scale", "verdict", "run_ids", "note"]


def table_rows(root, name):
    with (root / "tables" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_has_exactly_the_contract_columns(root):
    assert COLUMNS == CONTRACT
    for path in (root / "tables").glob("*.csv"):
        assert path.read_text().splitlines()[0] == ",".join(CONTRACT), path.name


def test_csv_rows_by_example(root):
    row = next(row for row in table_rows(root, "topr_tab2")
               if (row["method"], row["metric"]) == ("Experiment 1", "PG loss"))
    assert (row["published"], row["scale"], row["seeds"], row["n"]) == ("-34.5635", "tiny", "0,1,2", "120")
    assert row["verdict"] == "not comparable (stand-in)"
    assert float(row["ci_low"]) < float(row["reproduced"]) < float(row["ci_high"])
    assert len(row["run_ids"].split()) == 3
    assert all((root / "report" / "runs" / f"{key}.html").is_file() for key in row["run_ids"].split())
    hidden = next(row for row in table_rows(root, "topr_tab2") if row["metric"] == "PG loss slope")
    assert hidden["note"] == "used by claims only"


def test_two_builds_write_equal_bytes(root, tmp_path):
    again = make_results(tmp_path / "results")
    build_report(again)
    for folder in ("tables", "figures", "report"):
        paths = sorted(path for path in (root / folder).rglob("*") if path.is_file())
        assert len(paths) > 9
        for path in paths:
            assert path.read_bytes() == (again / path.relative_to(root)).read_bytes(), path.name


def test_figures_of_the_same_data_are_left_alone(root):
    before = {path: path.stat().st_mtime_ns for path in (root / "figures").iterdir()}
    build_report(root)
    assert before == {path: path.stat().st_mtime_ns for path in (root / "figures").iterdir()}


def test_every_experiment_but_the_settings_has_its_figure(root):
    made = {path.stem for path in (root / "figures").glob("*.svg")}
    assert made == {path.stem for path in (root / "index").glob("*.json")} - {"topr_tab1"}
    curves = list(csv.DictReader(io.StringIO((root / "figures" / "topr_fig5.csv").read_text())))
    assert {row["panel"] for row in curves} == {"PG loss", "valid equation rate"}
    assert {row["seed"] for row in curves} == {"0", "1", "2"}
    bins = list(csv.DictReader(io.StringIO((root / "figures" / "topr_fig1.csv").read_text())))
    assert len({row["panel"] for row in bins}) == 4
    total = sum(float(row["density"]) * (float(row["high"]) - float(row["low"])) for row in bins)
    assert total == pytest.approx(8.0, rel=1e-5)  # 4 panels x 2 splits, each of area 1


def test_markdown_of_a_cell(book):
    text = to_markdown(book.frame("topr_tab2"))
    number = r"-?\d+\.\d{4}"
    place = rf"-34\.5635 \\\| {number} ± {number} \(n=120, stand-in\)"
    assert re.search(rf"\| Experiment 1 \(as reported\) \| {place}", text)
    assert "Stand-in models and data" in text
    assert "topr\\_c1b" in text
    assert "loo\\_greedy" in text


def test_latex_is_booktabs_and_escaped(book):
    text = to_latex(book.frame("topr_compare"))
    assert text.count("\\toprule") == text.count("\\bottomrule") == 1
    assert "\\textbf{" in text
    assert "\\begin{tabular}{lrrr}" in text  # the paper prints none of these numbers
    assert "\\begin{tabular}{lrrrrrr}" in to_latex(book.frame("topr_tab2"))  # it prints two of the four there
    assert "no pairs \\textless{}left\\textgreater{}" in text
    body = re.sub(r"\\label\{[^}]*\}", "", text)
    assert not re.search(r"(?<!\\)[_%#]", body.replace("% needs", ""))


def test_escapes_by_hand():
    assert tex("50% of a_b & {c} \\ -1") == r"50\% of a\_b \& \{c\} \textbackslash{} -1"
    assert tex("-34.5 ± 1") == r"$-$34.5 $\pm$ 1"
    assert md("a|b_c <x>") == r"a\|b\_c &lt;x&gt;"


def test_terminal_fits_100_columns(book):
    for name in book.archive.names():
        text = io.StringIO()
        evaluation.show(book.frame(name), Console(file=text))
        assert max(map(len, text.getvalue().splitlines())) <= 100
    assert "stand-in" in text.getvalue().lower()


def test_holes_are_shown_everywhere(tmp_path):
    make_experiment(tmp_path, "topr_fig5", "tiny")
    index = Archive(tmp_path).index("topr_fig5")[0]
    write_index(tmp_path, "topr_fig5", spec_of("topr_fig5"), [fail(tmp_path, cell) for cell in index.cells], "tiny")
    frame = evaluation.build("topr_fig5", tmp_path)
    text = io.StringIO()
    evaluation.show(frame, Console(file=text))
    assert "failed" in text.getvalue()
    assert "seeds 0, 1, 2 failed: ValueError: no pairs <left>" in text.getvalue()
    for suffix in ("csv", "md", "tex", "html"):
        assert "failed" in (tmp_path / "tables" / f"topr_fig5.{suffix}").read_text()
    assert not (tmp_path / "figures").exists()
    page = build_report(tmp_path).read_text()
    assert "Failed stages" in page
    assert "ValueError: no pairs &lt;left&gt;" in page


class Page(HTMLParser):
    """Collects addresses and ids; an element that only hostile text could bring is an error."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links, self.ids = [], set()
        self.feed(path.read_text())

    def handle_starttag(self, tag, attributes):
        assert tag not in ("script", "iframe", "object", "link"), tag
        for name, value in attributes:
            assert not name.startswith("on"), name
            if name in ("href", "src"):
                self.links.append(value)
            if name == "id":
                self.ids.add(value)


@pytest.fixture(scope="module")
def pages(root):
    folders = (root / "report", root / "report" / "runs", root / "tables")
    return {path.resolve(): Page(path) for folder in folders for path in folder.glob("*.html")}


def test_the_report_stands_alone(pages, root):
    for path, page in pages.items():
        for link in page.links:
            assert not re.match(r"[a-z]+:|//", link), (path, link)
        text = path.read_text()
        assert "url(" not in text
        assert "@import" not in text


def test_what_a_model_wrote_is_text(root):
    escaped = "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &lt;b&gt;bold&lt;/b&gt; {{ 7*7 }}"
    texts = [path.read_text() for path in (root / "report" / "runs").glob("*.html")]
    assert any(escaped in text for text in texts)
    assert not any(HOSTILE in text for text in texts)


def test_a_run_page_has_what_a_digit_stands_on(root, book):
    entry = book.frame("topr_tab2").at("Experiment 1", "Countdown (TinyZero)", "PG loss")[0]
    text = (root / "report" / "runs" / f"{entry.runs[0][1]}.html").read_text()
    for needed in ("Resolved config", "&#34;prompts&#34;: 500", "Training curves", "pg_loss", "Samples", "Manifest",
                   "0123456789abcdef", "2.13.0+cpu", "3,840 tokens", "SFT · seed 0", "Time in generate"):
        assert needed in text, needed


def test_pages_of_runs_nobody_asks_for_now_are_removed(tmp_path):
    make_experiment(tmp_path, "topr_fig5", "tiny")
    stale = tmp_path / "report" / "runs" / "0000.html"
    stale.parent.mkdir(parents=True)
    stale.write_text("old")
    build_report(tmp_path)
    assert not stale.exists()


def test_a_report_of_nothing_is_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no results under .*: run make reproduce TABLE=topr_tab2 first"):
        build_report(tmp_path)


def test_help_and_import_are_light():
    code = ("import sys, eval, eval.__main__; eval.__main__.main([]); "
            "print(sorted({'torch', 'pandas', 'matplotlib', 'numpy'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_rebuilding_needs_no_torch_and_no_pandas(root):
    code = ("import sys, eval.__main__; code = eval.__main__.main(['topr_tab1', '--results', sys.argv[1]]); "
            "print(code, sorted({'torch', 'pandas', 'transformers'} & set(sys.modules)))")
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "0 []"
    assert "report: " in done.stdout


def test_the_command_line_refuses_in_one_line(root):
    done = subprocess.run([sys.executable, "-m", "eval", "topr_tab3", "--results", str(root)], capture_output=True,
                          text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: topr_tab3: no results under ")
    assert done.stderr.count("\n") == 1


def test_paper_scale_has_no_banner_and_real_verdicts(tmp_path):
    make_experiment(tmp_path, "topr_tab2", "paper")
    frame = Book(Archive(tmp_path)).frame("topr_tab2")
    assert frame.banner == ""
    assert frame.at("Experiment 1", "Countdown (TinyZero)", "PG loss")[0].verdict == "contradicted"
