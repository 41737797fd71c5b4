"""Which modules adapters go to: from what a user writes to names of modules. Reads no model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from rlfamily.errors import UserError, nearest

LINEAR = "all-linear"  # peft's word for every linear layer but the output layer
PLACE = "model.lora.targets"


def expression_or_names(targets: str | Sequence[str]) -> str | list[str]:
    """A regular expression over whole names, or the last parts of names: a list, or a text with commas between.

    A text without any sign of an expression is of the second kind. Raises UserError for an expression that is none.
    """
    if not isinstance(targets, str):
        return [*targets]
    if re.fullmatch(r"[\w.]+(\s*,\s*[\w.]+)*", targets):
        return re.split(r"\s*,\s*", targets)
    try:
        re.compile(targets)
    except re.error as error:
        raise UserError(f"{PLACE}={targets!r} is no regular expression ({error}): give names of modules, an "
                        f"expression over whole names, or {LINEAR}") from error
    return targets


def named(targets: str | Sequence[str], modules: Iterable[str], linear: Iterable[str]) -> list[str]:
    """Those of `modules` that the targets name. Raises UserError, with the `linear` ones, where one names none."""
    asked, modules, found = expression_or_names(targets), list(modules), []
    for target in [asked] if isinstance(asked, str) else asked:
        hits = [name for name in modules if (
            re.fullmatch(target, name) if isinstance(asked, str) else f".{name}".endswith(f".{target}"))]
        if not hits:
            last = sorted({name.rpartition(".")[2] for name in linear})
            raise UserError(f"{PLACE}={targets!r}: no module is called {target!r}{nearest(target, last)}: there are "
                            f"{', '.join(last)}, and {LINEAR}")
        found += hits
    return found
