"""What a tool answers, in many shapes, and what the assistant says with it.

The sentence follows from the shape alone: a single value, some fields, a list, a text, nothing,
an error. So it can be told for a tool that was never seen.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from demo_model_training.phrasing import expand
from demo_model_training.skills.tool_values import draw, foreign, invented
from demo_model_training.tables import CITIES, FOODS, NAMES, THINGS

if TYPE_CHECKING:
    import random

# The tool's text, the plain sentence, the terse one.
Outcome = tuple[str, str, str]

RESULT_KEYS = (
    "result",
    "result",
    "result",
    "value",
    "answer",
    "output",
    "data",
    "total",
    "response",
)
STATUS = ("ok", "done", "success", "created", "saved", "sent", "booked", "started", "updated",
          "confirmed", "queued", "OK", "accepted", "completed", "set")  # fmt: skip
FIELDS = (
    ("id", "code"), ("name", "name"), ("status", "enum:open,shipped,paid,lost,active,closed,late"),
    ("price", "amount"), ("count", "small"), ("city", "place"), ("date", "day"), ("time", "time"),
    ("total", "number"), ("email", "mail"), ("colour", "colour"), ("score", "small"),
    ("temperature", "signed"), ("humidity", "whole"), ("owner", "name"), ("item", "thing"),
    ("unit", "unit"), ("currency", "currency"), ("level", "level"), ("size", "whole"),
    ("distance_km", "number"), ("is_open", "flag"), ("job", "job"), ("wind_speed", "whole"),
)  # fmt: skip
REASONS = (
    "not found", "timeout", "no connection", "unknown city", "bad request", "service unavailable",
    "rate limit", "permission denied", "invalid input", "out of range", "division by zero",
    "missing argument", "too many requests", "not implemented", "the [t] is locked",
    "no [t] with this name", "[n] is not allowed to do this", "invalid value [i]", "unknown [t]",
    "missing required field '[i]'", "the server [i] is down",
)  # fmt: skip


def said(value: Any) -> str:
    """A JSON value as it is told."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(said(one) for one in value)
    return str(value)


def of_value(rng: random.Random, value: Any) -> Outcome:
    """One number or word: bare, or under a key."""
    bare = value if isinstance(value, str) else json.dumps(value)
    roll = rng.random()
    key = rng.choice(RESULT_KEYS)
    if roll < 0.35:
        text = bare
    elif roll < 0.9:
        text = json.dumps({key: value}, ensure_ascii=False)
    else:
        text = f"{rng.choice(('Result', 'The result is', 'Answer', 'Output', 'result'))}: {bare}"
    return text, f"The result is {said(value)}.", said(value)


def of_text(rng: random.Random, text: str) -> Outcome:
    """A sentence or a few words: bare, or under a key."""
    roll = rng.random()
    raw = text
    if roll > 0.5:
        key = rng.choice((*RESULT_KEYS, "text", "content", "message", "summary"))
        raw = json.dumps({key: text}, ensure_ascii=False)
    return raw, f"The tool says: {text}", text


def of_fields(rng: random.Random) -> Outcome:
    """Several fields of an object."""
    chosen = rng.sample(FIELDS, rng.choice((2, 2, 3, 3, 4)))
    fields = {name: draw(rng, kind)[1] for name, kind in chosen}
    text = json.dumps(fields, ensure_ascii=False, indent=2 if rng.random() < 0.07 else None)
    told = ", ".join(f"{name.replace('_', ' ')} {said(value)}" for name, value in fields.items())
    return text, f"Here is what I got: {told}.", f"{told}."


def of_list(rng: random.Random) -> Outcome:
    """A list of words, numbers or names."""
    kind = rng.choice(("thing", "name", "code", "place", "whole", "topic"))
    values = [draw(rng, kind)[1] for _ in range(rng.choice((2, 3, 3, 4)))]
    shown: Any = values
    if rng.random() < 0.5:
        shown = {rng.choice(("results", "items", "data", "list", "result")): values}
    told = said(values)
    return json.dumps(shown, ensure_ascii=False), f"I got: {told}.", f"{told}."


def of_status(rng: random.Random) -> Outcome:
    """Nothing but that it is done."""
    word = rng.choice(STATUS)
    text = rng.choice(
        (word, json.dumps({"status": word}), json.dumps({"ok": True}), json.dumps({"success": True}),
         json.dumps({"result": word}), "true", "Done.", f"{word.capitalize()}.", json.dumps({"status": word}))
    )  # fmt: skip
    return text, "Done.", "Done."


def of_nothing(rng: random.Random) -> Outcome:
    """An empty answer."""
    text = rng.choice(
        ("", "[]", "null", "{}", '{"results": []}', '{"result": null}', "None", '{"items": []}')
    )
    return text, "The tool found nothing.", "Nothing found."


def of_error(rng: random.Random) -> Outcome:
    """An error, as JSON or as text."""
    reason = rng.choice(REASONS)
    for mark, value in (
        ("[t]", rng.choice(THINGS)),
        ("[n]", rng.choice(NAMES)),
        ("[i]", invented(rng)),
    ):
        reason = reason.replace(mark, value)
    text = rng.choice(
        (json.dumps({"error": reason}), json.dumps({"error": reason}), f"Error: {reason}", f"error: {reason}",
         json.dumps({"status": "error", "message": reason}), json.dumps({"error": {"message": reason}}),
         f"Error: {reason.capitalize()}.", json.dumps({"ok": False, "error": reason}))
    )  # fmt: skip
    shown = f"{reason.capitalize()}" if text.endswith(f"{reason.capitalize()}.") else reason
    return text, f"The tool failed: {shown}.", f"Failed: {shown}."


def sentence(rng: random.Random) -> str:
    """A sentence as a tool may give it."""
    return expand(
        rng,
        "{The [t] is {in|near|from} [c]|[n] likes the [t]|Today is a good day for [f]|There are [k] [t]s"
        " in [c]|It's {sunny|cold|late|open|closed|full|fine}|Take the {first|second} [t] {left|right}"
        "|[k] minutes by {car|train|bus|foot}|Hello, [n]|Welcome to [c], [n]|A [t] that [n] made|[i] means"
        " [t]|Why did the [t] cross the road|Great choice|That is a good [t]|[n] and [n2] are at the [t]"
        "|The answer is [k]|All is well in [c]|[i] [i2] [t]}{.|.|!|}",
        t=rng.choice(THINGS), c=rng.choice(CITIES), n=rng.choice(NAMES), f=rng.choice(FOODS),
        k=str(rng.randrange(2, 300)), i=invented(rng, capital=True),
        n2=invented(rng, capital=True), i2=foreign(rng) if rng.random() < 0.2 else invented(rng),
    )  # fmt: skip


def outcome(rng: random.Random, kind: str, value: Any = None) -> Outcome:  # noqa: PLR0911
    """An outcome of this kind; one in twelve is an error or nothing."""
    roll = rng.random()
    if roll < 0.06:
        return of_error(rng)
    if roll < 0.085:
        return of_nothing(rng)
    if roll < 0.2 or kind == "any":
        kind = rng.choice(("number", "text", "record", "list", "status", "word", "word", "number"))
        value = None
    if kind in ("sum", "product", "number", "amount"):
        return of_value(rng, draw(rng, "number")[1] if value is None else value)
    if kind == "word":
        kinds = ("word", "code", "name", "place", "time", "day", "symbol", "colour", "path", "flag")
        return of_value(rng, draw(rng, rng.choice(kinds))[1])
    if kind == "text":
        return of_text(rng, sentence(rng))
    if kind == "record":
        return of_fields(rng)
    if kind == "list":
        return of_list(rng)
    return of_status(rng)
