"""Hub stage: fetch a pretrained model once and record exactly which weights it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rlfamily.stages.worker import StageContext

VERSION = "1"
WANTED = ["*.safetensors", "*.json", "*.txt", "*.model"]


def run(context: StageContext) -> dict[str, Any]:
    """Write model/pointer.json: hub id and resolved commit, or an absolute local folder. Raises UserError offline."""
    from rlfamily.models.policy import POINTER

    path, revision = context.config["path"], context.config["revision"]
    pointer = _local(Path(path)) if Path(path).is_dir() else _fetch(path, revision)
    folder = context.out / "model"
    folder.mkdir()
    (folder / POINTER).write_text(json.dumps(pointer))
    return pointer


def _local(folder: Path) -> dict[str, str]:
    from rlfamily.errors import UserError

    if not list(folder.glob("*.safetensors")):
        raise UserError(f"model.path: no .safetensors file in {folder}: save the model with safe_serialization")
    return {"path": str(folder.resolve()), "revision": "main"}


def _fetch(path: str, revision: str) -> dict[str, str]:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    from rlfamily.errors import UserError

    try:
        folder = snapshot_download(path, revision=revision, allow_patterns=WANTED)
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
        raise UserError(f"model.path: cannot get '{path}' at revision '{revision}' from the hub and it is not cached: "
                        "check the name and the network, or give a local folder as model.path") from error
    return {"path": path, "revision": Path(folder).name}  # a snapshot's folder is named by its commit id
