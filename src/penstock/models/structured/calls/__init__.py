"""Grammars of tool calls, for answers that must call: one entry for each dialect."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.errors import UnsupportedFeature
from penstock.models.structured.calls.json_calls import JSON_CALLS
from penstock.models.structured.calls.rules import Rules
from penstock.models.structured.calls.typed_calls import TYPED_CALLS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from penstock.contract.structure import ToolStructure

CALLS: Final = {**JSON_CALLS, **TYPED_CALLS}
"""How each dialect's calls are written, by its name."""


def grammar(structure: ToolStructure, dialect: str, markers: Mapping[str, int]) -> str:
    """Return the grammar of tool calls as the model writes them.

    `markers` are the tokenizer's tokens that no text makes.

    :raises UnsupportedFeature: how this model calls tools is not known.
    :raises InvalidParameter: a strict schema asks for what this dialect cannot be held to.
    """
    calls = CALLS.get(dialect)
    if calls is None:
        raise UnsupportedFeature("how this model calls tools is not known", param="tools")
    rules = Rules(markers)
    calls.write(rules, structure)
    return rules.source()
