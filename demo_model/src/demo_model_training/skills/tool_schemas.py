"""Tool schemas in the many shapes in which clients write them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import random

# family -> (names, descriptions, {role: (parameter names, type, descriptions)}, required roles)
FAMILIES: dict[str, dict[str, Any]] = {
    "weather": {
        "names": ("get_weather", "get_weather", "get_current_weather", "weather", "current_weather",
                  "weather_lookup", "fetch_weather", "getWeather", "lookup_weather",
                  "get_forecast", "weather_at", "city_weather", "get_weather_now", "weatherTool"),
        "descriptions": ("Get the weather of a city.", "Get the current weather in a given city",
                         "The weather now.", "Returns the current weather for a location.",
                         "Get current temperature for a given location.", "Weather of a place",
                         "Look up the weather in a city."),
        "place": (("city", "city", "location", "location", "place", "town"), "string",
                  ("The city", "The name of the city", "City name", "The location",
                   "The city and country, e.g. Paris, France", "Where")),
        "unit": (("unit", "units", "unit"), "string", ("The unit of temperature", "Unit")),
    },
    "calculator": {
        "names": ("calculator", "calculator", "calculate", "compute", "evaluate", "math", "calc",
                  "evaluate_expression"),
        "descriptions": ("Compute an arithmetic expression.", "Evaluate a mathematical expression",
                         "A calculator.", "Calculates the value of an expression.",
                         "Do arithmetic"),
        "expression": (("expression", "expression", "expression", "formula", "input", "expr"),
                       "string", ("The expression", "An arithmetic expression, e.g. 2 + 2",
                                  "What to compute", "The expression to evaluate")),
    },
    "search": {
        "names": ("search", "search", "web_search", "search_web", "internet_search", "lookup",
                  "find"),
        "descriptions": ("Search the web.", "Search the internet for a query", "Find pages.",
                         "Searches the web and returns results.", "Look something up"),
        "query": (("query", "query", "query", "q", "text", "keywords"), "string",
                  ("The search query", "What to search for", "The query")),
    },
    "time": {
        "names": ("get_time", "get_current_time", "current_time", "time_in_city"),
        "descriptions": ("Get the time in a city.", "Get the current time of a place",
                         "Returns the local time."),
        "place": (("city", "location", "place", "timezone"), "string", ("The city", "The place")),
    },
    "timer": {
        "names": ("set_timer", "start_timer", "timer", "create_timer"),
        "descriptions": ("Set a timer.", "Start a timer of some minutes", "Starts a timer."),
        "minutes": (("minutes", "duration", "duration_minutes"), "integer",
                    ("Minutes", "The number of minutes", "How long, in minutes")),
    },
    "email": {
        "names": ("send_email", "send_message", "email", "message"),
        "descriptions": ("Send a message to a person.", "Send an email", "Sends a message."),
        "person": (("to", "recipient", "name"), "string", ("The person", "Who gets it")),
        "text": (("text", "body", "message", "content"), "string", ("The text", "The message")),
    },
}  # fmt: skip
OPTIONAL_ROLES = {"unit"}


def function_schema(  # noqa: PLR0917
    rng: random.Random, name: str, about: str, properties: dict[str, dict[str, Any]],
    required: list[str], plain: float = 0.5,
) -> dict[str, Any]:  # fmt: skip
    """A function as clients send it: `{"name", "description", "parameters"}`, keys in many orders.

    `plain` is the share of schemas with nothing but what they need. Written by hand, by pydantic,
    by zod, from docstrings: each leaves its own keys.
    """
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if required and rng.random() < 0.9:
        parameters["required"] = required
    if rng.random() > plain:
        _adorn(rng, name, parameters)
    function: dict[str, Any] = {"name": name}
    if about:
        function["description"] = about
    function["parameters"] = parameters
    roll = rng.random()
    if roll < 0.06:
        function["strict"] = True
    elif roll < 0.1:
        function = dict(reversed(function.items()))
    if not properties and roll > 0.8:
        del function["parameters"]
    return function


def _adorn(rng: random.Random, name: str, parameters: dict[str, Any]) -> None:
    """Put in what libraries add."""
    roll = rng.random()
    if roll < 0.35:
        _as_zod(rng, parameters)
    elif roll < 0.75:
        _as_pydantic(rng, name, parameters)
    else:
        parameters["additionalProperties"] = rng.random() < 0.2


def _as_zod(rng: random.Random, parameters: dict[str, Any]) -> None:
    if rng.random() < 0.7:
        parameters["additionalProperties"] = False
    if rng.random() < 0.7:
        draft = rng.choice(("draft-07/schema#", "draft-07/schema#", "draft/2020-12/schema"))
        where = rng.choice(("http", "https"))
        item = {"$schema": f"{where}://json-schema.org/{draft}"}
        rest = dict(parameters) if rng.random() < 0.5 else {}
        if rest:
            parameters.clear()
        parameters.update(item, **rest)


def _as_pydantic(rng: random.Random, name: str, parameters: dict[str, Any]) -> None:
    with_titles = rng.random() < 0.6
    for key, schema in parameters["properties"].items():
        if with_titles:
            schema["title"] = key.replace("_", " ").title()
        if schema.get("type") in ("integer", "number") and rng.random() < 0.3:
            low, high = rng.choice(
                (("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum"))
            )
            schema[low], schema[high] = rng.choice((0, -10000, -1000000)), 10 ** rng.choice((6, 7))
    rest = dict(parameters)
    parameters.clear()
    parameters["properties"] = rest["properties"]
    if "required" in rest:
        parameters["required"] = rest["required"]
    if with_titles and rng.random() < 0.7:
        parameters["title"] = name
    parameters["type"] = "object"


def random_schema(rng: random.Random, family: str) -> dict[str, Any]:
    """A function schema of a family."""
    spec = FAMILIES[family]
    properties: dict[str, Any] = {}
    required: list[str] = []
    for role, value in spec.items():
        if role in ("names", "descriptions"):
            continue
        names, kind, descriptions = value
        if role in OPTIONAL_ROLES and rng.random() < 0.6:
            continue
        schema: dict[str, Any] = {"type": kind}
        if role == "unit" and rng.random() < 0.8:
            schema["enum"] = ["celsius", "fahrenheit"]
        if rng.random() < 0.5:
            schema["description"] = rng.choice(descriptions)
        name = rng.choice(names)
        properties[name] = schema
        if role not in OPTIONAL_ROLES or rng.random() < 0.1:
            required.append(name)
    about = rng.choice(spec["descriptions"]) if rng.random() < 0.9 else ""
    return function_schema(rng, rng.choice(spec["names"]), about, properties, required)


def parameter(schema: dict[str, Any], family: str, role: str) -> str | None:
    """What this schema calls the parameter that plays `role`, if it has it."""
    names = FAMILIES[family][role][0]
    return next((name for name in schema["parameters"]["properties"] if name in names), None)
