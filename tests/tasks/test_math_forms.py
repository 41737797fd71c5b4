"""What is equal to what, kind by kind; what is no answer; hostile text, told in a moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfamily.examples import Example
from rlfamily.rewards import correctness
from rlfamily.tasks import math
from rlfamily.tasks.support.math_answers import MAX_CHARACTERS, equivalent
from rlfamily.tasks.support.math_forms import contradictions, hostile, normal

EQUAL = {
    "scientific notation": ("4.5e33", [
        r"4.5 \times 10^{33}", "4.5 × 10^33", "4.5*10^33", r"4.5 \cdot 10^{33}", "4.5E33", "4.5e+33", "4.5 · 10³³",
        r"4.5 x 10^{33}", "45e32", "4.5 * 10**33", r"4.5\text{e}33"]),
    "negative powers": ("4.5e-7", [r"4.5 \times 10^{-7}", "4.5×10⁻⁷", r"4.5\times10^{−7}", "0.00000045", "45E-8"]),
    "tiny": (r"1.6 \times 10^{-19}", ["1.6e-19", r"\frac{1.6}{10^{19}}", "-0 + 1.6e-19"]),
    "small powers": ("1000", ["1e3", r"1.0 \times 10^3"]), "halves of pi": (r"\frac{\pi}{2}", ["π/2"]),
    "powers within powers": ("e^{-x^2}", ["e^{-x^{2}}"]), "powers of two": ("2^{10}", ["2¹⁰", "1024"]),
    "power alone": ("10^{22}", ["1e22", r"1 \times 10^{22}"]),
    "thousands": ("10000", [r"10\,000", r"10\;000", r"10\ 000", r"10\:000", "10~000", "10{,}000", "10,000", r"10,\!000",
                            "10 000", "10'000", "10\u2009000", "10\u202f000", "10\u00a0000"]),
    "percent": ("0.5", [r"50\%", "50%", r"50 \text{percent}", "50 percent", "0.50"]),
    "percent, without its sign": ("12.5", [r"12.5\%"]),
    "percent, asked for": (r"50\%", ["0.5", "50", r"\frac{1}{2}", "50%"]),
    "angles in degrees": (r"\frac{1}{2}", [r"\sin 30^\circ", r"\sin(30^{\circ})", "\\cos 60°"]),
    "degrees": ("90", [r"90^\circ", r"90^{\circ}", "90°", "90 degrees", r"90\text{ degrees}"]),
    "unicode roots": (r"2\sqrt{3}", ["2√3", "2√(3)", "√12"]), "unicode cube root": (r"\sqrt[3]{2}", ["∛2"]),
    "unicode signs": ("-7", ["−7", "–7"]), "unicode fractions": (r"\frac{5}{2}", ["2½", "5⁄2"]),
    "unicode powers": ("x^2", ["x²"]), "pi": (r"2\pi", ["2π"]), "infinity": (r"(-\infty, 3]", ["(−∞, 3]"]),
    "full stop": ("7", ["7.", "$7$", "$7.$", r"7\,"]),
    "empty set": (r"\emptyset", [r"\varnothing", "∅", r"\{\}", r"\left\{ \right\}", r"\text{empty set}"]),
    "assignment": ("7", ["x = 7", "f(2) = 7", "3 + 4 = 7", r"\frac{14}{2} = 7", "a + b = 7"]),
    "units": ("5", [r"5 \text{ cm}", "5 cm", r"\$5"]),
    "units and powers": ("3e8", [r"3 \times 10^8 \text{ m/s}"]),
    "decimal comma": ("3.14", ["3{,}14"]),
    "sets": (r"\{1, 2\}", ["2, 1", r"\{2,1\}"]), "tuples": ("(1,2)", ["(1, 2)", "x=1, y=2"]),
    "intervals": ("[1,2)", ["[1, 2)"]), "relations": (r"x \geq 2", [r"x \ge 2", "2 ≤ x"]),
    "matrices": (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", [r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}"]),
    "text": (r"\text{Monday}", ["Monday"]), "letters": ("2e", [r"2 \cdot e"]), "large powers": ("2^{2024}", ["4^{1012}"]),
}
DIFFERENT = {
    "huge": ("4.5e33", ["4.6e33", "4.5e32", r"4.5 \times 10^{-33}", "-4.5e33", "4.5"]),
    "tiny": (r"1.6 \times 10^{-19}", [r"1.7 \times 10^{-19}", "1.6e-18", "0", r"\frac{1.7}{10^{19}}", "-1.6e-19"]),
    "small fractions": (r"\frac{1}{10^5}", ["0.0000101", "2e-5"]),
    "Euler's number": ("2e^3", ["2000", "2e3"]), "integers": ("10000000001", ["1e10", "10000000002"]),
    "whole numbers with a point": ("1000000", ["1000001.0", "1000000.5"]),
    "relations to a number": ("7", ["> 7", r"\neq 7", r"\ge 7", "x > 7", "≠ 7", r"\leq 7", "7 < 8"]),
    "false statements": ("7", ["9 = 7", "3 + 5 = 7", "n = 3 = 7", "9 = 8 = 7", "9 ≈ 7"]),
    "false statement about a name": ("x = 5", ["9 = 5", "y = 6"]),
    "percent": ("0.5", [r"0.5\%", r"5\%", r"51\%"]), "percent of percent": (r"15\%", [r"16\%", "0.16"]),
    "empty set": (r"\emptyset", ["0", r"\{0\}", r"\{\emptyset\}"]), "intervals": ("[1,2]", ["[1,2)", "(1,2)"]),
    "tuples": ("(1,2)", ["(2,1)"]), "thousands": ("10000", ["10,00", r"1\,000"]),
    "a comma that separates no thousands": ("12", ["1,2"]), "letters": ("3", ["e"]), "few digits": ("0.333", ["1/3"]),
    "powers within powers": ("e^{-x^2}", ["e^{-x^3}", "e^{x^2}"]),
    "matrices": (r"\begin{pmatrix}1&2\\3&4\end{pmatrix}", [r"\begin{pmatrix} 1 & 2 \\ 3 & 5 \end{pmatrix}"]),
}


def cases(table: dict[str, tuple[str, list[str]]]) -> list[tuple[str, str]]:
    return [(right, answer) for right, answers in table.values() for answer in answers]


@pytest.mark.parametrize(("right", "answer"), cases(EQUAL))
def test_other_spellings_are_right(right: str, answer: str) -> None:
    assert equivalent(right, answer)
    assert math.score(rf"so \boxed{{{answer}}}", {"answer": right}) == {"format": 1.0, "valid": 1.0}


@pytest.mark.parametrize(("right", "answer"), cases(DIFFERENT))
def test_other_values_are_wrong(right: str, answer: str) -> None:
    assert not equivalent(right, answer)


@given(st.integers(1, 99999), st.integers(-60, 60), st.sampled_from([
    r"{} \times 10^{{{}}}", r"{}\cdot 10^{{{}}}", "{}e{}", "{}E{}", "{} × 10^{{{}}}", "{}*10^{{{}}}", r"{} \times 10^{}"]))
def test_scientific_notation_is_the_decimal_number(mantissa: int, power: int, spelling: str) -> None:
    written = f"{mantissa / 1000:.3f}"
    assert Decimal(normal(spelling.format(written, power))) == Decimal(written).scaleb(power)


@given(st.integers(1000, 10**15), st.sampled_from([r"\,", r"\;", r"\ ", "~", "\u2009", "\u202f", "{,}", r",\!", "'"]))
def test_a_separator_of_thousands_changes_no_number(number: int, separator: str) -> None:
    assert normal(f"{number:,}".replace(",", separator)) == str(number)


@given(st.text(st.characters(exclude_categories=[])))
def test_any_text_has_a_normal_form(text: str) -> None:
    hostile(normal(text))
    contradictions(normal(text))


# ---------------------------------------------------------------------------- hostile mathematics


OTHERS = [
    "((5!)!)!", "9**9**9**9", "9^9^9", r"9^{9!}", "9" * 600, r"10^{10^{10}}", "(((((((((((1)))))))))))", "((9!)!)!",
    r"\int_0^1 \int_0^1 x dx", r"2^{3^{4}}", "5!!!", r"x^{99999}", "201!", r"\prod_{k=1}^{1001} k", "2^{99999999}",
    r"9^{\pi 9^9}", r"9^{(\pi+1)^{9999}}", r"a^{b^{c^{d^{9}}}}", r"\pi^{\pi^{\pi^{\pi}}}", r"9^{x^{9^9}}", "9^{e 9^9}",
    r"\int_0^1 \int_0^1 x^{y^z} dx dy", "(x+y+z)^{500}", "(x+1)^{9999}", r"\sin(10^{400})", r"\lim_{x\to 0} x^x^x",
    "(1+x)^{2000}(1-x)^{2000}", r"\binom{1000000}{500000}", "(" * 200 + "1" + ")" * 200,
    *(r"\sqrt{" * depth + "2" + "}" * depth for depth in (10, 60)),
    *(r"\frac{1}{1+" * depth + "x" + "}" * depth for depth in (8, 40)),
]


def hostile_answers() -> Iterator[str]:
    """256 of them, no two alike, in eight families."""
    for place in range(32):
        nine = str(9 + place)
        yield f"{nine}^{{{nine}^{{{nine}^{nine}}}}}"
        yield f"{10**6 + place}!"
        yield rf"\binom{{{10**9 + place}}}{{{5 * 10**8}}}"
        yield rf"\sum_{{k=1}}^{{{10**8 + place}}} \frac{{1}}{{k^2}}"
        yield r"\sqrt{2+" * (20 + place) + "3" + "}" * (20 + place)
        yield r"\frac{1}{1+" * (20 + place) + "3" + "}" * (20 + place)
        yield f"{nine}^{10**7 + place}"
        yield rf"\prod_{{i=1}}^{{90}} \sum_{{j=1}}^{{90}} {nine}^{{i j}}"


def test_hostile_answers_are_told_by_their_text() -> None:
    answers = list(hostile_answers())
    assert len(set(answers)) == 256 and all(hostile(answer) for answer in answers)
    assert [answer for answer in OTHERS if not hostile(normal(answer))] == []
    assert not any(equivalent("7", answer) for answer in OTHERS)


@pytest.mark.parametrize("answer", [
    "2^{2024}", "100!", r"\binom{100}{50}", r"\frac{1}{1+\frac{1}{2}}", r"\sqrt{2+\sqrt{3}}", r"x^2 + 2^{10} y^{3}",
    r"\sum_{k=1}^{10} k", r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", "10^{33}", "2^{9999}", "200!", r"e^{-x^2}",
    "a^{b^c}", r"(-\infty, 3] \cup [5, \infty)", r"\log_2 8", "(x+1)^{3}", r"\text{Tuesday}", r"\frac{3\sqrt{5}}{2}",
])
def test_answers_that_people_write_are_not_hostile(answer: str) -> None:
    assert not hostile(answer)
    assert equivalent(answer, answer)


def test_a_batch_of_hostile_rows_is_scored_soon() -> None:
    config = correctness.Config(kind="correctness", models={}, correct=1.0, format=0.1)
    reward = correctness.Correctness(math.score, config)
    responses = [rf"\boxed{{{answer}}}" for answer in hostile_answers()]
    start = time.monotonic()
    scored = reward.score([Example("0", "?", {"answer": "7"})] * len(responses), responses)
    assert [row.parts["valid"] for row in scored] == [0.0] * 256
    print(f"256 hostile rows: {time.monotonic() - start:.2f} s")
    assert time.monotonic() - start < 10.0  # 0.1 s


def test_the_longest_answer_is_judged_quickly() -> None:
    start = time.process_time()
    for sign in ["9", "^", "(", "{", "!", "\\", "=", " ", "1,", "10 ", "9^", r"\frac", "e", ".", "'", "1'000", "√", "^{"]:
        text = (sign * MAX_CHARACTERS)[:MAX_CHARACTERS]
        hostile(normal(text))
    assert time.process_time() - start < 2.0  # 0.02 s
