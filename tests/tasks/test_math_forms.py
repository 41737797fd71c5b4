"""What equals what, in the words of docs/mathematics.md, and what is told to be hostile without being computed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlfamily.tasks.support import math_forms
from rlfamily.tasks.support.math_answers import equivalent

EQUAL = {
    "scientific notation": [("4.5e33", r"4.5 \times 10^{33}"), (r"4.5 \times 10^{33}", "4.5E+33"), ("4.5e33", "4.5×10³³"),
                            (r"1.6 \times 10^{-19}", "1.6e-19"), ("1000", "1e3"), ("0.00001", "1.0e-5"),
                            (r"4.5 \times 10^{33}", r"4.5 \cdot 10^{33}")],
    "Euler's number outside a number": [("e", "e"), ("2e", r"2 \cdot e")],
    "thousands": [("10000", r"10\,000"), ("10000", "10,000"), ("10000", "10{,}000"), ("10000", "10\u202f000"),
                  ("10000", "10 000"), ("1234567", r"1\;234\;567")],
    "percent": [("0.5", r"50\%"), ("50", r"50\%"), (r"50\%", "0.5"), (r"50\%", r"50 \%")],
    "degrees": [("90", r"90^\circ"), ("90", "90°"), (r"90^\circ", "90")],
    "unicode": [(r"\sqrt{2}", "√2"), ("-7", "−7"), (r"\frac{1}{2}", "½"), ("2^{10}", "2¹⁰"), (r"\frac{\pi}{2}", "π/2"),
                (r"x \geq 3", "x ≥ 3")],
    "the empty set": [(r"\emptyset", r"\varnothing"), (r"\emptyset", r"\{\}"), (r"\emptyset", "∅")],
    "a full stop": [("7", "7.")],
    "a named value, a true chain": [("7", "x = 7"), ("7", "7 = 7"), ("7", "3+4=7")],
    "order within a set": [(r"\{1,2\}", r"\{2,1\}")],
}
UNEQUAL = {
    "tiny numbers are told apart": [(r"1.6 \times 10^{-19}", r"1.7 \times 10^{-19}"), ("1e-9", "2e-9"), ("0", "1e-9")],
    "a false statement": [("7", "9 = 7"), ("7", "1+1=7")],
    "a relation is no number": [("7", "> 7"), ("7", r"\neq 7"), ("7", r"x \geq 7"), ("7", "<7")],
    "order within a tuple": [("(1,2)", "(2,1)")],
    "a comma that separates no thousands": [("12", "1,2"), ("1,2", "12")],
    "letters": [("3", "e"), ("0.333", "1/3")],
}
HOSTILE = [
    "9^{9^{9^9}}", "2^{99999999}", "100000!", "((9!)!)!", r"\binom{1000000}{500000}", r"\sum_{i=1}^{10000000} i^i",
    r"\prod_{k=1}^{999999} k", "1" * 600, "(" * 200 + "1" + ")" * 200, r"\int_0^1 \int_0^1 x^{y^z} dx dy", "(x+y+z)^{500}",
    "(x+1)^{9999}", r"\sin(10^{400})", r"\lim_{x\to 0} x^x^x", "(1+x)^{2000}(1-x)^{2000}",
    *(r"\sqrt{" * depth + "2" + "}" * depth for depth in (10, 60)), *(r"\frac{1}{1+" * depth + "x" + "}" * depth for depth in (8, 40)),
]
ANSWERS = ["x^2+1", r"\frac{3\sqrt{5}}{2}", "(-\\infty, 3] \\cup [5, \\infty)", r"\binom{10}{3}", "2^{2024}", "10!", r"\log_2 8",
           r"\begin{pmatrix} 1 & 2 \\ 3 & 4 \end{pmatrix}", r"\sum_{k=1}^{10} k", "(x+1)^{3}", r"\text{Tuesday}"]


@pytest.mark.parametrize(("right", "answer"), [pair for pairs in EQUAL.values() for pair in pairs])
def test_what_means_the_same_is_equal(right, answer):
    assert equivalent(right, answer)


@pytest.mark.parametrize(("right", "answer"), [pair for pairs in UNEQUAL.values() for pair in pairs])
def test_what_means_something_else_is_not(right, answer):
    assert not equivalent(right, answer)


@pytest.mark.parametrize("answer", HOSTILE)
def test_what_would_compute_for_ever_is_told_by_its_text(answer):
    assert math_forms.hostile(math_forms.normal(answer))
    assert not equivalent("7", answer)


@pytest.mark.parametrize("answer", ANSWERS)
def test_answers_of_the_benchmarks_are_not_hostile(answer):
    assert not math_forms.hostile(math_forms.normal(answer))
    assert equivalent(answer, answer)


@given(st.integers(min_value=0, max_value=10**12), st.sampled_from([",", r"\,", "{,}", "\u2009", "\u202f", r"\;", "~"]))
def test_any_separator_of_thousands(number, separator):
    assert math_forms.normal(f"{number:,}".replace(",", separator)).replace(",", "") == str(number)


@given(st.decimals(min_value="0.1", max_value="9999", places=3), st.integers(min_value=-30, max_value=30))
def test_every_spelling_of_a_power_of_ten_is_one_text(factor, power):
    spelt = [rf"{factor} \times 10^{{{power}}}", rf"{factor}\cdot 10^{{{power}}}", f"{factor}e{power}", f"{factor}E{power}",
             f"{factor}*10^{power}", f"{factor} × 10^{{{power}}}"]
    assert len(set(map(math_forms.normal, spelt))) == 1


@given(st.text(max_size=200))
def test_any_text_has_a_normal_form_that_stays(text):
    once = math_forms.normal(text)
    math_forms.hostile(once)
    assert isinstance(math_forms.normal(once), str)
