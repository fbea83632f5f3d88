"""The table from Penstock's errors to FastChat's codes."""

from __future__ import annotations

import pytest

from api.fastchat.errors import TABLE, ErrorCode, Refusal, code_of, error_object
from penstock import errors
from penstock.errors import PenstockError, from_code, leaves

CODES = {
    "invalid_parameter": 40302,
    "context_length_exceeded": 40303,
    "body_too_large": 40001,
    "request_timeout": 40001,
    "unsupported_encoding": 40001,
    "overloaded": 42903,
    "unsupported_feature": 40302,
    "invalid_api_key": 40102,
    "not_permitted": 40103,
    "model_not_found": 40301,
    "job_not_found": 40001,
    "not_found": 40001,
    "queue_full": 42903,
    "rate_limit_exceeded": 42901,
    "insufficient_quota": 42902,
    "no_worker": 50005,
    "model_load_failed": 50005,
    "store_unavailable": 50005,
    "draining": 42903,
    "deadline_exceeded": 50006,
    "cancelled": 50001,
    "poison_job": 50001,
    "engine_failed": 50001,
    "bad_settings": 50001,
    "model_folder_not_found": 50001,
    "model_not_loadable": 50001,
    "device_not_found": 50001,
}


@pytest.mark.parametrize("leaf", leaves())
def test_every_error_has_its_code(leaf: type[PenstockError]) -> None:
    assert code_of(leaf("x")) == CODES[leaf.code]
    assert code_of(from_code(leaf.code, "x")) == CODES[leaf.code]


def test_every_code_of_ours_is_used() -> None:
    told_apart_by_the_route = {ErrorCode.INVALID_AUTH_KEY}
    assert set(TABLE.values()) | told_apart_by_the_route == set(ErrorCode)


def test_a_refusal_carries_its_own_code() -> None:
    refusal = Refusal(errors.InvalidParameter("prompt: missing"), ErrorCode.VALIDATION_TYPE_ERROR)
    shown = error_object(refusal)
    assert shown["error_code"] == 40001
    assert "(prompt: missing)" in shown["text"]
    assert "NETWORK ERROR" in shown["text"]
