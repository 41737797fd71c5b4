"""The report's front page and its folder: order, claims, counts, links, copies, and nothing that is out of date."""

from __future__ import annotations

import re
from types import SimpleNamespace

from fixture import write_index
from test_eval_shown import cell, greedy
from wide import SPEC, experiments

from eval.checks import Verdict
from eval.claims import Claim, ClaimResult
from eval.report import _claims, _tally, build_report, place_order, short_place


def stub(paper, place, name, claims=(), entries=(), holes=()):
    return SimpleNamespace(name=name, experiment=SimpleNamespace(paper=paper, place=place), claims=claims,
                           entries=entries, holes=holes)


def test_papers_apart_tables_before_figures_by_number_and_what_is_not_printed_last():
    places = [("P", "Figure 2", "b"), ("P", "Section 3", "s"), ("P", "Table 10", "t10"), ("P", "", "a"),
              ("P", "Table 2, left", "t2"), ("P", "Figure 1", "z"), ("O", "Table 3", "o"), ("P", "Figure 1", "c")]
    frames = sorted((stub(*one) for one in places), key=place_order)
    assert [frame.name for frame in frames] == ["o", "t2", "t10", "c", "z", "b", "a", "s"]
    assert [short_place(frame) for frame in frames] == ["Table 3", "Table 2", "Table 10", "Figure 1", "Figure 1",
                                                        "Figure 2", "a", "Section 3"]


def claim(name, *tables):
    made = Claim(id=name, paper="P", where="", tables=list(tables), says="s")
    return ClaimResult(made, Verdict("supported"), Verdict("not run", reason="r"), {})


def entry(hole="", shown=True):
    return SimpleNamespace(metric=SimpleNamespace(shown=shown), hole=hole)


def test_every_claim_is_there_once_in_the_order_of_its_number_and_counted_once():
    both, late, early = claim("p_c9", "x", "y", "elsewhere"), claim("p_c10", "x"), claim("p_c2b", "y")
    frames = [stub("P", "", "x", (late, both), [entry(), entry("not applicable"), entry("failed")], ["failed"]),
              stub("P", "", "y", (both, early), [entry(), entry(shown=False)])]
    assert [(one.claim.id, names) for one, names in _claims(frames)] == [
        ("p_c2b", ["y"]), ("p_c9", ["x", "y"]), ("p_c10", ["x"])]
    assert _tally(frames) == {"numbers": {"printed": 3, "holes": 1}, "published": {"supported": 3},
                              "reproduced": {"not run": 3}}


def test_the_front_page_leads_to_every_form_and_what_is_gone_goes(tmp_path):
    folder = experiments(tmp_path / "e")
    cells = [cell(tmp_path, greedy(0.0, 1.0, response=("said so", "said no")), row) for row in ("base", "Ours")]
    write_index(tmp_path, "wide_tab", SPEC | {"published": "", "derived": []}, cells, "tiny")
    write_index(tmp_path, "wide_samples", SPEC | {"published": "", "derived": [], "kind": "samples", "place": ""}, cells, "tiny")
    report = build_report(tmp_path, folder).parent
    text = (report / "index.html").read_text()
    assert re.findall(r'<a href="#wide[^>]*>([^<]*)</a>', text) == ["Table 1", "wide_samples"]
    links = {link for link in re.findall(r'href="([^"#]+)"', text) if link.split("/")[-1].startswith("wide_tab.")}
    assert links == {*(f"tables/wide_tab.{suffix}" for suffix in ("csv", "md", "tex", "html")),
                     *(f"figures/wide_tab.{suffix}" for suffix in ("svg", "png", "csv"))}
    for link in links - {"tables/wide_tab.html"}:  # its links lead elsewhere from there
        assert (report / link).read_bytes() == (tmp_path / link).read_bytes()
    assert 'href="samples/wide_samples/index.html"' in text and 'href="samples/wide_tab/' not in text
    assert (report / "samples" / "wide_samples" / "index.html").is_file() and (report / "runs" / "index.html").is_file()
    pages = {path: path.stat().st_mtime_ns for path in (report / "runs").iterdir()}
    assert {path.stem for path in pages} >= {one.stages["score"] for one in cells}
    build_report(tmp_path, folder)  # pages that say the same are left alone
    assert pages == {path: path.stat().st_mtime_ns for path in (report / "runs").iterdir()}

    write_index(tmp_path, "wide_tab", SPEC | {"published": "", "derived": []}, [], "tiny")
    write_index(tmp_path, "wide_samples", SPEC | {"published": "", "derived": [], "kind": "samples", "place": ""}, [], "tiny")
    build_report(tmp_path, folder)
    assert not list((report / "figures").glob("wide_tab.*")) and (report / "tables" / "wide_tab.md").is_file()
    assert "figures/wide_tab" not in (report / "index.html").read_text()
    assert not list((report / "samples" / "wide_samples").iterdir())
