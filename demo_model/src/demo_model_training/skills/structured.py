"""Answers in JSON: facts taken from a sentence, and small questions answered as an object."""

from __future__ import annotations

import json
from typing import Any

from demo_model_training.dialogue import Exchange, Message, Scene
from demo_model_training.phrasing import expand
from demo_model_training.skills import jokes
from demo_model_training.skills.memory import invented
from demo_model_training.skills.tool_values import draw
from demo_model_training.tables import CAPITALS, CITIES, FAVOURITE_COLOURS, FOODS, JOBS, NAMES, PETS

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
    "email": (("email", "mail", "e_mail", "contact"), "{can be reached at [v]|has the address [v]}"),
    "height": (("height", "height_cm", "weight", "score"), "{measures|has a height of|scored} [v]"),
    "friend": (("friend", "partner", "boss", "colleague"), "{is a friend of|works with|knows} [v]"),
    "married": (("is_married", "married", "is_member", "active"), "[v]"),
    "hobbies": (("hobbies", "interests", "likes", "items", "tags"), "{likes|collects|loves} [v]"),
}  # fmt: skip
DRAWN = {"email": "mail", "height": "amount", "friend": "name"}
TABLES = {"city": CITIES, "job": JOBS, "colour": FAVOURITE_COLOURS, "food": FOODS, "pet": PETS}


def _value(scene: Scene, field: str) -> Any:  # noqa: PLR0911 - a line a field
    rng = scene.rng
    if field == "age":
        return rng.randrange(1, 100)
    if field == "number":
        return rng.randrange(1, 1000)
    if field == "city" and rng.random() < 0.4:
        return invented(scene)
    if field in DRAWN:
        return draw(rng, DRAWN[field])[1]
    if field == "married":
        return rng.random() < 0.5
    if field == "hobbies":
        return [draw(rng, "thing")[1] for _ in range(rng.choice((2, 2, 3)))]
    return rng.choice(TABLES[field])


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
        told = str(value)
        if isinstance(value, bool):
            told = "is married" if value else "is not married"
            if "married" not in next(reversed(found)):
                word = next(reversed(found)).removeprefix("is_")
                told = (
                    f"is {'a ' if word == 'member' else ''}{word}"
                    if value
                    else f"is not {'a ' if word == 'member' else ''}{word}"
                )
        elif isinstance(value, list):
            told = ", ".join(value[:-1]) + " and " + value[-1]
        clauses.append(expand(rng, clause, v=told))
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
    properties: dict[str, Any] = {}
    for key, value in found.items():
        if isinstance(value, bool):
            properties[key] = {"type": "boolean"}
        elif isinstance(value, list):
            properties[key] = {"type": "array", "items": {"type": "string"}}
        elif isinstance(value, float):
            properties[key] = {"type": "number"}
        elif isinstance(value, dict):
            properties[key] = {
                "type": "object",
                "properties": {k: {"type": "string"} for k in value},
            }
        else:
            properties[key] = {"type": "integer" if isinstance(value, int) else "string"}
        if scene.rng.random() < 0.12:
            properties[key]["description"] = f"The {key.replace('_', ' ')}"
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
    roll = rng.random()
    if roll < 0.16:
        return _small(scene)
    if roll < 0.28:
        return _joke(scene)
    sentence, found = _person(scene) if roll < 0.75 else _thing(scene)
    if roll > 0.96:
        key = rng.choice(("person", "result", "data", "user", "item", "entry"))
        question = expand(
            rng, "{Return|Give me|Write|Answer with} JSON with {a|the|one} key [k] that holds {an object with|}"
            " {the keys |}[l]{:|.} [s]", k=key, l=_listed(list(found), '"'), s=sentence,
        )  # fmt: skip
        answer = json.dumps({key: found}, ensure_ascii=False)
        return Exchange("json", question, (Message("user", question), Message("assistant", answer)))
    keys = _listed(list(found), rng.choice(('"', "'", "`", "", "")))
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
            "|{Turn|Convert|Put} this into JSON with {the keys |}[k]: [s]|[s] {Return|Give|Write} {the result|it|this|the answer}"
            " as {a |}JSON with [k] {keys|as keys|fields}. {Return|Write|Say} nothing {other than|but|else than} JSON."
            "|{Respond|Reply|Answer} {only |}with {a JSON object|JSON}{| only}. {Keys|Fields}: [k]. {|Text: |Input: }[s]"
            "|[s] Write it as JSON with [k]{.|}}",
            s=sentence, k=keys,
        )  # fmt: skip
    answer = json.dumps(found, ensure_ascii=False)
    return Exchange("json", question, (Message("user", question), Message("assistant", answer)))


def _thing(scene: Scene) -> tuple[str, dict[str, Any]]:
    """A sentence about an order, a meeting, a product or a place, and the object that it says."""
    rng = scene.rng
    patterns = (
        ("{Order|Order number} [code]: [n] [thing]s for [name]{.|, to [place].}",
         (("code", "code", "id order order_id"), ("n", "small", "quantity count number amount"),
          ("thing", "thing", "item product article"), ("name", "name", "customer name for"))),
        ("{We meet|The meeting is|See you} on [day] at [time] in [place].",
         (("day", "day", "day date when"), ("time", "time", "time start hour"), ("place", "place", "place city location"))),
        ("The [thing] costs [n] [currency] and is [colour].",
         (("thing", "thing", "item product name"), ("n", "amount", "price cost amount"),
          ("currency", "currency", "currency unit"), ("colour", "colour", "colour color"))),
        ("[name] {bought|sold|has|needs} [n] [thing]s.",
         (("name", "name", "name who person buyer"), ("n", "small", "count number quantity"), ("thing", "thing", "item thing product"))),
        ("In [place] it is [n] degrees.",
         (("place", "place", "city place location"), ("n", "signed", "temperature degrees value"))),
        ("{Write|Send} to [mail] that [text].", (("mail", "mail", "email to address"), ("text", "text", "text message body"))),
    )  # fmt: skip
    pattern, fields = rng.choice(patterns)
    text = expand(rng, pattern)
    found: dict[str, Any] = {}
    for mark, kind, keys in fields:
        said, value = draw(rng, kind)
        if kind == "small":
            said = str(value)
        if f"[{mark}]" in text:
            text = text.replace(f"[{mark}]", said)
            found[rng.choice(keys.split())] = value
    if "[place]" in text:
        text = text.replace("[place]", "town")
    if len(found) > 1 and rng.random() < 0.3:
        del found[rng.choice(tuple(found))]
    return text[0].upper() + text[1:], found


HALVES = (("setup", "punchline"), ("setup", "punchline"), ("question", "answer"), ("opening", "ending"), ("first", "second"),
          ("joke", "solution"), ("riddle", "answer"), ("line1", "line2"))  # fmt: skip


def _joke(scene: Scene, *, with_keys: bool = True) -> Exchange:
    """A joke, its halves under two keys, which a grammar alone may know."""
    rng = scene.rng
    topic = jokes.topic_of(rng)
    halves = rng.choice(HALVES)
    ask = expand(rng, jokes.ABOUT, x=topic)
    pair = jokes.pair(topic)
    if not with_keys:
        if rng.random() < 0.25:
            ask += expand(
                rng,
                "{ Include the [b].| With setup and punchline.| Give me both parts.}",
                b=halves[1],
            )
        text = json.dumps(dict(zip(halves, pair, strict=True)))
        if rng.random() < 0.15:
            text = json.dumps({halves[0]: pair[0]})
        return Exchange(
            "json_forced", ask + text, (Message("user", ask), Message("assistant", text, given=2))
        )
    ask = ask.rstrip(".?") + "."
    keys = _listed(list(halves), rng.choice(('"', "'", "", "`")))
    question = expand(
        rng, "{[q] {Return|Give|Write|Answer with} {the result |it |}{as|in} {a |}JSON{| object} with {the |}[k]{ keys| as keys| fields|}{.|. Only"
        " JSON.|. Nothing but JSON.|, nothing else.}|[q] {Answer|Reply|Respond} {in|as|with} JSON{:| with the keys|. Keys:|, keys} [k]{.|}"
        "|[q] Answer with JSON that matches this schema: [j]}",
        q=ask, k=keys, j=_schema(scene, dict(zip(halves, pair, strict=True))),
    )  # fmt: skip
    text = json.dumps(dict(zip(halves, pair, strict=True)))
    return Exchange("json", question, (Message("user", question), Message("assistant", text)))


def forced(scene: Scene) -> Exchange:
    """JSON although the message asks for none: a grammar writes its first sign and knows the keys."""
    rng = scene.rng
    roll = rng.random()
    if roll < 0.45:
        return _joke(scene, with_keys=False)
    if roll < 0.75:
        question, found = _person(scene) if rng.random() < 0.5 else _thing(scene)
    elif roll < 0.9:
        small = _small(scene, bare=True).messages
        return Exchange(
            "json_forced",
            small[0].content,
            (small[0], Message("assistant", small[1].content, given=2)),
        )
    else:
        question = expand(rng, "{Tell me {of|about} {a person|somebody|someone|a man|a woman}|{Make up|Invent|Describe|Give me} {a"
                          " person|a character|somebody}}{.|}")  # fmt: skip
        found = {
            "name": rng.choice(NAMES),
            "age": rng.randrange(1, 100),
            "city": rng.choice(CITIES),
        }
        if rng.random() < 0.5:
            del found["city"]
    text = json.dumps(found, ensure_ascii=False)
    return Exchange(
        "json_forced",
        question + text,
        (Message("user", question), Message("assistant", text, given=2)),
    )


def _small(scene: Scene, *, bare: bool = False) -> Exchange:
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
    question = asked if bare else expand(
        rng, "{{Answer|Reply|Respond} in JSON with the key [k]: [q]|[q] {Answer|Reply|Respond} in"
        " JSON with the key [k]{.|}|[q] Give me JSON with [k]{.|}|[q] Answer with JSON that matches"
        " this schema: [j]}",
        k=rng.choice((key, f'"{key}"')), q=asked,
        j=_schema(scene, {key: value}),
    )  # fmt: skip
    answer = json.dumps({key: value}, ensure_ascii=False)
    return Exchange("json", question, (Message("user", question), Message("assistant", answer)))
