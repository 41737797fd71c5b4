"""Small line charts as inline svg in the page's own colours: light enough for a page per run, and no matplotlib."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup, escape

from eval.figures import SMOOTH, running_mean
from eval.statistics import Floats

WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 130, 46, 18, 8
POINTS = 300


def sparkline(title: str, steps: Floats, values: Floats) -> Markup:
    """A chart of finite `values` over `steps`: raw faint, running mean strong; "" when there are fewer than two."""
    keep = np.isfinite(values) & np.isfinite(steps)
    steps, values = steps[keep], values[keep]
    if len(values) < 2:
        return Markup("")
    low, high = float(values.min()), float(values.max())
    if math.isclose(low, high, rel_tol=1e-9, abs_tol=1e-12):
        low, high = low - 0.5, high + 0.5
    raw = _path(steps, values, low, high)
    smooth = _path(steps, running_mean(values, len(values) // SMOOTH), low, high)
    return Markup(
        '<figure class="spark"><figcaption>{title}</figcaption>'
        '<svg viewBox="0 0 {width} {height}" role="img" aria-label="{title}">'
        '<path class="frame" d="M{left} {top}V{base}H{right}"/>'
        '<path class="raw" d="{raw}"/><path class="smooth" d="{smooth}"/>'
        '<text x="{text}" y="{upper}" text-anchor="end">{high}</text>'
        '<text x="{text}" y="{base}" text-anchor="end">{low}</text>'
        '<text x="{left}" y="{below}">{first}</text>'
        '<text x="{right}" y="{below}" text-anchor="end">step {last}</text></svg></figure>'
    ).format(
        title=escape(title), width=WIDTH, height=HEIGHT, left=LEFT, top=TOP, base=HEIGHT - BOTTOM, right=WIDTH - 4,
        raw=raw, smooth=smooth, text=LEFT - 5, upper=TOP + 8, below=HEIGHT - 4, high=f"{high:.3g}", low=f"{low:.3g}",
        first=f"{steps[0]:.0f}", last=f"{steps[-1]:.0f}",
    )


def _path(steps: Floats, values: Floats, low: float, high: float) -> str:
    """Path of at most POINTS points, each the mean of its stretch."""
    chunks = min(POINTS, len(values))
    starts = np.arange(chunks) * len(values) // chunks
    sizes = np.diff(np.append(starts, len(values)))
    x, y = np.add.reduceat(steps, starts) / sizes, np.add.reduceat(values, starts) / sizes
    span = max(float(steps[-1] - steps[0]), 1e-12)
    across = LEFT + (x - steps[0]) / span * (WIDTH - 4 - LEFT)
    down = TOP + (high - y) / (high - low) * (HEIGHT - BOTTOM - TOP)
    return "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in zip(across.tolist(), down.tolist(), strict=True))
