"""What a load consists of: words, lengths of real chats, agents' turns, images."""

from __future__ import annotations

import base64
import io
import json
import math
import random
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from PIL import Image

from penstock.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from penstock.cli.bench.workload import Load

_WORDS: Final = (
    "river",
    "valve",
    "water",
    "field",
    "grain",
    "stone",
    "north",
    "light",
    "paper",
    "engine",
)

SHAREGPT_PROMPT_TOKENS: Final = 161.31
SHAREGPT_ANSWER_TOKENS: Final = 337.99
"""Means of ShareGPT's lengths: Kwon et al., Efficient Memory Management for Large Language Model
Serving with PagedAttention (2023), figure 11."""

_SPREAD: Final = 1.0
"""Standard deviation of a length's logarithm: real lengths are about log-normal."""

_LONGEST: Final = 1024
"""Tokens at which `vllm bench serve` leaves a prompt or an answer of ShareGPT out."""

AGENT_TURNS: Final = 6
_AGENT_SYSTEM_WORDS: Final = 1500
_AGENT_RESULT_WORDS: Final = (60, 600)
_AGENT_ANSWER_TOKENS: Final = (30, 200)

_IMAGE_SIDES: Final = (336, 512, 768)


class Session(Protocol):
    """Requests that follow each other: the next is known once the last has its answer."""

    def next_body(self, answer: str) -> dict[str, Any] | None:
        """Return the next request's body, given the answer to the last one; None after the last."""
        ...


class Single:
    """A session of one request."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body: dict[str, Any] | None = body

    def next_body(self, answer: str) -> dict[str, Any] | None:
        """See `Session`."""
        del answer
        body, self._body = self._body, None
        return body


class AgentTask:
    """An agent at a task: a long system text that all share, then answers and tools' results.

    Each turn repeats the whole conversation, so that what a server keeps of it counts.
    """

    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._source = _seeded(seed)
        self._left = AGENT_TURNS
        shared = _words(_seeded(load.seed), _AGENT_SYSTEM_WORDS)
        self._messages = [
            {"role": "system", "content": shared},
            {"role": "user", "content": _words(self._source, 40)},
        ]

    def next_body(self, answer: str) -> dict[str, Any] | None:
        """See `Session`."""
        if not self._left:
            return None
        if self._left < AGENT_TURNS:
            result = _words(self._source, self._source.randint(*_AGENT_RESULT_WORDS))
            self._messages += [
                {"role": "assistant", "content": answer or "(none)"},
                {"role": "user", "content": f"Result: {result}"},
            ]
        self._left -= 1
        return body_of(self._load, [*self._messages], self._source.randint(*_AGENT_ANSWER_TOKENS))


def sessions(load: Load) -> Iterator[Session]:
    """Yield a load's sessions, `load.requests` requests in all; the same seed gives the same ones.

    Agents' tasks are whole: the number of requests is rounded down to a multiple of `AGENT_TURNS`,
    with one task at least.

    :raises BadRequest: the file of conversations is none.
    """
    if load.shape == "agents":
        for number in range(max(1, load.requests // AGENT_TURNS)):
            yield AgentTask(load, load.seed * 1_000_003 + number)
        return
    for body in bodies(load):
        yield Single(body)


def bodies(load: Load) -> Iterator[dict[str, Any]]:
    """Yield the bodies of a load of single requests; the same seed gives the same ones.

    :raises BadRequest: the file of conversations is none.
    """
    source = _seeded(load.seed)
    turns = [] if load.dataset is None else conversations(load.dataset)
    for _ in range(load.requests):
        if turns:
            prompt, answer = source.choice(turns)
            yield body_of(load, [_user(prompt)], _tokens_of(answer))
        elif load.shape == "sharegpt":
            count = _drawn(source, SHAREGPT_PROMPT_TOKENS)
            answer_tokens = _drawn(source, SHAREGPT_ANSWER_TOKENS)
            yield body_of(load, [_user(_words(source, count))], answer_tokens)
        elif load.shape == "images":
            text = {"type": "text", "text": _words(source, load.prompt_words.draw(source))}
            image = {"type": "image_url", "image_url": {"url": _image(source)}}
            yield body_of(load, [_user([text, image])], load.answer_tokens.draw(source))
        else:
            words = _words(source, load.prompt_words.draw(source))
            yield body_of(load, [_user(words)], load.answer_tokens.draw(source))


def body_of(load: Load, messages: list[Any], answer_tokens: int) -> dict[str, Any]:
    """Return a request's body."""
    return {
        "model": load.model,
        "messages": messages,
        "max_tokens": answer_tokens,
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


def conversations(path: Path) -> list[tuple[str, str]]:
    """Return the first question and answer of each conversation of a file in ShareGPT's form.

    :raises BadRequest: it is no such file.
    """
    try:
        entries = json.loads(path.read_text(encoding="utf-8"))
        turns = [entry["conversations"] for entry in entries]
        pairs = [(str(turn[0]["value"]), str(turn[1]["value"])) for turn in turns if len(turn) > 1]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise BadRequest(
            f"{path} is no file of conversations as ShareGPT's: {type(error).__name__}"
        ) from error
    kept = [(a, b) for a, b in pairs if a and b and _tokens_of(a) <= _LONGEST >= _tokens_of(b)]
    if not kept:
        raise BadRequest(f"{path} has no conversation of a question and an answer")
    return kept


def _seeded(seed: int) -> random.Random:
    return random.Random(seed)  # noqa: S311 - repeatable load, no secret


def _user(content: Any) -> dict[str, Any]:
    return {"role": "user", "content": content}


def _words(source: random.Random, count: int) -> str:
    return " ".join(source.choices(_WORDS, k=count))


def _tokens_of(text: str) -> int:
    """Estimate a text's tokens: this client has no tokenizer."""
    return max(1, round(len(text) / 4))


def _drawn(source: random.Random, mean: float) -> int:
    """Draw a length of this mean from a log-normal distribution, cut at `_LONGEST`."""
    middle = math.log(mean) - _SPREAD**2 / 2
    return min(_LONGEST, max(4, round(source.lognormvariate(middle, _SPREAD))))


def _image(source: random.Random) -> str:
    """Return a random picture as a data URL: a few colours enlarged, as cheap to send as a photo."""
    side = source.choice(_IMAGE_SIDES)
    small = Image.frombytes("RGB", (16, 16), source.randbytes(3 * 16 * 16))
    resize = cast("Any", small).resize
    written = io.BytesIO()
    resize((side, side), Image.Resampling.BICUBIC).save(written, "JPEG", quality=85)
    return f"data:image/jpeg;base64,{base64.b64encode(written.getvalue()).decode()}"
