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
                  "get_forecast"),
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


def random_schema(rng: random.Random, family: str) -> dict[str, Any]:  # noqa: C901
    """A function schema as a client sends it: `{"name", "description", "parameters"}`."""
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
    parameters: dict[str, Any] = {"type": "object", "properties": properties}
    if rng.random() < 0.85:
        parameters["required"] = required
    if rng.random() < 0.15:
        parameters["additionalProperties"] = False
    function: dict[str, Any] = {"name": rng.choice(spec["names"])}
    if rng.random() < 0.9:
        function["description"] = rng.choice(spec["descriptions"])
    function["parameters"] = parameters
    if rng.random() < 0.08:
        function["strict"] = True
    return function


def parameter(schema: dict[str, Any], family: str, role: str) -> str | None:
    """What this schema calls the parameter that plays `role`, if it has it."""
    names = FAMILIES[family][role][0]
    return next((name for name in schema["parameters"]["properties"] if name in names), None)
