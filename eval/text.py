"""Markdown and LaTeX of a table, with its notes, claims and deviation ledger underneath."""

from __future__ import annotations

from collections.abc import Callable

from eval.layout import Line, Shown, sheet, verdict_text
from eval.tables import TableFrame

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
         "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}",
         ">": r"\textgreater{}"}
MARKDOWN = {"\\": "\\\\", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "<": "&lt;", ">": "&gt;", "\n": " "}


def escape(text: str, table: dict[str, str]) -> str:
    """Replace every character that means something in the target language."""
    return "".join(table.get(character, character) for character in text)


def tex(text: str) -> str:
    """Text as LaTeX; a leading minus of a number becomes a real minus."""
    escaped = escape(text, LATEX)
    return f"$-${escaped[1:]}" if text[:1] == "-" and text[1:2].isdigit() else escaped


def md(text: str) -> str:
    """Text as markdown, safe inside a table."""
    return escape(text, MARKDOWN)


def to_markdown(frame: TableFrame) -> str:
    """The table in markdown: each place reads published | reproduced ± half interval (n, verdict)."""
    page = sheet(frame)
    lines = [f"# {md(frame.experiment.title)}", "", md(frame.experiment.about), ""]
    if frame.banner:
        lines += [f"> **{md(frame.banner)}**", ""]
    lines += ["| Method | " + " | ".join(map(md, page.headings)) + " |",
              "|:--|" + "--:|" * len(page.headings)]
    for line in page.lines:
        label = _label(line, md)
        lines.append(f"| {label} | " + " | ".join(map(_markdown_place, line.places)) + " |")
    lines += ["", md(READING), ""]
    lines += [f"- {md(mark)} {md(note)}" for mark, note in page.notes]
    return "\n".join([*lines, *_markdown_claims(frame), *_markdown_ledger(frame)]).rstrip() + "\n"


READING = ("Each place: published | reproduced ± half of its 95 % interval (rows behind it, verdict). Bold: better "
           "than every other row in 95 % of paired bootstrap draws.")


def _label(line: Line, escaped: Callable[[str], str]) -> str:
    protocol = f"({line.protocol})" if line.protocol else ""
    return " ".join(escaped(part) for part in (line.label, protocol, line.mark) if part)


def _markdown_place(place: Shown) -> str:
    reproduced = f"**{md(place.reproduced)}**" if place.best or place.hole else md(place.reproduced)
    published = f"{md(place.published)} \\| " if place.published else ""
    aside = f" ({md(place.aside)})" if place.aside else ""
    return f"{published}{reproduced}{aside}{' ' + md(place.mark) if place.mark else ''}"


def _markdown_claims(frame: TableFrame) -> list[str]:
    if not frame.claims:
        return []
    lines = ["", "## Claims", "", "| Claim | On the published numbers | On the reproduced numbers |", "|:--|:--|:--|"]
    for result in frame.claims:
        says = f"{md(result.claim.id)}: {md(result.claim.says)}"
        lines.append(f"| {says} | {md(verdict_text(result.published))} | {md(verdict_text(result.reproduced))} |")
        lines += [f"| {md(result.claim.id)}, {md(name)} | | {md(verdict_text(verdict))} |"
                  for name, verdict in result.also.items()]
    return lines


def _markdown_ledger(frame: TableFrame) -> list[str]:
    if not frame.deviations:
        return []
    lines = ["", "## Where we differ from the paper, or had to choose", "",
             "| | The paper | Here | Why | Effect |", "|:--|:--|:--|:--|:--|"]
    return lines + [f"| {md(one.id)} | {md(one.report_says)} | {md(one.we_do)} | {md(one.why)} | {md(one.effect)} |"
                    for one in frame.deviations]


def to_latex(frame: TableFrame) -> str:
    """The table in LaTeX (package booktabs): a column a metric, two where the paper prints it; the rest below it."""
    page = sheet(frame)
    double = [any(line.places[i].published for line in page.lines) for i in range(len(page.headings))]
    widths = [1 + printed for printed in double]
    starts = [2 + sum(widths[:i]) for i in range(len(widths))]
    groups = " & ".join(f"\\multicolumn{{{width}}}{{c}}{{{tex(heading)}}}"
                        for heading, width in zip(page.headings, widths, strict=True))
    rules = " ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}"
                     for start, width in zip(starts, widths, strict=True))
    heads = "".join(" & published & reproduced" if printed else " & reproduced" for printed in double)
    lines = ["% needs \\usepackage{booktabs}", "\\begin{table}", "\\centering",
             f"\\caption{{{tex(frame.experiment.title)}}}", f"\\label{{tab:{frame.name}}}",
             f"\\begin{{tabular}}{{l{'r' * sum(widths)}}}", "\\toprule", f" & {groups} \\\\", rules,
             f"Method{heads} \\\\", "\\midrule"]
    for line in page.lines:
        label = _label(line, tex)
        places = [_latex_place(place, printed) for place, printed in zip(line.places, double, strict=True)]
        lines.append(" & ".join([label, *places]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}", "\\par\\smallskip\\footnotesize\\raggedright"]
    return "\n".join([*lines, *_latex_notes(frame, page.notes), "\\end{table}"]) + "\n"


def _latex_place(place: Shown, printed: bool) -> str:
    reproduced = tex(place.reproduced)
    if place.best:
        reproduced = f"\\textbf{{{reproduced}}}"
    published = f"{tex(place.published)} & " if printed else ""
    return f"{published}{reproduced}{' ' + tex(place.mark) if place.mark else ''}"


def _latex_notes(frame: TableFrame, notes: tuple[tuple[str, str], ...]) -> list[str]:
    paragraphs = [frame.banner, *(f"{mark} {note}" for mark, note in notes)]
    paragraphs += [f"{one.claim.id}: {one.claim.says} Published: {verdict_text(one.published)}. "
                   f"Reproduced: {verdict_text(one.reproduced)}." for one in frame.claims]
    paragraphs += [f"{one.id}: {one.we_do}" for one in frame.deviations]
    return [f"{tex(paragraph)}\\par" for paragraph in paragraphs if paragraph]
