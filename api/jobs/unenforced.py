"""What a request's schemas ask for and no grammar enforces: left out, and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.contract.schema_keywords import unenforced
from penstock.contract.structure import EitherStructure, JsonStructure, ToolStructure

if TYPE_CHECKING:
    from penstock.contract.structure import Structure


def unenforced_keywords(structure: Structure | None) -> list[str]:
    """Return a line for each keyword that is left out of an answer's form; none if it is strict."""
    match structure:
        case EitherStructure(calls, answer):
            return [*unenforced_keywords(calls), *unenforced_keywords(answer)]
        case ToolStructure(functions):
            return [
                f"tools: {function.name}: {path} is not enforced"
                for function in functions
                if not function.strict
                for path in unenforced(function.parameters)
            ]
        case JsonStructure(schema, lenient=True):
            return [f"the schema: {path} is not enforced" for path in unenforced(schema)]
        case _:
            return []
