"""Markdown and LaTeX of a table, with its notes, claims and deviation ledger underneath."""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate

from eval.layout import Line, Sheet, Shown, sheet, verdict_text
from eval.tables import SECOND, TableFrame
from eval.values import one_line

LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{",
         "}": r"\}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "<": r"\textless{}",
         ">": r"\textgreater{}", "−": "$-$", "–": "--", "\ufffd": "?", '"': r"\textquotedbl{}",
         "[": "{[}", "*": "{*}"}  # after the end of a row both would be an argument of it
MARKDOWN = {"\\": "\\\\", "|": "\\|", "*": "\\*", "_": "\\_", "`": "\\`", "<": "&lt;", ">": "&gt;", "&": "&amp;",
            "$": "\\$", "~": "\\~", "#": "\\#", "[": "\\[", "]": "\\]"}

MOST = 6  # panels side by side in markdown
WIDE = 12  # columns of numbers that fit a page in LaTeX
READING = ("Each place: published | reproduced ± half of its 95 % interval (rows behind it, verdict). Bold: better "
           "than every other row in 95 % of paired bootstrap draws.")


def escape(text: str, table: dict[str, str]) -> str:
    """Replace every character that means something in the target language."""
    return "".join(table.get(character, character) for character in one_line(text))


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
    for part in page.parts(MOST):
        lines += _markdown_part(part)
    lines += [md(reading(page)), ""]
    lines += [f"- {md(f'{mark} {note}'.strip())}" for mark, note in page.notes]
    return "\n".join([*lines, *_markdown_claims(frame), *_markdown_ledger(frame)]).rstrip() + "\n"


def _markdown_part(part: Sheet) -> list[str]:
    (block,) = part.blocks
    heads = [f"{md(group.label)}<br>{md(metric)}" if group.label else md(metric)
             for group in part.groups for metric in group.metrics]
    lines = [f"**{md(block.label)}**", ""] if block.label else []
    lines += ["| Method | " + " | ".join(heads) + " |", "|:--|" + "--:|" * len(heads)]
    lines += [f"| {_label(line, md)} | " + " | ".join(map(_markdown_place, line.places)) + " |"
              for line in block.lines]
    return [*lines, ""]


def reading(page: Sheet) -> str:
    """How to read a place, as far as the table needs it."""
    second = " Italic: better than all but that one, likewise." if SECOND in page.marks else ""
    trials = " In brackets: standard deviation over trials." if any(
        place.std for line in page.lines for place in line.places) else ""
    return READING + second + trials


def _label(line: Line, escaped: Callable[[str], str]) -> str:
    protocol = f"({line.protocol})" if line.protocol else ""
    return " ".join(escaped(part) for part in (line.label, protocol, line.mark) if part)


def _markdown_place(place: Shown) -> str:
    around = "**" if place.best or place.hole else "*" if place.second else ""
    reproduced = f"{around}{md(place.reproduced)}{around}"
    published = f"{md(place.published)} \\| " if place.published else ""
    aside = f" ({md(place.aside)})" if place.aside else ""
    warning = f" **{md(', '.join(place.warnings))}**" if place.warnings else ""
    return f"{published}{reproduced}{aside}{warning}{' ' + md(place.mark) if place.mark else ''}"


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
    """The table in LaTeX (package booktabs): tasks over metrics, two columns where the paper prints a number; models as
    blocks of rows; the rest below. A wide table is scaled to the page (package graphicx)."""
    page = sheet(frame)
    double = page.double
    total = sum(1 + printed for printed in double)
    wide = total > WIDE
    lines = [f"% needs \\usepackage{{booktabs{',graphicx' if wide else ''}}}", "\\begin{table}", "\\centering",
             f"\\caption{{{tex(frame.experiment.title)}}}", f"\\label{{tab:{_label_of(frame.name)}}}",
             *(["\\resizebox{\\textwidth}{!}{%"] if wide else []),
             f"\\begin{{tabular}}{{l{'r' * total}}}", "\\toprule", *_latex_head(page)]
    for block in page.blocks:
        lines += ["\\midrule"]
        lines += [f"\\multicolumn{{{1 + total}}}{{l}}{{\\textit{{{tex(block.label)}}}}} \\\\"] if block.label else []
        for line in block.lines:
            places = [_latex_place(place, printed) for place, printed in zip(line.places, double, strict=True)]
            lines.append(" & ".join([_label(line, tex), *places]) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}" + ("}" if wide else ""),
              "\\par\\smallskip\\footnotesize\\raggedright"]
    return "\n".join([*lines, *_latex_notes(frame, page.notes), "\\end{table}"]) + "\n"


def _label_of(name: str) -> str:
    """A name that references can use: letters, digits, and what means nothing to LaTeX."""
    return "".join(one if one.isascii() and (one.isalnum() or one in "_-.:") else "-" for one in name)


def _latex_head(page: Sheet) -> list[str]:
    """Tasks (where there are several), metrics, and what each column holds."""
    widths = [1 + printed for printed in page.double]
    metrics = [metric for group in page.groups for metric in group.metrics]
    lines = []
    if len(page.groups) > 1:
        ends = list(accumulate(len(group.metrics) for group in page.groups))
        spans = [sum(widths[end - len(group.metrics):end]) for group, end in zip(page.groups, ends, strict=True)]
        lines += _spanning([group.label for group in page.groups], spans)
    lines += _spanning(metrics, widths)
    heads = "".join(" & published & reproduced" if printed else " & reproduced" for printed in page.double)
    return [*lines, f"Method{heads} \\\\"]


def _spanning(labels: list[str], widths: list[int]) -> list[str]:
    starts = [2 + sum(widths[:i]) for i in range(len(widths))]
    cells = " & ".join(f"\\multicolumn{{{width}}}{{c}}{{{tex(label)}}}"
                       for label, width in zip(labels, widths, strict=True))
    rules = " ".join(f"\\cmidrule(lr){{{start}-{start + width - 1}}}"
                     for start, width in zip(starts, widths, strict=True))
    return [f" & {cells} \\\\", rules]


def _latex_place(place: Shown, printed: bool) -> str:
    reproduced = tex(place.reproduced)
    if place.best:
        reproduced = f"\\textbf{{{reproduced}}}"
    elif place.second:
        reproduced = f"\\underline{{{reproduced}}}"
    published = f"{tex(place.published)} & " if printed else ""
    return f"{published}{reproduced}{' ' + tex(place.mark) if place.mark else ''}"


def _latex_notes(frame: TableFrame, notes: tuple[tuple[str, str], ...]) -> list[str]:
    paragraphs = [frame.banner, *(f"{mark} {note}".strip() for mark, note in notes)]
    paragraphs += [f"{one.claim.id}: {one.claim.says} Published: {verdict_text(one.published)}. "
                   f"Reproduced: {verdict_text(one.reproduced)}." for one in frame.claims]
    paragraphs += [f"{one.id}: {one.we_do}" for one in frame.deviations]
    return [f"{tex(paragraph)}\\par" for paragraph in paragraphs if paragraph]
