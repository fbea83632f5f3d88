"""Whose request it is and what limits look like; no Redis."""

from __future__ import annotations

import pytest

from api.access.keys import duration, given_key, is_among, limit_headers, tenant_of_key
from api.http.caller import Caller
from penstock.cli.keys import _cell, seconds
from penstock.errors import BadSettings, NotPermitted
from penstock.transport.accounts.keyring import KeyCard
from penstock.transport.accounts.limits import Allowance, Bucket
from tests.fixtures.api import model_card


def key_card(**fields: object) -> KeyCard:
    return KeyCard(**{"id": "key-1", "name": "ann", "hint": "abcd", "created_s": 0, **fields})


@pytest.mark.parametrize(
    ("authorization", "api_key", "given"),
    [
        ("Bearer a", "", "a"),
        ("bearer  a ", "b", "a"),
        ("", "b", "b"),
        ("Basic a", "b", "b"),
        ("Bearer", "", ""),
        ("", "", ""),
    ],
)
def test_the_key_that_was_given(authorization: str, api_key: str, given: str) -> None:
    assert given_key(authorization, api_key) == given


def test_settings_keys() -> None:
    assert is_among("b", ("a", "b"))
    assert not is_among("c", ("a", "b"))
    assert not is_among("\udc80", ("a",))
    assert tenant_of_key("a") != tenant_of_key("b")
    assert "a-secret" not in tenant_of_key("a-secret")


@pytest.mark.parametrize(
    ("best", "asked", "priority"),
    [(None, None, 5), (None, 0, 0), (3, None, 3), (3, 1, 3), (3, 7, 7), (0, None, 0)],
)
def test_priorities(best: int | None, asked: int | None, priority: int) -> None:
    assert Caller("key-1", key_card(priority=best)).priority(asked) == priority


def test_models() -> None:
    card = model_card()
    Caller().check_model("tiny", card)
    Caller("key-1", key_card()).check_model("tiny", card)
    for name in ("tiny", "tiny-cpu", "org/tiny"):
        Caller("key-1", key_card(models=("x", name))).check_model("org/tiny", card)
    with pytest.raises(NotPermitted) as caught:
        Caller("key-1", key_card(models=("x",))).check_model("tiny", card)
    assert caught.value.param == "model"


def test_headers() -> None:
    allowance = Allowance(0.0, Bucket(60, 59), Bucket(1000, -500))
    assert limit_headers(allowance) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "1000",
        "x-ratelimit-remaining-tokens": "0",
        "x-ratelimit-reset-tokens": "1m30s",
    }
    assert limit_headers(Allowance(0.0, None, None)) == {}


@pytest.mark.parametrize(
    ("seconds_", "text"), [(0, "0ms"), (0.02, "20ms"), (1.23, "1.23s"), (360, "6m0s")]
)
def test_durations(seconds_: float, text: str) -> None:
    assert duration(seconds_) == text


def test_times_of_the_command_line() -> None:
    assert seconds("90m") == 5_400
    assert seconds("2d") == 172_800
    for wrong in ("", "5", "-1d", "1y", "d"):
        with pytest.raises(BadSettings):
            seconds(wrong)


def test_cells_are_no_formulas() -> None:
    assert _cell("=1+1") == "'=1+1"
    assert _cell("plain") == "plain"
    assert _cell(-1) == -1
