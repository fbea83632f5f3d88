"""Tools of some fifty kinds (`tool_kinds.toml`): their schemas, and requests that call them."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demo_model_training.phrasing import expand
from demo_model_training.skills.tool_schemas import function_schema
from demo_model_training.skills.tool_values import draw, invented, schema_of

if TYPE_CHECKING:
    import random


@dataclass(frozen=True)
class Role:
    """A parameter: the kind of its values, and the names that it may have."""

    kind: str
    names: tuple[str, ...]
    is_optional: bool


@dataclass(frozen=True)
class Kind:
    """One kind of tool."""

    names: tuple[str, ...]
    about: tuple[str, ...]
    roles: dict[str, Role]
    asks: tuple[str, ...]
    result: str


@dataclass(frozen=True)
class Offer:
    """A tool that is offered: its schema, and what its parameters are called, by role."""

    kind: str
    schema: dict[str, Any]
    parameters: dict[str, str]


@dataclass(frozen=True)
class Request:
    """What is asked, the arguments of the call, and the parts of the text that carry values."""

    text: str
    arguments: dict[str, Any]
    kept: tuple[str, ...]
    result: str
    value: Any = None


def _read() -> dict[str, Kind]:
    path = Path(__file__).with_name("tool_kinds.toml")
    kinds: dict[str, Kind] = {}
    for name, table in tomllib.loads(path.read_text(encoding="utf-8")).items():
        optional = table.get("optional", "").split()
        roles: dict[str, Role] = {}
        for role, text in table["roles"].items():
            kind, _, names = text.rpartition(": ")
            roles[role] = Role(kind, tuple(names.split()), role in optional)
        asks = tuple(line for line in table["asks"].splitlines() if line)
        about = tuple(table["about"].split("|"))
        kinds[name] = Kind(tuple(table["names"].split()), about, roles, asks, table["result"])
    return kinds


KINDS = _read()
KIND_NAMES = tuple(KINDS)
ARTICLES = (
    "The [p].",
    "The [p]",
    "[P]",
    "[P] of the [n]",
    "The [p] to use",
    "Which [p]",
    "the [p]",
    "[p]",
)
LONG_ABOUT = ("\n\nArgs:\n{args}", "\n\n    Args:\n{args}\n\n    Returns:\n        The result.",
              " Use it when the user asks for it.", " Always call it for such questions.",
              " Returns JSON.", " (version {n})")  # fmt: skip
MARK = re.compile(r"\[(\w+)\]")


def offer(rng: random.Random, kind: str) -> Offer:
    """A tool of this kind, as some client would describe it."""
    spec = KINDS[kind]
    name = rng.choice(spec.names)
    parameters: dict[str, str] = {}
    properties: dict[str, dict[str, Any]] = {}
    required: list[str] = []
    for role, one in spec.roles.items():
        if one.is_optional and rng.random() < 0.4:
            continue
        called = rng.choice(one.names)
        if rng.random() < 0.1:
            called = rng.choice(
                (
                    f"{called}_{rng.choice(('value', 'in', 'arg', 'text', 'p'))}",
                    invented(rng),
                    f"_{called}",
                )
            )
        if called in properties:
            called = role
        parameters[role] = called
        properties[called] = described(rng, schema_of(one.kind), called, name)
        if not one.is_optional:
            required.append(called)
    return Offer(
        kind,
        function_schema(rng, name, about_text(rng, spec.about, properties), properties, required),
        parameters,
    )


def described(rng: random.Random, schema: dict[str, Any], called: str, tool: str) -> dict[str, Any]:
    """`schema`, half the time with a description."""
    if rng.random() < 0.45:
        text = rng.choice(ARTICLES)
        word = called.replace("_", " ").strip()
        text = text.replace("[p]", word).replace("[P]", word.capitalize()).replace("[n]", tool)
        schema["description"] = text
        if rng.random() < 0.3:
            return dict(reversed(schema.items()))
    return schema


def about_text(
    rng: random.Random, about: tuple[str, ...], properties: dict[str, dict[str, Any]]
) -> str:
    """A description: a line, seldom none, seldom a whole docstring."""
    roll = rng.random()
    if roll < 0.06:
        return ""
    text = rng.choice(about)
    if roll < 0.2:
        args = "\n".join(f"    {name}: The {name.replace('_', ' ')}." for name in properties)
        text += rng.choice(LONG_ABOUT).format(args=args, n=rng.randrange(1, 9))
    return text


def request(rng: random.Random, given: Offer) -> Request | None:
    """A request that this tool fits; None where the words ask for more than the tool takes."""
    spec = KINDS[given.kind]
    text = expand(rng, rng.choice(spec.asks))
    wanted = set(MARK.findall(text)) - {"tool"}
    if not wanted <= given.parameters.keys():
        return None
    name = given.schema["name"]
    values = {role: draw(rng, spec.roles[role].kind) for role in spec.roles if role in wanted}
    if any(not one.is_optional and role not in wanted for role, one in spec.roles.items()):
        return None
    spoken = (
        name
        if rng.random() < 0.6
        else re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).replace("_", " ").lower()
    )
    text = text.replace("[tool]", spoken)
    for role, (words, _) in values.items():
        text = text.replace(f"[{role}]", words)
    text = (
        text[:1].upper() + text[1:] if not text.startswith(spoken) and rng.random() < 0.8 else text
    )
    arguments = {given.parameters[role]: value for role, (_, value) in values.items()}
    result = None
    numbers = [value for _, value in values.values()]
    if spec.result == "sum" and rng.random() < 0.7:
        result = round(sum(numbers), 4)
    elif spec.result == "product" and rng.random() < 0.7:
        result = round(numbers[0] * numbers[1], 4)
    kept = (spoken, *(words for words, _ in values.values()))
    return Request(text, arguments, kept, spec.result, result)
