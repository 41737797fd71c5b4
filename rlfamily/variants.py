"""Names of tables: a table made otherwise than its file says never takes the place of the plain one."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable

from rlfamily.errors import UserError

PLAIN_SCALE = "tiny"
NOTHING = ("results", "hardware", "executor", "wandb")  # groups of settings that change no number
OUTPUTS = "outputs."  # what names a file of responses on the command line
_LONGEST = 100  # characters: a name becomes a file's


def changed(overrides: Iterable[str], seeds: list[int] | None = None, own: Iterable[int] = ()) -> list[str]:
    """What the command line changed of a table's numbers; `own` are the seeds that its file names."""
    found = [one for one in overrides if re.split(r"[.=]", one, maxsplit=1)[0] not in NOTHING]
    return found + ([f"seeds={','.join(map(str, seeds))}"] if seeds is not None and seeds != list(own) else [])


def outputs_of(arguments: list[str]) -> dict[str, str]:
    """Files of responses by the name of their row."""
    pairs = [argument.removeprefix(OUTPUTS).partition("=") for argument in arguments if argument.startswith(OUTPUTS)]
    if wrong := [name for name, _, path in pairs if not (name and path)]:
        raise UserError(f"{OUTPUTS}{wrong[0]}: a row's name and a file: write {OUTPUTS}mine=model_outputs.json")
    return {name: path for name, _, path in pairs}


def table_of(name: str) -> str:
    """The table that a name is of."""
    return name.partition("+")[0].partition("@")[0]


def name_of(table: str, scale: str, changes: Iterable[str]) -> str:
    """`topr_tab2`, `topr_tab2@paper`, `topr_tab2+seeds=0`: letters, digits and `-_.@+=,` only, so that it names files.

    What has other characters, or is long, ends in a few digits of a hash: two tables never share a name.
    """
    changes = list(changes)
    full = "+".join([table if scale == PLAIN_SCALE else f"{table}@{scale}", *changes])
    name = re.sub(r"[^\w.@+=,-]+", "-", full, flags=re.ASCII)
    if name == full and len(name) <= _LONGEST:
        return name
    return f"{name[:_LONGEST].rstrip('-')}-{hashlib.sha256(full.encode()).hexdigest()[:6]}"
