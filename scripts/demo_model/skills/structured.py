"""Answers in JSON: facts taken from a sentence, and small questions answered as an object."""

from __future__ import annotations

import json
from typing import Any

from scripts.demo_model.dialogue import Exchange, Message, Scene
from scripts.demo_model.phrasing import expand
from scripts.demo_model.skills.memory import invented
from scripts.demo_model.tables import CAPITALS, CITIES, FAVOURITE_COLOURS, FOODS, JOBS, NAMES, PETS

# field -> (other names that people give it, clauses about a person; [v] is the value)
FIELDS: dict[str, tuple[tuple[str, ...], str]] = {
    "age": (("age", "age", "years"), "{is [v] years old|is [v]|is aged [v]}"),
    "city": (("city", "city", "location", "town", "home"),
             "{lives in [v]|comes from [v]|is from [v]}"),
    "job": (("job", "job", "profession", "occupation"), "{works as a [v]|is a [v]}"),
    "colour": (("colour", "color", "favourite_colour", "favorite_color"), "likes the colour [v]"),
    "food": (("food", "food", "favourite_food", "favorite_food"), "{likes [v]|eats [v]}"),
    "pet": (("pet", "pet", "animal"), "{has a [v]|owns a [v]}"),
    "number": (("number", "phone", "room", "id"), "has the number [v]"),
}  # fmt: skip
NUMERIC = ("age", "number")


def _value(scene: Scene, field: str) -> str | int:
    rng = scene.rng
    if field == "age":
        return rng.randrange(1, 100)
    if field == "number":
        return rng.randrange(1, 1000)
    if field == "city" and rng.random() < 0.4:
        return invented(scene)
    tables = {"city": CITIES, "job": JOBS, "colour": FAVOURITE_COLOURS, "food": FOODS, "pet": PETS}
    return rng.choice(tables[field])


def _person(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A sentence about somebody, and the object that it says, in a random choice of keys."""
    rng = scene.rng
    name = rng.choice(NAMES) if rng.random() < 0.6 else invented(scene)
    fields = rng.sample(tuple(FIELDS), rng.choice((1, 2, 2, 3)))
    found: dict[str, Any] = {"name": name}
    clauses: list[str] = []
    for field in fields:
        names, clause = FIELDS[field]
        value = _value(scene, field)
        found[rng.choice(names)] = value
        clauses.append(expand(rng, clause, v=str(value)))
    first_person = rng.random() < 0.12
    joined = clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + " and " + clauses[-1]
    sentence = f"{name} {joined}."
    if first_person:
        mine = joined.replace("lives", "live").replace("comes", "come").replace("works", "work")
        for third, first in (("likes", "like"), ("eats", "eat"), ("has", "have"), ("owns", "own"),
                             ("is ", "am ")):  # fmt: skip
            mine = mine.replace(third, first)
        sentence = f"My name is {name}. I {mine}."
    items = list(found.items())
    if rng.random() < 0.35:
        rng.shuffle(items)
    if len(items) > 2 and rng.random() < 0.3:
        items.pop()
    return sentence, dict(items)


def _schema(scene: Scene, found: dict[str, Any]) -> str:
    """The JSON schema of the object, as clients write it."""
    properties = {
        key: {"type": "integer" if isinstance(value, int) else "string"}
        for key, value in found.items()
    }
    schema: dict[str, Any] = {"type": "object", "properties": properties}
    if scene.rng.random() < 0.8:
        schema["required"] = list(found)
    if scene.rng.random() < 0.3:
        schema["additionalProperties"] = False
    return json.dumps(schema)


def _listed(keys: list[str], quote: str) -> str:
    quoted = [f"{quote}{key}{quote}" for key in keys]
    return quoted[0] if len(quoted) == 1 else ", ".join(quoted[:-1]) + " and " + quoted[-1]


def extract(scene: Scene) -> Exchange:
    """Extract an object from a sentence, by named keys, by a schema, or an answer under a key."""
    rng = scene.rng
    if rng.random() < 0.2:
        return _small(scene)
    sentence, found = _person(scene)
    keys = _listed(list(found), rng.choice(('"', "", "")))
    if rng.random() < 0.3:
        schema = _schema(scene, found)
        question = expand(
            rng, "{[s] {Answer|Reply|Respond} {with|in} JSON {that matches|that fits|matching|for}"
            " this schema: [j]|{Extract|Give me} JSON {that matches|matching} this schema: [j]\n[s]"
            "|[s]\n\n{Answer with JSON that matches this schema:|Respond in JSON of this schema:"
            "|Schema:|JSON schema:} [j]}",
            s=sentence, j=schema,
        )  # fmt: skip
    else:
        question = expand(
            rng, "{{Extract|Give me|Find|Return} {the |}[k] as JSON{:|.} [s]"
            "|[s] {Give me|Extract|Return|Write|Put} {the |}[k] as {JSON|a JSON object}{.|}"
            "|[s] {Answer|Reply|Respond} in JSON with {the keys |keys |}[k]{.|}"
            "|{Answer in JSON|JSON, please|Reply in JSON} with {the keys |}[k]: [s]"
            "|Turn this into JSON with {the keys |}[k]: [s]|[s] Write it as JSON with [k]{.|}}",
            s=sentence, k=keys,
        )  # fmt: skip
    answer = json.dumps(found, ensure_ascii=False)
    return Exchange("json", question, (Message("user", question), Message("assistant", answer)))


def _small(scene: Scene) -> Exchange:
    """A sum or a capital as JSON, under the key that the user names."""
    rng = scene.rng
    key = rng.choice(("answer", "answer", "result", "value"))
    value: Any
    if rng.random() < 0.5:
        a, b = rng.randrange(100), rng.randrange(100)
        asked, value = f"What is {a} + {b}?", a + b
    else:
        country = rng.choice(tuple(CAPITALS))
        asked, value = f"What is the capital of {country}?", CAPITALS[country]
        if rng.random() < 0.5:
            key = rng.choice(("capital", "city"))
    question = expand(
        rng, "{{Answer|Reply|Respond} in JSON with the key [k]: [q]|[q] {Answer|Reply|Respond} in"
        " JSON with the key [k]{.|}|[q] Give me JSON with [k]{.|}|[q] Answer with JSON that matches"
        " this schema: [j]}",
        k=rng.choice((key, f'"{key}"')), q=asked,
        j=_schema(scene, {key: value}),
    )  # fmt: skip
    answer = json.dumps({key: value}, ensure_ascii=False)
    return Exchange("json", question, (Message("user", question), Message("assistant", answer)))
