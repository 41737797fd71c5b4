"""Where the reasoning steps of a response end, in tokens of the response as it was generated.

A step begins at a label such as "step2:" at the start of a line. The text is decoded from the generated ids and never
encoded again: another tokenisation of the same text may have other boundaries.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from os.path import commonprefix

from transformers import PreTrainedTokenizerBase

# Behind a heading's #, a list's -, a quote's > and emphasis; closed by punctuation, by the end of its emphasis, or,
# as a heading, by the end of the line.
LABEL = re.compile(r"^[ \t>*_+-]*(#+)?[ \t*_]*step\s*(?P<number>\d+)"
                   r"(?:\s*[*_]*\s*[:.)]|\s*(?:\*\*|__)|(?(1)[ \t]*$|(?!)))", re.IGNORECASE | re.MULTILINE)


def step_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> list[int]:
    """Exclusive token index of the end of each step; the last is the number of tokens, EOS included.

    The token in which a label begins opens the new step, with whatever was merged into it. Text before the first label
    belongs to the first step; a response without labels is one step, an empty one has none.
    """
    if not ids:
        return []
    text = _decode(tokenizer, ids)
    starts = label_starts(text)
    if not starts:
        return [len(ids)]
    offsets = _Offsets(tokenizer, ids, text)
    ends = sorted({offsets.token_at(start) for start in starts if start} - {0})
    return [*ends, len(ids)]


def label_starts(text: str) -> list[int]:
    """Character offsets at which the second and later steps begin.

    A label counts when its number is above 1 and above all before it, so that a repeated or quoted label opens nothing.
    """
    starts, last = [], 1
    for label in LABEL.finditer(text):
        # the number of digits comes first: int() refuses more than 4300 of them
        if len(label["number"]) < 10 and int(label["number"]) > last:
            starts.append(label.start())
            last = int(label["number"])
    return starts


class _Offsets:
    """From characters to tokens, by decoding prefixes: right for every tokenizer, whatever it merges or inserts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], text: str) -> None:
        self.tokenizer, self.ids, self.text = tokenizer, ids, text
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
        """Characters of the text that the first `tokens` tokens complete.

        A character whose bytes are several tokens is there with the last of them; before, decoding shows stand-ins.
        """
        return len(commonprefix([_decode(self.tokenizer, self.ids[:tokens]), self.text]))


@lru_cache(maxsize=1 << 18)
def _characters(tokenizer: PreTrainedTokenizerBase, token: int) -> int:
    """Characters that a token adds to the text before it, joining blanks included."""
    return len(_decode(tokenizer, [token, token])) - len(_decode(tokenizer, [token]))


def _decode(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """The text of every token, special ones included: nothing may be dropped or tidied, or offsets would shift."""
    return str(tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))
