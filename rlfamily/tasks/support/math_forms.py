r"""One spelling for many, in front of math-verify: what means the same becomes the same text.

All that math-verify (0.9.0) misreads is mended here, on the text alone: powers of ten, separators of thousands,
unicode, degrees, percent, statements. `hostile` says without computing anything that a text would take too long.
docs/mathematics.md has the table.
"""

from __future__ import annotations

import re
import unicodedata

MAX_POWER = 400  # of ten in scientific notation; more digits than that are no answer
MAX_EXPONENT = 9999  # of anything else: 2^{2024} is an answer
MAX_EXPANDED = 30  # of a sum with letters, which sympy multiplies out
MAX_FACTORIAL = 200
MAX_BOUND = 1000  # of a sum or product, and of a binomial coefficient
MAX_DEPTH = 7  # of braces and parentheses: right answers of the public benchmarks have up to 5
MAX_PARTS = 24  # operations that nest or repeat

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ", "0123456789+-()n")
_SYMBOLS = {
    "−": "-", "‐": "-", "‑": "-", "–": "-", "—": "-", "﹣": "-", "－": "-", "×": r"\times ", "✕": r"\times ",
    "·": r"\cdot ", "⋅": r"\cdot ", "∙": r"\cdot ", "•": r"\cdot ", "÷": "/", "⁄": "/", "∕": "/", "∞": r"\infty ",
    "≤": r"\leq ", "≥": r"\geq ", "≠": r"\neq ", "≈": r"\approx ", "∪": r"\cup ", "∩": r"\cap ", "∈": r"\in ",
    "±": r"\pm ", "∓": r"\mp ", "°": r"^\circ ", "º": r"^\circ ", "∅": r"\emptyset ", "Ø": r"\emptyset ", "’": "'",
    "π": r"\pi ", "α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "δ": r"\delta ", "θ": r"\theta ",
    "λ": r"\lambda ", "μ": r"\mu ", "φ": r"\phi ", "ω": r"\omega ", "ℝ": r"\mathbb{R}", "％": r"\%",
}
_UNICODE = re.compile("|".join(map(re.escape, _SYMBOLS)))
_RADICAL = re.compile(r"([√∛∜])\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+(?:\.\d+)?|\\?[A-Za-z]+))")
_INDEX = {"√": "", "∛": "[3]", "∜": "[4]"}

_GAP = r"(?:\\[,;:! ]|~|[\u00a0\u2000-\u200a\u202f\u205f]|\{\s*,\s*\}|\{\s*\\,\s*\}|,\\!|')"
_THOUSANDS = re.compile(rf"(?<![\w.,'])([1-9]\d{{0,2}})((?:{_GAP}\d{{3}})+)(?![\d'])")
_BLANKS = re.compile(r"-?[1-9]\d{0,2}(?: \d{3})+(?:\.\d+)?")
_POINT = re.compile(r"(?<=\d)\{\s*,\s*\}(?=\d)")
_TIMES = r"(?:\\times|\\cdot|\\ast|\*|[xX](?=\s*\{?10\}?\s*(?:\^|\*\*)))"
_POWER = r"\{?\s*10\s*\}?\s*(?:\^|\*\*)\s*(?:[{(]\s*)*([+-]?\s*\d+)(?:\s*[})])*"
_E = r"(?:\\(?:text|mathrm|rm|textrm)\{\s*[eE]\s*\}|[eE])\s*[{(]?\s*([+-]?\s*\d+)\s*[})]?"
_SCIENTIFIC = re.compile(
    rf"(?<![\w.^/\\])(\d+(?:\.\d*)?|\.\d+)(?:\}}?\s*{_TIMES}\s*{_POWER}|{_E})(?!\s*[!^]|[\w])")
_PLAIN = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)")

_DEGREES = re.compile(r"\^\s*\{?\s*\\(?:circ|degree)\b\s*\}?|\\degree\b|\s*\\?(?:text|mathrm|textrm)\{\s*degrees?\s*\}|"
                      r"(?<=\d)\s*degrees?\b")
_ANGLE = re.compile(rf"(\d+(?:\.\d+)?)\s*(?:{_DEGREES.pattern})")
_ANGLE_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc)\b")
_EMPTY = re.compile(r"\\varnothing\b|\\emptyset\b|\\O\b|(?:\\left\s*)?\\\{\s*(?:\\right\s*)?\\\}|"
                    r"\\(?:text|mathrm)\{\s*(?:the )?empty set\s*\}|\A(?:the )?empty set\Z")
_PERCENT = re.compile(r"\s*(?:\\?%|\\(?:text|mathrm)\{\s*(?:\\?%|percent)\s*\}|\bpercent\b)\s*\Z")
_COMPARES = re.compile(r"[<>]|\\(?:n?leq?|n?geq?|neq?|lt|gt|leqslant|geqslant|sim|equiv|propto|not)(?![a-zA-Z])|!=")
_EQUALS = re.compile(r"(?<![<>!:\\])={1,2}|\\approx(?![a-zA-Z])")
_LETTER = re.compile(r"(?<!\\)(?<![a-zA-Z])[a-zA-Z]")
_NUMERIC_COMMANDS = re.compile(r"\\(?:d|t|c)?(?:frac|sqrt|cdot|times|div|left|right|pi|binom|quad|log|ln|exp|pm)"
                               r"(?![a-zA-Z])|\\[,;:! ]")


def normal(answer: str) -> str:
    """The answer in one spelling. Idempotent on what it writes itself; never raises; linear in practice."""
    text = _ascii(answer.strip()).strip()
    text = text.strip("$").strip()
    if text.endswith(".") and not text.endswith(r"\right."):
        text = text[:-1].rstrip()
    text = _THOUSANDS.sub(lambda m: m[1] + re.sub(r"\D", "", m[2]), text)
    text = _POINT.sub(".", text)
    if _BLANKS.fullmatch(text):
        text = text.replace(" ", "")
    text = _SCIENTIFIC.sub(_expanded, text)
    text = _ANGLE.sub(r"\\frac{\1 \\pi}{180}", text) if _ANGLE_FUNCTION.search(text) else _DEGREES.sub("", text)
    return _EMPTY.sub(r"\\emptyset", text).strip()


def _ascii(text: str) -> str:
    """LaTeX for what unicode has a sign of its own for."""
    text = re.sub("[⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁽⁾ⁿ]+", lambda m: "^{" + m[0].translate(_SUPERSCRIPTS) + "}", text)
    text = "".join(_vulgar(sign) for sign in text)
    text = _RADICAL.sub(lambda m: rf"\sqrt{_INDEX[m[1]]}{{{m[2] or m[3] or m[4] or ''}}}", text)
    return _UNICODE.sub(lambda m: _SYMBOLS[m[0]], text)


def _vulgar(sign: str) -> str:
    r"""`½` as \frac{1}{2}; a digit of another width as the plain one; anything else as it is."""
    if sign.isascii():
        return sign
    if unicodedata.decomposition(sign).startswith("<fraction>"):
        top, _, bottom = unicodedata.normalize("NFKC", sign).partition("⁄")
        return rf"\frac{{{top}}}{{{bottom or 1}}}"
    return unicodedata.normalize("NFKC", sign) if unicodedata.decomposition(sign).startswith("<wide>") else sign


def _expanded(match: re.Match[str]) -> str:
    """A number in scientific notation with all its digits: no library reads an `e` into those."""
    power = int(re.sub(r"\s", "", match[2] or match[3])[:8])
    if abs(power) > MAX_POWER:
        return match[0]
    whole, _, part = match[1].partition(".")
    digits, point = whole + part, len(whole) + power
    digits, point = ("0" * (1 - point) + digits, 1) if point < 1 else (digits.ljust(point, "0"), point)
    written = f"{digits[:point].lstrip('0') or '0'}.{digits[point:].rstrip('0')}"
    return written.rstrip(".")


def readings(right: str, answer: str) -> list[tuple[str, str]]:
    """Pairs of normal forms of which one must be equal, for `answer` to be `right`; none when it is no answer to it.

    A relation answers a relation only. Of a chain of equations the last part answers, when no other part contradicts.
    Percent are hundredths; where the other side has no sign and is at least 1, the number before the sign.
    """
    if _COMPARES.search(answer) and not _COMPARES.search(right):
        return []
    if _EQUALS.search(answer) and not _EQUALS.search(right) and not re.search(r"[,;]", answer):
        answer = normal(_EQUALS.split(answer)[-1])
    right_percent, answer_percent = _PERCENT.search(right), _PERCENT.search(answer)
    bare = _PERCENT.sub("", right), _PERCENT.sub("", answer)
    if not right_percent and not answer_percent:
        return [(right, answer)]
    if right_percent and answer_percent:
        return [bare]
    hundredth = (_hundredth(bare[0]), answer) if right_percent else (right, _hundredth(bare[1]))
    small = _PLAIN.fullmatch(bare[0]) and abs(float(bare[0])) < 1
    return [hundredth] if small else [hundredth, bare]


def contradictions(answer: str) -> list[tuple[str, str]]:
    """Pairs of numbers that the answer says are equal: in `9 = 7` nine and seven. Empty for `x = 7`."""
    parts = [part.strip() for part in _EQUALS.split(answer)]
    if len(parts) < 2 or re.search(r"[,;]", answer):
        return []
    numbers = [part for part in parts if part and not _LETTER.search(_NUMERIC_COMMANDS.sub(" ", part))]
    return [(numbers[-1], part) for part in numbers[:-1]] if numbers else []


def _hundredth(text: str) -> str:
    if _PLAIN.fullmatch(text):
        sign, digits = (text[0], text[1:]) if text[0] in "+-" else ("", text)
        return sign + _SCIENTIFIC.sub(_expanded, f"{digits}e-2")
    return rf"\frac{{{text}}}{{100}}"


# ---------------------------------------------------------------------------- what would take too long

_NUMBER = re.compile(r"\d+")
_RAISED = re.compile(r"(?:\^|\*\*)\s*[{(]*\s*-?\s*(\d+)")
_GROUP_RAISED = re.compile(r"[)}\]]\s*(?:\^|\*\*)\s*[{(]*\s*-?\s*(\d+)")
_FUNCTION = re.compile(r"\\?(?:sin|cos|tan|cot|sec|csc|log|ln|exp)(?![a-z])")
# Of numbers, or of four storeys: e^{-x^2} computes nothing.
_TOWER = re.compile(r"(?:\^|\*\*)\s*(?:[{(]\s*)*-?[\d.]+\s*[})]*\s*(?:\^|\*\*)\s*[{(]*\s*-?\s*\d|"
                    r"(?:\^|\*\*)\s*[{(](?:\\pi|[^{}a-df-hj-zA-Z])*(?:\^|\*\*|!)|"
                    r"(?:\^|\*\*)\s*[{(][^{}]*(?:\^|\*\*)\s*[{(][^{}]*(?:\^|\*\*)")
_RAISED_TWICE = re.compile(r"(?:\^|\*\*)\s*(?:[{(][^{}]*|\w\s*)(?:\^|\*\*|!)")
_FACTORIAL = re.compile(r"(\d+)\s*[})]*\s*!")
_MANY_FACTORIALS = re.compile(r"!\s*[})\s]*!|[)}]\s*!")
_LOOP = re.compile(r"\\(?:sum|prod|int|i+nt|oint|bigcup|bigcap|lim)(?![a-zA-Z])")
_CHOICE = re.compile(r"\\[dt]?binom(?![a-zA-Z])|\\choose|\\operatorname|\\gcd|\\lcm|\\bmod|\\pmod")
_NESTING = re.compile(r"\\(?:[dtc]?frac|sqrt|log|ln|exp|sin|cos|tan|binom)(?![a-zA-Z])")


def hostile(answer: str) -> bool:
    """True when reading or computing the answer could take long, told by its text in well under a millisecond."""
    numbers = [len(digits) for digits in _NUMBER.findall(answer)]
    if max(numbers, default=0) > MAX_POWER + 100 or _depth(answer) > MAX_DEPTH:
        return True
    if len(_NESTING.findall(answer)) > MAX_PARTS or answer.count("^") > MAX_PARTS:
        return True
    if _TOWER.search(answer) or any(_more(power, MAX_EXPONENT) for power in _RAISED.findall(answer)):
        return True
    if _MANY_FACTORIALS.search(answer) or any(_more(n, MAX_FACTORIAL) for n in _FACTORIAL.findall(answer)):
        return True
    unknowns = _LETTER.search(_NUMERIC_COMMANDS.sub(" ", answer))
    if unknowns and any(_more(power, MAX_EXPANDED) for power in _GROUP_RAISED.findall(answer)):
        return True
    if _FUNCTION.search(answer) and any(_more(power, MAX_EXPANDED) for power in _RAISED.findall(answer)):
        return True
    loops = len(_LOOP.findall(answer))
    if loops and _RAISED_TWICE.search(answer):
        return True
    large = any(_more(digits, MAX_BOUND) for digits in _NUMBER.findall(answer))
    return loops > 1 or bool(large and (loops or _CHOICE.search(answer)))


def _more(digits: str, limit: int) -> bool:
    return len(digits) > 18 or int(digits) > limit


def _depth(text: str) -> int:
    depth = deepest = 0
    for sign in text:
        depth += (sign in "({[") - (sign in ")}]")
        deepest = max(deepest, depth)
    return deepest
