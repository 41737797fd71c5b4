"""Hub stage: fetch a pretrained model once and record exactly which weights it is."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rlfamily.errors import UserError, hub_refusal
from rlfamily.models import Family
from rlfamily.place import Place
from rlfamily.settings import Strict

VERSION = "2"
WRITES = {"model/pointer.json": "hub id and resolved commit, or an absolute local folder"}
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]


class Config(Strict):
    """A hub id at a revision, or a local folder; of a policy, the day that its chat template is told and what it is."""

    path: str
    revision: str
    date_string: str | None
    family: Family | None


@dataclass(frozen=True)
class Inputs:
    """None."""


def run(place: Place, config: Config, inputs: Inputs) -> dict[str, Any]:
    """Raises UserError offline, and for a policy of another family."""
    from rlfamily.models.policy import POINTER, require_family

    local = Path(config.path)
    pointer = _local(local) if local.is_dir() else _fetch(config.path, config.revision)
    folder = place.out / "model"
    folder.mkdir()
    if config.date_string is not None:
        pointer["date_string"] = config.date_string
    (folder / POINTER).write_text(json.dumps(pointer))
    if config.family is not None:
        require_family(folder, config.family)
    return pointer


def _local(folder: Path) -> dict[str, str]:
    if not list(folder.glob("*.safetensors")):
        raise UserError(f"model.path: no .safetensors file in {folder}: save the model with safe_serialization")
    return {"path": str(folder.resolve()), "revision": "main"}


def _fetch(path: str, revision: str) -> dict[str, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(path, revision=revision, allow_patterns=WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        if refused := hub_refusal(error, revision):
            raise UserError(f"model.path: '{path}' {refused}") from error
        raise UserError(f"model.path: cannot get '{path}' at revision '{revision}' from the hub and it is not cached: "
                        "check the name and the network, or give a local folder as model.path") from error
    return {"path": path, "revision": Path(folder).name}  # a snapshot's folder is named by its commit id
