"""Schemas are closed where that is what they mean, and nowhere else."""

from __future__ import annotations

from typing import Any

import pytest

from penstock.models.structured.json_schema import closed, names_nothing

A: dict[str, Any] = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED: dict[str, Any] = {**A, "additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "wanted"),
    [
        (A, CLOSED),
        ({"type": "array", "items": A}, {"type": "array", "items": CLOSED}),
        ({"anyOf": [A, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        (
            {"properties": {"b": A}, "$defs": {"c": A}, "required": ["b"]},
            {
                "properties": {"b": CLOSED},
                "$defs": {"c": CLOSED},
                "required": ["b"],
                "additionalProperties": False,
            },
        ),
        ({**A, "additionalProperties": A}, {**A, "additionalProperties": CLOSED}),
    ],
)
def test_closed(schema: dict[str, Any], wanted: dict[str, Any]) -> None:
    assert closed(schema) == wanted


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": {}},
        {**A, "additionalProperties": True},
        {**A, "patternProperties": {"^x": {}}},
        {**A, "required": ["a", "b"]},
        {**A, "anyOf": [{"required": ["a"]}]},
        {**A, "$ref": "#/$defs/b", "$defs": {"b": A}},
        {"allOf": [A, {"type": "object", "properties": {"b": {}}}]},
        {"type": "object", "properties": {"x": {"allOf": [A, A]}, "y": A}},
        {**A, "minProperties": 2},
        {"const": {"properties": {"a": 1}}},
        {"properties": "nonsense", "items": 3, "anyOf": 4},
    ],
)
def test_left_as_it_is(schema: dict[str, Any]) -> None:
    assert closed(schema) == schema


def test_parameters_that_are_none() -> None:
    assert names_nothing({})
    assert names_nothing({"type": "object", "properties": {}})
    assert not names_nothing({"type": "object"})
    assert not names_nothing(A)
    assert not names_nothing({"properties": {}, "additionalProperties": True})
