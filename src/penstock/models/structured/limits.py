"""Limits on an answer's form, and its compiler's errors in plain words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, assert_never, cast

from penstock.contract.structure import (
    ChoiceStructure,
    EitherStructure,
    FreeToolStructure,
    GrammarStructure,
    JsonStructure,
    RegexStructure,
    ToolStructure,
)
from penstock.errors import InvalidParameter
from penstock.models.structured.references import is_endless

if TYPE_CHECKING:
    from penstock.contract.structure import Structure

SCHEMA_NESTING: Final = 100
"""Most nested objects and arrays in a JSON schema; llguidance's own limit is 128."""
SCHEMA_PROPERTIES: Final = 2_000
"""Named properties of one object; compiling takes quadratic time, half a second for these."""
ROW_ITEMS: Final = 20_000
"""Most possible continuations of a form at one byte. An optional property takes four."""
STEP_ITEMS: Final = 200_000
"""Limit for all bytes of one token; about 50 ms of the engine's time."""
COMPILING_FUEL: Final = 200_000
"""llguidance's measure of the work on a form's regular expressions; a fraction of a second."""

_MESSAGE_LENGTH: Final = 300
ENDLESS: Final = "{} refers to itself without an end, so that no text fits it"
_CIRCLE: Final = "NoExtensionBias"
_TOO_COMPLEX: Final = (
    "Too many items",
    "Current row has",
    "fuel exhausted",
    "too many expressions",
    "too large",
    "too many states",
    "grammar size",
)
"""Parts of llguidance's messages about its limits."""


def limits(library: Any) -> Any:
    """Return llguidance's object with the limits above."""
    return library.LLParserLimits(
        verbose_errors=False,
        max_items_in_row=ROW_ITEMS,
        step_max_items=STEP_ITEMS,
        initial_lexer_fuel=COMPILING_FUEL,
    )


def noun(structure: Structure) -> str:
    """Return a client's name for a form."""
    match structure:
        case JsonStructure():
            return "the schema"
        case RegexStructure():
            return "the regular expression"
        case GrammarStructure():
            return "the grammar"
        case ChoiceStructure():
            return "the list of choices"
        case ToolStructure() | FreeToolStructure():
            return "the tools' schemas"
        case EitherStructure():
            return "the tools' schemas or the answer's form"
        case _:
            assert_never(structure)


def shortened(message: str) -> str:
    """Return an error of the compiler as one line."""
    lines = [line.strip() for line in message.replace("<non-verbose/>", "").splitlines()]
    return " ".join(line for line in lines if line)[:_MESSAGE_LENGTH].rstrip("; ")


def is_too_complex(message: str) -> bool:
    """Return whether an error of the compiler is about one of its limits."""
    return any(words in message for words in _TOO_COMPLEX)


def explained(message: str, what: str) -> str:
    """Return an error of the compiler in a client's terms; `what` is the form's noun."""
    if _CIRCLE in message:
        return ENDLESS.format(what)
    if is_too_complex(message):
        return f"{what} is too complex: {shortened(message)}"
    return f"{what}: {shortened(message)}"


def check_schema(schema: object) -> None:
    """Check that a JSON schema is within its limits.

    :raises InvalidParameter: it is nested too deeply, an object has too many properties, or its
        references never end.
    """
    waiting: list[tuple[object, int]] = [(schema, 0)]
    while waiting:
        value, level = waiting.pop()
        if not isinstance(value, dict | list):
            continue
        if level >= SCHEMA_NESTING:
            raise InvalidParameter(f"the schema is nested deeper than {SCHEMA_NESTING} levels")
        if isinstance(value, list):
            waiting += [(member, level + 1) for member in cast("list[object]", value)]
            continue
        keywords = cast("dict[str, object]", value)
        named = keywords.get("properties")
        if isinstance(named, dict) and len(cast("dict[str, object]", named)) > SCHEMA_PROPERTIES:
            raise InvalidParameter(
                f"the schema has an object of more than {SCHEMA_PROPERTIES} properties"
            )
        waiting += [(member, level + 1) for member in keywords.values()]
    if is_endless(schema):
        raise InvalidParameter(ENDLESS.format("the schema"))
