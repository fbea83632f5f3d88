"""Calls of tools of every kind and of functions that exist nowhere; forced calls; no call."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from demo_model_training.dialogue import TOOL_CALL, Exchange, Message, Scene, in_style
from demo_model_training.phrasing import typed
from demo_model_training.skills import small_talk, tool_invented, tool_kinds
from demo_model_training.skills.tool_outcomes import outcome
from demo_model_training.skills.tool_schemas import FAMILIES, random_schema

if TYPE_CHECKING:
    import random

    from demo_model_training.skills.tool_kinds import Offer, Request

NO_TOOL = "I can't do that: no tool for it is offered to me."
NO_TOOL_TERSE = "I can't do that."
# What the model could do by itself, or says to be outside, when there is no such tool.
NEVER_REFUSED = {
    "add", "multiply", "subtract", "divide", "power", "root", "translate", "person", "dice", "random",
    "greeting", "joke", "news", "define", "count_text", "colour", "sort", "route", "note", "rate", "area",
    "tip", "now", "horoscope", "paint", "shopping", "sql", "convert_unit",
}  # fmt: skip
REFUSED = tuple(name for name in tool_kinds.KINDS if name not in NEVER_REFUSED)
ASIDES = (
    " Use the tool.", " Use the tool.", " Please use the tool.", " Use a tool.", " Use the [f] tool.", " Use [f].",
    " Call the tool for it.", " (use the tool)", " Use your tools.", " Use tools where you can.", " with the tool",
)  # fmt: skip
OPENINGS = ("Using the tool, ", "With the tool, ", "Using [f], ", "Use the tool and ", "Please use the tool: ",
            "Use [f]: ", "By means of the tool: ", "Use your tools: ")  # fmt: skip


def offer_any(rng: random.Random, scene: Scene, count: int) -> None:
    """Offer `count` tools to the scene: families, kinds, invented ones."""
    taken: set[str] = set()
    for _ in range(count):
        roll = rng.random()
        offer: Offer | None = None
        if roll < 0.34:
            family = rng.choice(tuple(FAMILIES))
            schema = random_schema(rng, family)
        elif roll < 0.7:
            family = rng.choice(tool_kinds.KIND_NAMES)
            offer = tool_kinds.offer(rng, family)
            schema = offer.schema
        else:
            family = f"invented {len(scene.tools)}"
            offer = tool_invented.offer(rng)
            schema = offer.schema
        if family in scene.tools or schema["name"] in taken:
            continue
        taken.add(schema["name"])
        scene.tools[family] = schema
        if offer is not None:
            scene.offers[family] = offer


def skill_of(family: str) -> str:
    """The skill that calls the tool of this family, which is offered by `offer_any`."""
    return "tool_invented" if family.startswith("invented") else "tool_kind"


def _asked(rng: random.Random, request: Request, name: str) -> str:
    """The request as it is typed, now and then with a word about the tool."""
    text = request.text
    kept = request.kept
    roll = rng.random()
    if roll < 0.1:
        aside = rng.choice(ASIDES).replace("[f]", name)
        if aside[1].isupper() and text[-1:] not in ".?!":
            text += "."
        return text + aside
    if roll < 0.15:
        first = (
            text[:1].lower()
            if text[:2] != "I " and not text.startswith(kept[:1] or ("",))
            else text[:1]
        )
        return rng.choice(OPENINGS).replace("[f]", name) + first + text[1:]
    return typed(rng, text, *(part for part in kept if part)) if rng.random() < 0.7 else text


def _request(rng: random.Random, given: Offer) -> Request | None:
    asker = tool_invented if given.kind == "invented" else tool_kinds
    return asker.request(rng, given)


def _exchange(scene: Scene, skill: str, offers: list[Offer]) -> Exchange | None:
    """One request, or two in one message, each for a call."""
    rng = scene.rng
    requests = [_request(rng, given) for given in offers]
    asked = [request for request in requests if request is not None]
    if len(asked) < len(offers):
        return None
    text = _asked(rng, asked[0], offers[0].schema["name"])
    if len(asked) == 2:
        text = asked[0].text.rstrip(".?!") + rng.choice(
            (". ", "? ", "; ", " and ", ". Also: ", ", then ", ". And ")
        )
        text += asked[1].text
    calls = tuple(
        {"name": given.schema["name"], "arguments": request.arguments}
        for given, request in zip(offers, asked, strict=True)
    )
    results = [outcome(rng, request.result, request.value) for request in asked]
    told = in_style(scene.style, " ".join(r[1] for r in results), " ".join(r[2] for r in results))
    messages = [Message("user", text), Message("assistant", "", calls)]
    messages += [Message("tool", result) for result, _, _ in results]
    return Exchange(skill, text, (*messages, Message("assistant", told)))


def _offers(scene: Scene, *, are_invented: bool) -> list[Offer]:
    return [one for one in scene.offers.values() if (one.kind == "invented") == are_invented]


def kind(scene: Scene) -> Exchange | None:
    """A tool of one of the kinds."""
    offered = _offers(scene, are_invented=False)
    if not offered:
        return None
    chosen = [scene.rng.choice(offered)]
    if scene.rng.random() < 0.1:
        chosen.append(scene.rng.choice([*offered, *_offers(scene, are_invented=True)]))
    return _exchange(scene, "tool_kind", chosen)


def made_up(scene: Scene) -> Exchange | None:
    """A function that exists nowhere."""
    offered = _offers(scene, are_invented=True)
    if not offered:
        return None
    chosen = [scene.rng.choice(offered)]
    if scene.rng.random() < 0.1:
        chosen.append(scene.rng.choice(offered))
    return _exchange(scene, "tool_invented", chosen)


def refused(scene: Scene) -> Exchange | None:
    """What a tool could do, while that tool is not offered."""
    rng = scene.rng
    if "search" in scene.tools or "email" in scene.tools:
        return None
    if scene.tools and rng.random() < 0.4:
        absent = tool_invented.offer(rng)
        request = tool_invented.request(rng, absent)
        if request is None or absent.schema["name"] not in request.text:
            return None
    else:
        name = rng.choice(REFUSED)
        if name in scene.tools or any(
            one.kind != "invented" and one.kind in REFUSED for one in scene.offers.values()
        ):
            return None
        request = tool_kinds.request(rng, tool_kinds.offer(rng, name))
        if request is None:
            return None
    text = typed(rng, request.text, *(part for part in request.kept if part))
    answer = in_style(scene.style, NO_TOOL, NO_TOOL_TERSE)
    return Exchange("no_such_tool", text, (Message("user", text), Message("assistant", answer)))


def _guess(rng: random.Random, schema: dict[str, Any], text: str) -> Any:
    """What to put where the message says nothing."""
    if "enum" in schema:
        return schema["enum"][0]
    match schema.get("type"):
        case "integer" | "number":
            return 1
        case "boolean":
            return True
        case "array":
            return []
        case "object":
            return {
                name: _guess(rng, one, text) for name, one in schema.get("properties", {}).items()
            }
        case _:
            return text


def forced(scene: Scene) -> Exchange | None:
    """A call that must come although the message is of something else: a grammar writes its start.

    Strings take the message, numbers 1, choices the first.
    """
    rng = scene.rng
    if not scene.tools:
        return None
    talk = small_talk.small_talk(scene)
    text = talk.messages[0].content
    schema = rng.choice(tuple(scene.tools.values()))
    properties = schema.get("parameters", {}).get("properties", {})
    if len(text) > 60 or len(properties) > 3:
        return None
    required = schema.get("parameters", {}).get("required", list(properties))
    arguments = {
        name: _guess(rng, one, text) for name, one in properties.items() if name in required
    }
    # The choice to call and the tool's name are not the model's: see `Message.given`.
    given = len(f'{TOOL_CALL}\n{{"name": {json.dumps(schema["name"])}')
    call = Message(
        "assistant", "", ({"name": schema["name"], "arguments": arguments},), given=given
    )
    return Exchange("tool_forced", text, (Message("user", text), call))
