"""Answers that were given before, indexed by what stands before each token."""

from __future__ import annotations

import threading
import time
from array import array
from collections import OrderedDict, deque
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_TOKENS: Final = 1 << 18
"""Tokens that an index holds, of all scopes together: some 150 bytes each."""

PROMPT_TOKENS: Final = 32
"""Last tokens of a prompt that are kept before its answer: they find the answer's first tokens."""

ANSWER_TOKENS: Final = 1024
"""First tokens of an answer that are kept."""

LEAST_TOKENS: Final = 8
"""Least tokens of an answer that is kept."""

SURE: Final = 12
"""Matched tokens from which on an answer is expected to repeat a kept one."""

_MATCHED: Final = 4
_LONGEST_MATCH: Final = 24
_CANDIDATES: Final = 16
_END: Final = -1
_UNREAD: Final = 256
"""Answers that may wait to be sent to other workers; more replace the oldest."""

_IN_USE_S: Final = 600.0
_NOTED_EVERY_S: Final = 1.0
MOST_SCOPES: Final = 64


class AnswerIndex:
    """The last answers of each scope, in a ring of tokens. For any thread.

    A scope is whose answers may be used to draft for whom. Every run of four tokens leads to the
    places where it stood last, of which the one with the longest common context is continued: what
    a suffix tree would find, up to 24 tokens back, at a tenth of its memory.
    """

    def __init__(self, vocab_size: int, most_tokens: int = MOST_TOKENS) -> None:
        """Tokens of `vocab_size` and above are refused: they come from other processes too."""
        self._vocab_size = vocab_size
        self._size = most_tokens
        self._tokens = array("i", [_END]) * most_tokens
        self._scopes = array("q", [0]) * most_tokens
        self._before = array("q", [-1]) * most_tokens  # the last place with the same run
        self._places: dict[int, int] = {}
        self._total = 0
        self._known: OrderedDict[bytes, int] = OrderedDict()
        self._unread: deque[tuple[str, tuple[int, ...]]] = deque(maxlen=_UNREAD)
        self._used_s: OrderedDict[str, float] = OrderedDict()
        self._numbers: dict[str, int] = {}  # of the scopes in `_used_s`
        self._lock = threading.Lock()
        self.changed = threading.Event()
        """Set when an answer is unread, or when a scope is used for the first time."""

    def keep(self, scope: str, prompt: Sequence[int], answer: Sequence[int]) -> None:
        """Add an answer that was given here; short ones and those that are known are left out."""
        if len(answer) < LEAST_TOKENS:
            return
        text = (*prompt[-PROMPT_TOKENS:], *answer[:ANSWER_TOKENS])
        if self.add(scope, text):
            with self._lock:
                self._unread.append((scope, text))
            self.changed.set()

    def add(self, scope: str, text: Sequence[int]) -> bool:
        """Add the end of a prompt with its answer; return False if it is known or no such text."""
        if not _MATCHED < len(text) <= PROMPT_TOKENS + ANSWER_TOKENS:
            return False
        if not all(0 <= token < self._vocab_size for token in text):
            return False
        digest = blake2b(array("i", text).tobytes(), digest_size=16, key=_bytes(scope)).digest()
        with self._lock:
            if self._known.get(digest, -1) >= self._oldest:
                return False
            self._write(_number(scope), text)
            self._known[digest] = self._total - len(text)
            self._drop_overwritten()
        return True

    def draft(self, scope: str, token_ids: Sequence[int], count: int) -> tuple[list[int], int]:
        """Return up to `count` tokens that may follow, and how many before them matched."""
        if len(token_ids) < _MATCHED or count < 1:
            return [], 0
        with self._lock:
            number = self._use(scope)
            place, matched = self._find(number, token_ids)
            return (self._after(place, count), matched) if matched else ([], 0)

    def unread(self) -> list[tuple[str, tuple[int, ...]]]:
        """Return the answers given here since the last call, with their scopes."""
        with self._lock:
            texts = list(self._unread)
            self._unread.clear()
        return texts

    def scopes(self) -> list[str]:
        """Return the scopes that were used in the last minutes."""
        least_s = time.monotonic() - _IN_USE_S
        with self._lock:
            return [scope for scope, used_s in self._used_s.items() if used_s >= least_s]

    @property
    def _oldest(self) -> int:
        """The place of the oldest token that is not overwritten."""
        return max(0, self._total - self._size)

    def _use(self, scope: str) -> int:
        """Note that a scope is in use; return its number."""
        now_s = time.monotonic()
        number = self._numbers.get(scope)
        if number is None:
            number = self._numbers[scope] = _number(scope)
            self.changed.set()
        elif now_s - self._used_s[scope] < _NOTED_EVERY_S:
            return number
        self._used_s[scope] = now_s
        self._used_s.move_to_end(scope)
        if len(self._used_s) > MOST_SCOPES:
            oldest, _ = self._used_s.popitem(last=False)
            del self._numbers[oldest]
        return number

    def _write(self, number: int, text: Sequence[int]) -> None:
        size = self._size
        for index, token in enumerate((*text, _END)):
            slot = self._total % size
            self._tokens[slot] = token
            self._scopes[slot] = number
            if _MATCHED <= index + 1 < len(text):
                run = hash((number, *text[index + 1 - _MATCHED : index + 1]))
                self._before[slot] = self._places.get(run, -1)
                self._places[run] = self._total
            self._total += 1

    def _find(self, number: int, token_ids: Sequence[int]) -> tuple[int, int]:
        """Return the place of the last token of the longest context, and that one's length."""
        best = best_length = 0
        place = self._places.get(hash((number, *token_ids[-_MATCHED:])), -1)
        for _ in range(_CANDIDATES):
            if place < self._oldest:
                break
            slot = place % self._size
            length = self._length(number, token_ids, place)
            if length >= _MATCHED and length > best_length:
                best, best_length = place, length
                if length == _LONGEST_MATCH:
                    break
            place = self._before[slot]
        return best, best_length

    def _length(self, number: int, token_ids: Sequence[int], place: int) -> int:
        """Return how many tokens up to a place are the last of a text; 0 in another scope."""
        tokens, size = self._tokens, self._size
        if self._scopes[place % size] != number:
            return 0
        most = min(_LONGEST_MATCH, len(token_ids), size - (self._total - place))
        length = 0
        while length < most and tokens[(place - length) % size] == token_ids[-1 - length]:
            length += 1
        return length

    def _after(self, place: int, count: int) -> list[int]:
        following: list[int] = []
        for at in range(place + 1, min(place + 1 + count, self._total)):
            token = self._tokens[at % self._size]
            if token == _END:
                break
            following.append(token)
        return following

    def _drop_overwritten(self) -> None:
        """Forget, from time to time, what leads to overwritten tokens."""
        least = self._oldest
        while self._known and next(iter(self._known.values())) < least:
            self._known.popitem(last=False)
        if len(self._places) > 2 * self._size:
            self._places = {run: at for run, at in self._places.items() if at >= least}


def _bytes(scope: str) -> bytes:
    return blake2b(scope.encode(), digest_size=32).digest()


def _number(scope: str) -> int:
    """Return a scope as a number that fits into the ring."""
    return int.from_bytes(blake2b(scope.encode(), digest_size=7).digest(), "little")
