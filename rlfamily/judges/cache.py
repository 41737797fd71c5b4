"""Answers by content: a question asked once of one judge is never asked again, and old tables replay without a network.

<results>/judge_cache/<k[:2]>/<k>.json, where k hashes the judge's identity and the question.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast, get_args

from blake3 import blake3

from rlfamily.judges import Answer, Question
from rlfamily.records import write_atomic

FOLDER = "judge_cache"


@dataclass(frozen=True)
class Cache:
    """Answers of one judge. Unreadable answers are kept as well: asking again would cost again."""

    root: Path
    identity: dict[str, Any]

    def get(self, question: Question) -> Answer | None:
        """The answer given before; None when there is none, or its file is damaged."""
        try:
            answer = json.loads(self._path(question).read_text("utf-8"))["answer"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return cast(Answer, answer) if answer in get_args(Answer) else None

    def put(self, question: Question, answer: Answer) -> None:
        """Keep an answer, with all that it depends on, for people to read."""
        content = {"judge": self.identity, "question": question.text, "gold": question.gold, "answer": answer}
        write_atomic(self._path(question), json.dumps(content, indent=1, sort_keys=True))

    def _path(self, question: Question) -> Path:
        return _place(self.root, [self.identity, question.text, question.gold])


@dataclass(frozen=True)
class Replies:
    """Whole replies of one judge, by the request: for judges whose replies are read by others."""

    root: Path
    identity: dict[str, Any]

    def get(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """The reply given before; None when there is none, or its file is damaged."""
        try:
            reply = json.loads(_place(self.root, [self.identity, request]).read_text("utf-8"))["reply"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return reply if isinstance(reply, dict) else None

    def put(self, request: dict[str, Any], reply: dict[str, Any]) -> None:
        """Keep a reply, with all that it depends on, for people to read."""
        content = {"judge": self.identity, "request": request, "reply": reply}
        write_atomic(_place(self.root, [self.identity, request]), json.dumps(content, indent=1, sort_keys=True))


def _place(root: Path, content: list[Any]) -> Path:
    key = blake3(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return root / FOLDER / key[:2] / f"{key}.json"
