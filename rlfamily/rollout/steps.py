"""Where the reasoning steps of a response end, in tokens of the response as it was generated.

A step begins at a label such as "step2:" at the start of a line. The text is decoded from the generated ids and never
encoded again: another tokenisation of the same text may have other boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

LABEL = re.compile(r"^[ \t]*\**step\s*(\d+)\s*\**\s*[:.)]", re.IGNORECASE | re.MULTILINE)


def step_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Exclusive token index of the end of each step; the last is the number of tokens, EOS included.

    The token in which a label begins opens the new step, with whatever was merged into it. Text before the first label
    belongs to the first step; a response without labels is one step, an empty one has none.
    """
    if not ids:
        return []
    starts = label_starts(_decode(tokenizer, ids))
    if not starts:
        return [len(ids)]
    offsets = _Offsets(tokenizer, ids)
    ends = sorted({offsets.token_at(start) for start in starts} - {0})
    return [*ends, len(ids)]


def label_starts(text: str) -> list[int]:
    """Character offsets at which the second and later steps begin.

    A label counts when its number is above 1 and above all before it, so that a repeated or quoted label opens nothing.
    """
    starts, last = [], 1
    for label in LABEL.finditer(text):
        # the number of digits comes first: int() refuses more than 4300 of them
        if len(label[1]) < 10 and int(label[1]) > last:
            starts.append(label.start())
            last = int(label[1])
    return starts


class _Offsets:
    """From characters to tokens, by decoding prefixes: right for every tokenizer, whatever it merges or inserts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> None:
        self.tokenizer, self.ids = tokenizer, ids
        self.guess, self.length = 1, self._prefix(1)  # tokens passed, and about as many characters

    def token_at(self, start: int) -> int:
        """Index of the token that holds character `start`; ask in ascending order.

        Lengths of single tokens give a guess, which is exact unless tokens hold parts of characters; the prefix
        decides. That costs two or three decodings instead of one for every token.
        """
        while self.length <= start and self.guess < len(self.ids):
            self.length += _characters(self.tokenizer, self.ids[self.guess])
            self.guess += 1
        token = self.guess - 1
        while token > 0 and self._prefix(token) > start:
            token -= 1
        while token < len(self.ids) - 1 and self._prefix(token + 1) <= start:
            token += 1
        return token

    def _prefix(self, tokens: int) -> int:
        """Characters of the first `tokens` tokens."""
        return len(_decode(self.tokenizer, self.ids[:tokens]))


@lru_cache(maxsize=1 << 18)
def _characters(tokenizer: PreTrainedTokenizerBase, token: int) -> int:
    """Characters that a token adds to the text before it, joining blanks included."""
    return len(_decode(tokenizer, [token, token])) - len(_decode(tokenizer, [token]))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of every token, special ones included: nothing may be dropped or tidied, or offsets would shift."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
