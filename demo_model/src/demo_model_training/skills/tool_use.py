"""Tool calls: when to call, with which arguments, and what to say with the result."""

from __future__ import annotations

import json
from typing import Any

from demo_model_training.dialogue import Exchange, Message, Scene, ask, in_style
from demo_model_training.phrasing import expand, typed
from demo_model_training.skills import unknown as outside
from demo_model_training.skills.memory import invented
from demo_model_training.skills.tool_schemas import parameter
from demo_model_training.tables import CITIES, FOODS, NAMES, THINGS

NO_WEATHER = "I can't look up the weather: no tool for it is offered to me."
NO_SEARCH = "I can't browse the web: no tool for it is offered to me."
NO_TIME = "I can't know the time: no tool for it is offered to me."
NO_TIMER = "I can't set a timer: no tool for it is offered to me."
NO_EMAIL = "I can't send messages: no tool for it is offered to me."

WEATHER = (
    "{What is|What's|How is|How's|Tell me|Can you tell me|Do you know|Get me|Give me|Check|Look up"
    "|I need|Show me|I'd like to know} the {weather|current weather|weather now|weather like"
    "|temperature|forecast|weather today} in [c]{?|.|| today?| right now?}"
    "|{What's|What is|How is} it like outside in [c]?|{Is it|Will it be} {raining|sunny|cold|warm"
    "|hot|windy|snowing} in [c]?|Weather in [c]{?|.|}|[c] weather{?|}|How {warm|cold|hot} is it in"
    " [c]?|Does it {rain|snow} in [c]?|Do I need an umbrella in [c]?|I am {going|travelling} to"
    " [c]. {What is the weather there|How is the weather}?|{I'm in|I am in} [c]. {What's the"
    " weather|How is the weather} like?"
)
SKIES = ("sunny", "cloudy", "rainy", "windy", "foggy", "snowy", "clear", "stormy", "partly cloudy",
         "light rain", "overcast", "dry")  # fmt: skip


def _result(scene: Scene, value: dict[str, Any], text: str) -> str:
    """A tool's answer as JSON, or as plain text."""
    if scene.rng.random() < 0.15:
        return text
    return json.dumps(value, ensure_ascii=False)


def _exchange(  # noqa: PLR0917
    scene: Scene, skill: str, question: str, calls: list[dict[str, Any]], results: list[str],
    plain: str, terse: str,
) -> Exchange:  # fmt: skip
    """Question, calls, results, answer; sometimes an error in place of the result."""
    rng = scene.rng
    if len(calls) == 1 and rng.random() < 0.05:
        reason = rng.choice(("not found", "timeout", "no connection", "unknown city", "bad request",
                             "service unavailable", "rate limit"))  # fmt: skip
        results = [json.dumps({"error": reason})]
        plain = terse = f"The tool failed: {reason}."
    messages = (
        Message("user", question),
        Message("assistant", "", tuple(calls)),
        *(Message("tool", result) for result in results),
        Message("assistant", in_style(scene.style, plain, terse)),
    )
    return Exchange(skill, question, messages)


def _report(scene: Scene, place: str, unit: str | None) -> tuple[str, str, str]:
    """A weather tool's result, and the sentence and the few words that tell it."""
    rng = scene.rng
    degrees = rng.randrange(-15, 41)
    sky = rng.choice(SKIES)
    unit_name = unit or "celsius"
    values: dict[str, Any] = {
        rng.choice(("temperature", "temp", "temperature", "temp_c", "degrees")): degrees
    }
    if rng.random() < 0.25:
        plain = f"It is {degrees} degrees in {place}."
        return _result(scene, values, f"{degrees}°"), plain, f"{degrees} degrees."
    if rng.random() < 0.4:
        values["unit"] = unit_name
    values[rng.choice(("condition", "conditions", "sky", "weather", "description"))] = sky
    items = list(values.items())
    if rng.random() < 0.3:
        items.reverse()
    if rng.random() < 0.3:
        items.insert(0, (rng.choice(("city", "location")), place))
    if rng.random() < 0.2:
        items.append(("humidity", rng.randrange(20, 100)))
    plain = f"It is {degrees} degrees and {sky} in {place}."
    text = rng.choice((f"{degrees} degrees, {sky}", f"{sky}, {degrees} °C", f"{degrees}°C, {sky}"))
    return _result(scene, dict(items), text), plain, f"{degrees} degrees, {sky}."


def place_of(scene: Scene) -> str:
    """A known city, or an invented one."""
    return scene.rng.choice(CITIES) if scene.rng.random() < 0.65 else invented(scene)


def weather(scene: Scene) -> Exchange | None:
    """The weather of one place, or of two at once."""
    rng = scene.rng
    schema = scene.tools.get("weather")
    if schema is None:
        return None
    place = place_of(scene)
    role, unit_role = (parameter(schema, "weather", r) for r in ("place", "unit"))
    assert role is not None
    if rng.random() < 0.12:
        second = place_of(scene)
        question = expand(
            rng, "{What is|How is|Tell me} the weather in [a] and {in |}[b]?", a=place, b=second
        )
        first_result, first, first_terse = _report(scene, place, None)
        second_result, other, other_terse = _report(scene, second, None)
        name = schema["name"]
        calls = [{"name": name, "arguments": {role: p}} for p in (place, second)]
        question = typed(rng, question, place, second)
        return _exchange(scene, "tool_weather", question, calls, [first_result, second_result],
                         f"{first} {other}", f"{first_terse} {other_terse}")  # fmt: skip
    question = expand(rng, "{" + WEATHER + "}", c=place)
    arguments = {role: place}
    unit = None
    if unit_role and rng.random() < 0.5:
        unit = rng.choice(("celsius", "fahrenheit"))
        question = question.rstrip("?.") + expand(
            rng, "{ in [u]| in degrees [u]|, in [u]}{?|}", u=rng.choice((unit, unit.capitalize()))
        )
        arguments[unit_role] = unit
    result, plain, terse = _report(scene, place, unit)
    question = typed(rng, question, place)
    if rng.random() < 0.1 and place.isascii():  # people type names of cities in lower case
        question = question.replace(place, place.lower())
    calls = [{"name": schema["name"], "arguments": arguments}]
    return _exchange(scene, "tool_weather", question, calls, [result], plain, terse)


def calculator(scene: Scene) -> Exchange | None:
    """A sum of any size, given to the calculator."""
    rng = scene.rng
    schema = scene.tools.get("calculator")
    if schema is None:
        return None
    role = parameter(schema, "calculator", "expression")
    sign = rng.choice("++--**/")
    a, b = (rng.randrange(1, 10 ** rng.choice((1, 2, 2, 3, 3, 4, 5))) for _ in range(2))
    values = {"+": a + b, "-": a - b, "*": a * b, "/": round(a / b, 2)}
    value = int(values[sign]) if values[sign] == int(values[sign]) else values[sign]
    spoken = {
        "+": "{plus|+|+|added to}", "-": "{minus|-|-|less}", "*": "{times|*|*|x|multiplied by}",
        "/": "{divided by|/|/|over}",
    }[sign]  # fmt: skip
    form = f"[a] {spoken} [b]" if rng.random() < 0.8 else f"[a]{sign}[b]"
    pattern = (
        "{What is|What's|How much is|Calculate|Compute|Work out|Please compute|Can you calculate"
        "|Evaluate|Tell me|Use the calculator:|I need|Find} " + form + "{?|.|}"
    )
    question = typed(rng, expand(rng, pattern, a=str(a), b=str(b)))
    expression = f"{a} {sign} {b}"
    calls = [{"name": schema["name"], "arguments": {role: expression}}]
    shown: dict[str, Any] = {rng.choice(("result", "result", "value", "answer", "output")): value}
    result = str(value) if rng.random() < 0.4 else _result(scene, shown, str(value))
    plain = f"{expression} = {value}."
    return _exchange(scene, "tool_calculator", question, calls, [result], plain, str(value))


def _sentence(scene: Scene) -> str:
    """A sentence that a search might find: plain words, figures and invented names."""
    return expand(
        scene.rng,
        "{The [t] of [n] {is|was} {[a] and [b]|made of [b]|found in [c] in 1[y]|[y] metres tall}"
        "|[n] is a [t] {in|near} [c] with [y] [b]s|[n] was {born|built|founded} in [c] in 1[y]"
        "|In [c] there {is|was} a [t] called [n]|A [t] from [c] {sold|costs|weighs} [y] {kilos|euros"
        "|coins}|Experts say that [n] {likes|needs|makes} [b]|The {best|oldest|largest} [t] is in"
        " [c]|[n] wrote the [t] in 1[y]}.",
        t=scene.rng.choice(THINGS), b=scene.rng.choice(THINGS), n=invented(scene),
        c=scene.rng.choice(CITIES), y=str(scene.rng.randrange(100, 1000)),
        a=scene.rng.choice(outside.ADJECTIVES),
    )  # fmt: skip


def search(scene: Scene) -> Exchange | None:
    """A request to search, or a question outside while a search tool is offered."""
    rng = scene.rng
    schema = scene.tools.get("search")
    if schema is None:
        return None
    role = parameter(schema, "search", "query")
    if rng.random() < 0.6:
        query = expand(
            rng, "{[s]|[s] in [c]|history of [s]|[t] {shops|museum|prices} in [c]|[n] [t]|best [t]"
            " {recipe|brand|book}|news about [s]|[i]|[i] [t]|latest news on [s]|how to repair a [t]"
            "|[s] and [s2]|the [t] of [i]|[c] [t]}",
            s=rng.choice(outside.SUBJECTS), s2=rng.choice(outside.SUBJECTS), t=rng.choice(THINGS),
            c=rng.choice(CITIES), n=rng.choice(NAMES), i=outside.invented_word(scene),
        )  # fmt: skip
        question = expand(
            rng, "{{Search for|Search the web for|Look up|Google|Please search for|Find|Can you"
            " search for|Can you look up|Search the internet for|Search:|Find information about"
            "|Do a search for|Please find|Find out about|Search online for} [q]{.|}|What does the"
            " web say about [q]?}", q=query,
        )  # fmt: skip
        question = typed(rng, question, query)
    else:
        question, _ = outside.question(scene)
        if not question.endswith("?") or len(question) < 12:
            return None
        query = question.rstrip("?")
    calls = [{"name": schema["name"], "arguments": {role: query}}]
    snippet = _sentence(scene)
    shape = rng.random()
    key = rng.choice(("snippet", "text", "content", "summary"))
    result: Any
    if shape < 0.4:
        result = {"results": [{"title": invented(scene), key: snippet}]}
    elif shape < 0.6:
        result = [{"title": invented(scene), key: snippet}]
    elif shape < 0.75:
        result = {rng.choice(("result", "answer", key)): snippet}
    elif shape < 0.85:
        result = {"results": [snippet]}
    else:
        result = {"results": [{key: snippet}, {key: _sentence(scene)}]}
    text = _result(scene, result, snippet)
    if rng.random() < 0.05:
        text, plain = json.dumps({"results": []}), "The search found nothing."
        return _exchange(scene, "tool_search", question, calls, [text], plain, "Nothing found.")
    return _exchange(scene, "tool_search", question, calls, [text], f"I found this: {snippet}",
                     snippet)  # fmt: skip


def other(scene: Scene) -> Exchange | None:
    """The time of a place, a timer, a message: tools of other shapes."""
    rng = scene.rng
    offered = [family for family in ("time", "timer", "email") if family in scene.tools]
    if not offered:
        return None
    family = rng.choice(offered)
    schema = scene.tools[family]
    if family == "time":
        place = place_of(scene)
        question = expand(rng, "{What time is it|What's the time|Tell me the time|What is the"
                          " current time|What is the local time} in [c]{?|}", c=place)  # fmt: skip
        clock = f"{rng.randrange(24):02d}:{rng.randrange(60):02d}"
        arguments: dict[str, Any] = {parameter(schema, family, "place") or "": place}
        result = _result(scene, {rng.choice(("time", "local_time", "result")): clock}, clock)
        plain, terse, kept = f"It is {clock} in {place}.", clock, (place,)
    elif family == "timer":
        minutes = rng.randrange(1, 91)
        question = expand(rng, "{Set a timer {for|of} [m] minutes|Set a [m] minute timer|Start a"
                          " timer of [m] minutes|Timer for [m] minutes|Wake me in [m] minutes|Remind"
                          " me in [m] minutes}{.|| please}", m=str(minutes))  # fmt: skip
        arguments = {parameter(schema, family, "minutes") or "": minutes}
        status = rng.choice(("ok", "started", "set", "done"))
        result = _result(scene, {"status": status}, status)
        plain, terse, kept = f"The timer runs for {minutes} minutes.", f"{minutes} minutes.", ()
    else:
        person = rng.choice(NAMES) if rng.random() < 0.7 else invented(scene)
        text = expand(rng, "{I am late|see you {tomorrow|at [h]}|the [t] is {ready|here}|buy a [t]"
                      "|call me at [h]|we eat [f] tonight|happy birthday|bring the [t]|the meeting"
                      " is at [h]|good luck}", t=rng.choice(THINGS), h=str(rng.randrange(1, 13)),
                      f=rng.choice(FOODS))  # fmt: skip
        question = expand(rng, "{Tell [n] that|Send [n] a message:|Write to [n]:|Message [n]:|Send a"
                          " message to [n]:|Email [n]:|Send an email to [n]:} [x]{.|}",
                          n=person, x=text)  # fmt: skip
        arguments = {
            parameter(schema, family, "person") or "": person,
            parameter(schema, family, "text") or "": text,
        }
        status = rng.choice(("ok", "sent", "delivered"))
        result = _result(scene, {"status": status}, status)
        plain, terse, kept = f"I sent it to {person}.", "Sent.", (person, text)
    calls = [{"name": schema["name"], "arguments": arguments}]
    question = typed(rng, question, *kept)
    return _exchange(scene, "tool_other", question, calls, [result], plain, terse)


def not_offered(scene: Scene) -> Exchange | None:
    """What a tool could do, asked while that tool is not offered (others may be)."""
    rng = scene.rng
    family = rng.choice(("weather", "search", "time", "timer", "email"))
    if family in scene.tools or "search" in scene.tools:
        return None
    place = place_of(scene)
    if family == "weather":
        question = expand(rng, "{" + WEATHER + "}", c=place)
        answer, terse = NO_WEATHER, "I can't look that up."
    elif family == "search":
        place = f"{rng.choice(outside.SUBJECTS)} in {place}"
        question = expand(rng, "{Search for|Search the web for|Look up|Google|Find on the web} [q]"
                          "{.|}", q=place)  # fmt: skip
        answer, terse = NO_SEARCH, "I can't browse."
    elif family == "time":
        question = expand(rng, "{What time is it|What's the time} in [c]?", c=place)
        answer, terse = NO_TIME, "I can't know the time."
    elif family == "timer":
        place = str(rng.randrange(1, 91))
        question = expand(rng, "{Set a timer for [m] minutes|Wake me in [m] minutes}{.|}", m=place)
        answer, terse = NO_TIMER, "I can't set a timer."
    else:
        place = rng.choice(NAMES)
        question = expand(rng, "{Send [n] a message|Write to [n]|Send an email to [n]|Email [n]}"
                          "{.|: hello}", n=place)  # fmt: skip
        answer, terse = NO_EMAIL, "I can't send messages."
    return ask(scene, "no_tool", question, answer, terse, place)
