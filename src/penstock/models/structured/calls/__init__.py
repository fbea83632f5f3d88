"""Grammars of tool calls, for answers that must be calls: one entry for each dialect."""

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
"""The notation of each dialect's calls, by the dialect's name."""


def grammar(structure: ToolStructure, dialect: str, markers: Mapping[str, int]) -> str:
    """Return the grammar of tool calls in the model's own format.

    `markers` are the tokenizer's tokens that do not come from text.

    :raises UnsupportedFeature: the format of this model's calls is unknown.
    :raises InvalidParameter: a strict schema demands something that this dialect cannot enforce.
    """
    calls = CALLS.get(dialect)
    if calls is None:
        raise UnsupportedFeature("this model's format of tool calls is unknown", param="tools")
    rules = Rules(markers)
    calls.write(rules, structure)
    return rules.source()
