"""The table from errors to HTTP."""

from __future__ import annotations

import json

import pytest

from api.http.errors import TABLE, answer_of, openai_response
from penstock import errors
from penstock.errors import PenstockError, QueueFull, leaves

LEAVES = [leaf for leaf in leaves() if leaf.__module__ == errors.__name__]


@pytest.mark.parametrize("leaf", LEAVES)
def test_every_leaf_is_in_the_table(leaf: type[PenstockError]) -> None:
    assert leaf in TABLE


def test_unknown_child_takes_its_parents_answer() -> None:
    assert answer_of(errors.JobFailed("x")).status == 500
    assert answer_of(errors.Unavailable("x")).status == 500


@pytest.mark.parametrize("leaf", LEAVES)
def test_shape(leaf: type[PenstockError]) -> None:
    response = openai_response(leaf("what happened", param="messages"))
    body = json.loads(bytes(response.body))
    assert set(body) == {"error"}
    assert set(body["error"]) == {"message", "type", "param", "code"}
    assert body["error"]["message"] == "what happened"
    assert body["error"]["param"] == "messages"
    assert body["error"]["code"] == leaf.code
    assert 400 <= response.status_code < 600
    if response.status_code in (429, 503):
        assert int(response.headers["retry-after"]) >= 1


def test_retry_after_is_rounded_up() -> None:
    response = openai_response(QueueFull("full", retry_after_s=2.1))
    assert response.headers["retry-after"] == "3"
    assert openai_response(QueueFull("full", retry_after_s=0.01)).headers["retry-after"] == "1"


def test_what_cannot_be_helped_is_not_retried() -> None:
    assert openai_response(errors.PoisonJob("x")).headers["x-should-retry"] == "false"
    assert "x-should-retry" not in openai_response(errors.EngineFailed("x")).headers
