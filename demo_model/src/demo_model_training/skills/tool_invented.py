"""Functions that exist nowhere: any name, any parameters. What to call must be read off the schema."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from demo_model_training.phrasing import expand
from demo_model_training.skills.tool_kinds import Offer, Request, about_text, described
from demo_model_training.skills.tool_schemas import function_schema
from demo_model_training.skills.tool_values import KINDS_OF_VALUE, draw, invented, schema_of
from demo_model_training.tables import THINGS

if TYPE_CHECKING:
    import random

_VERBS = (
    "do get set make run find check apply compute fetch process update load send read build"
    " measure start stop list count mix wash lift fold paint twist shift merge split scan probe"
    " test magic secret mystery special custom hidden strange simple basic super inner"
)
VERBS = tuple(_VERBS.split())
_NOUNS = (
    "function value number thing item record state level score code signal index rank tool step"
    " text word name data job task price weight colour machine robot sensor door pump valve"
    " magic mystery secret wonder trick spell riddle formula operation routine"
)
NOUNS = tuple(_NOUNS.split())
ABOUT = (
    "Apply a [a] [n] to {an input|a number|a value|the input|a text}.", "Compute {the|a} [a] [n].",
    "{Calculates|Returns|Gives|Makes|Gets} {the|a} [a] [n] {of|for|from} {the input|a value|a [t]}.",
    "A [a] [n].", "{The|A} [n] {for|of} the [t].", "[V] the [t].", "[V] {a number|a value|an input|a [t]}.",
    "{Function|Tool} that {does|gives|finds} a [a] [n].", "No description.", "Does the [i] of the [t].",
    "{Performs|Executes} the [a] [n].", "[I].",
)  # fmt: skip
PARAMETERS = (
    ("x", "number"), ("y", "number"), ("n", "whole"), ("a", "signed"), ("b", "signed"), ("input", "signed"),
    ("input", "text"), ("value", "number"), ("number", "signed"), ("text", "text"), ("name", "name"),
    ("mode", "enum"), ("kind", "enum"), ("level", "whole"), ("count", "small"), ("key", "code"),
    ("city", "place"), ("flag", "flag"), ("verbose", "flag"), ("items", "things"), ("values", "wholes"),
    ("query", "text"), ("id", "code"), ("color", "colour"), ("style", "manner"), ("topic", "topic"),
    ("date", "day"), ("path", "path"), ("word", "word"), ("amount", "amount"), ("point", "object"),
    ("options", "object"), ("who", "name"), ("numbers", "numbers"), ("names", "names"), ("s", "word"),
    ("i", "signed"), ("arg", "signed"), ("arg", "text"), ("param", "word"), ("speed", "whole"),
    ("enabled", "flag"), ("email", "mail"), ("k", "whole"), ("data", "text"), ("language", "language"),
)  # fmt: skip
ANY_KIND = tuple(KINDS_OF_VALUE)
NO_ARGUMENTS = (
    "What is the {value|result|output} of [f](){?| now?}", "{Call|Run|Use|Execute|Try|Start|Invoke} [f](){.|}",
    "{Call|Run|Use|Execute|Try|Invoke|Please call|Please use} {the {tool|function} |}[f]{.|| now.|, please}",
    "What does [f] {say|return|give}{?| today?}", "{Give me|Show me|I need|Get} {the |}[s]{.|}", "[f]()", "[s]{?|, please}",
    "{Use|Call} {the|your} {tool|function}{.| and tell me what it says.}",
)  # fmt: skip
ONE_ARGUMENT = (
    "What is the {value|result|output} of [f]([v]){?|}", "What is [f]([v]){?|}", "[f]([v]){?|}",
    "{Compute|Evaluate|Calculate|Run|Call|Execute|Try|Give me|Tell me|Invoke} [f]([v]){.|}",
    "{Apply|Run|Use|Try} {the |}{tool |}[f] {to|on|with|for} [u]{.|}", "What {does|will|would} [f] {return|give|say} for [u]?",
    "{Use|Call|Run} [f] {with|for} [p] {=|of|set to|equal to|as|} [u]{.|}", "[f]: [u]", "[f] of [u]{?|, please}",
    "{What is|Give me|Find|Show me|I need} the [s] {of|for} [u]{?|.|}", "{Do|Make} the [s] {with|of|for} [u]{.|}",
    "{Use|Call} the {tool|function} {with|for|on} [u]{.|}", "{What happens|What do I get} if I {pass|give|feed} [u] to [f]?",
    "The [p] is [u]. {Call|Run|Use} [f]{.|}",
)  # fmt: skip
SEVERAL = (
    "{Call|Run|Use|Execute|Try|Invoke} [f] with [k]{.|}", "{Use|Call|Run} {the tool |the function |}[f]{:|. |, } [k]{.|}",
    "[f]([e]){?|}", "What {is|does} [f]([e]){?| give?| return?}", "What is the {value|result} of [f]([e])?",
    "{Call|Run|Compute|Evaluate|Execute} [f]([e]){.|}", "{Make|Do|Give me|I need} {a|the} [s] with [k]{.|}",
    "{With|For} [k], {call|run|use} [f]{.|}", "{Call|Use|Run} [f] with {the {arguments|parameters} |}[j]{.|}", "[f] [j]",
)  # fmt: skip


def _name(rng: random.Random) -> str:
    roll = rng.random()
    first = rng.choice(VERBS) if rng.random() < 0.7 else invented(rng)
    second = rng.choice((rng.choice(NOUNS), rng.choice(THINGS), invented(rng)))
    if roll < 0.45:
        return f"{first}_{second}"
    if roll < 0.6:
        return f"{first}{second.capitalize()}"
    if roll < 0.72:
        return f"{first}_{second}_{rng.choice((*NOUNS, rng.choice(THINGS), 'no_args', 'v' + str(rng.randrange(1, 9))))}"
    if roll < 0.82:
        return rng.choice((first, second, f"my_{second}", f"{second}_tool", f"{second}-{first}"))
    if roll < 0.9:
        return f"{first}{second}"
    return rng.choice((f"{first}{rng.randrange(1, 20)}", f"f{rng.randrange(1, 9)}", f"{second}_{rng.randrange(100)}",
                       invented(rng, capital=True), f"{second.capitalize()}", f"{invented(rng)}_{invented(rng)}"))  # fmt: skip


def _schema(rng: random.Random, kind: str) -> tuple[str, dict[str, Any]]:
    """The kind with its choices or fields filled in, and its schema."""
    if kind == "enum":
        words = [
            invented(rng) if rng.random() < 0.4 else rng.choice((*NOUNS, *THINGS))
            for _ in range(rng.choice((2, 3, 3, 4)))
        ]
        kind = "enum:" + ",".join(dict.fromkeys(words))
    elif kind == "object":
        fields = rng.sample(("x", "y", "name", "depth", "size", "city", "on"), 2)
        kinds = {
            "x": "number",
            "y": "number",
            "name": "word",
            "depth": "small",
            "size": "whole",
            "city": "place",
            "on": "flag",
        }
        return "object:" + ",".join(f"{field}={kinds[field]}" for field in fields), {
            "type": "object",
            "properties": {field: schema_of(kinds[field]) for field in fields},
            **({"required": fields} if rng.random() < 0.6 else {}),
        }
    return kind, schema_of(kind)


def offer(rng: random.Random) -> Offer:
    """A function with none to four parameters. Roles are the parameters' names, with their kinds."""
    name = _name(rng)
    parameters: dict[str, str] = {}
    properties: dict[str, dict[str, Any]] = {}
    required: list[str] = []
    for _ in range(rng.choice((0, 0, 1, 1, 1, 1, 2, 2, 3, 4))):
        called, kind = rng.choice(PARAMETERS)
        if rng.random() < 0.25:
            called = rng.choice(
                (
                    invented(rng),
                    f"{called}_{rng.choice(NOUNS)}",
                    f"{rng.choice(NOUNS)}_{called}",
                    rng.choice(NOUNS),
                )
            )
            if rng.random() < 0.5:
                kind = rng.choice(ANY_KIND)
        if called in properties:
            continue
        kind, schema = _schema(rng, kind)
        properties[called] = described(rng, schema, called, name)
        parameters[called] = kind
        if rng.random() < 0.85:
            required.append(called)
    about = expand(
        rng, rng.choice(ABOUT), n=rng.choice(NOUNS), a=rng.choice(VERBS[-8:]), t=rng.choice(THINGS),
        V=rng.choice(VERBS).capitalize(), i=invented(rng), I=name.replace("_", " ").capitalize(),
    )  # fmt: skip
    text = about_text(rng, (about,), properties)
    return Offer("invented", function_schema(rng, name, text, properties, required), parameters)


def _drawn(rng: random.Random, kind: str) -> tuple[str, Any]:
    if not kind.startswith("object:"):
        return draw(rng, kind)
    fields = [field.split("=") for field in kind[7:].split(",")]
    value = {name: draw(rng, one)[1] for name, one in fields}
    said = json.dumps(value, ensure_ascii=False)
    if rng.random() < 0.4:
        said = ", ".join(
            f"{name} {one}" if not isinstance(one, bool) else f"{name} {str(one).lower()}"
            for name, one in value.items()
        )
        said = f"({said})"
    return said, value


def _literal(rng: random.Random, value: Any) -> str:
    """A value as it stands in a call: strings in quotes, mostly."""
    if isinstance(value, str):
        return rng.choice((f'"{value}"', f'"{value}"', f"'{value}'", value))
    if isinstance(value, bool):
        return rng.choice(("true" if value else "false", str(value)))
    return (
        json.dumps(value, ensure_ascii=False) if not isinstance(value, int | float) else str(value)
    )


def request(rng: random.Random, given: Offer) -> Request | None:
    """A request for this function, by its name or by what its name says."""
    name = given.schema["name"]
    required = given.schema.get("parameters", {}).get("required", list(given.parameters))
    values = {
        called: _drawn(rng, kind)
        for called, kind in given.parameters.items()
        if called in required or rng.random() < 0.6
    }
    spoken = name.replace("_", " ").replace("-", " ")
    pattern = rng.choice(SEVERAL if len(values) > 1 else ONE_ARGUMENT if values else NO_ARGUMENTS)
    text = expand(rng, pattern).replace("[f]", f"`{name}`" if rng.random() < 0.05 else name)
    text = text.replace("[s]", spoken if rng.random() < 0.8 else name)
    arguments = {called: value for called, (_, value) in values.items()}
    literals = {called: _literal(rng, value) for called, (_, value) in values.items()}
    equals = rng.choice(("=", "=", " = ", ": ", " ", " is ", " as ", " of "))
    joined = rng.choice((", ", ", ", " and ", "; "))
    if len(values) == 1:
        (called, (said, _)) = next(iter(values.items()))
        shown = f'"{said}"' if isinstance(arguments[called], str) and rng.random() < 0.4 else said
        text = text.replace("[v]", literals[called]).replace("[u]", shown).replace("[p]", called)
    elif values:
        pairs = [
            f"{called}{equals}{literals[called] if equals in ('=', ' = ') else values[called][0]}"
            for called in values
        ]
        text = text.replace("[k]", joined.join(pairs)).replace(
            "[j]", json.dumps(arguments, ensure_ascii=False)
        )
        if rng.random() < 0.35:
            text = text.replace(
                "[e]", ", ".join(f"{called}={one}" for called, one in literals.items())
            )
        text = text.replace("[e]", ", ".join(literals.values()))
    return Request(
        text,
        arguments,
        (name, spoken, *(said for said, _ in values.values()), *literals.values()),
        "any",
    )
