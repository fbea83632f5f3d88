"""Penstock's errors in FastChat's shape: status 200 and one object with a text and a code."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from penstock import errors

if TYPE_CHECKING:
    from collections.abc import Mapping


class ErrorCode(IntEnum):
    """FastChat's numbers (`fastchat.constants.ErrorCode`)."""

    VALIDATION_TYPE_ERROR = 40001
    INVALID_AUTH_KEY = 40101
    INCORRECT_AUTH_KEY = 40102
    NO_PERMISSION = 40103
    INVALID_MODEL = 40301
    PARAM_OUT_OF_RANGE = 40302
    CONTEXT_OVERFLOW = 40303
    RATE_LIMIT = 42901
    QUOTA_EXCEEDED = 42902
    ENGINE_OVERLOADED = 42903
    INTERNAL_ERROR = 50001
    CONTROLLER_NO_WORKER = 50005
    CONTROLLER_WORKER_TIMEOUT = 50006


class Refusal(Exception):
    """A Penstock error with a more specific FastChat code than its class has.

    FastChat distinguishes a malformed body from a value out of range, and a missing key from a
    wrong one; Penstock's tree does not.
    """

    def __init__(self, error: errors.PenstockError, code: ErrorCode) -> None:
        super().__init__(error.message)
        self.error = error
        self.code = code


TABLE: Final[Mapping[type[errors.PenstockError], ErrorCode]] = {
    errors.InvalidParameter: ErrorCode.PARAM_OUT_OF_RANGE,
    errors.ContextOverflow: ErrorCode.CONTEXT_OVERFLOW,
    errors.BodyTooLarge: ErrorCode.VALIDATION_TYPE_ERROR,
    errors.RequestTooSlow: ErrorCode.VALIDATION_TYPE_ERROR,
    errors.UnsupportedEncoding: ErrorCode.VALIDATION_TYPE_ERROR,
    errors.UnsupportedFeature: ErrorCode.PARAM_OUT_OF_RANGE,
    errors.NotAuthenticated: ErrorCode.INCORRECT_AUTH_KEY,
    errors.NotPermitted: ErrorCode.NO_PERMISSION,
    errors.UnknownModel: ErrorCode.INVALID_MODEL,
    errors.UnknownJob: ErrorCode.VALIDATION_TYPE_ERROR,
    errors.UnknownObject: ErrorCode.VALIDATION_TYPE_ERROR,
    errors.QueueFull: ErrorCode.ENGINE_OVERLOADED,
    errors.Overloaded: ErrorCode.ENGINE_OVERLOADED,
    errors.RateLimited: ErrorCode.RATE_LIMIT,
    errors.QuotaExceeded: ErrorCode.QUOTA_EXCEEDED,
    errors.NoWorker: ErrorCode.CONTROLLER_NO_WORKER,
    errors.ModelLoadFailed: ErrorCode.CONTROLLER_NO_WORKER,
    errors.StoreUnavailable: ErrorCode.CONTROLLER_NO_WORKER,
    errors.Draining: ErrorCode.ENGINE_OVERLOADED,
    errors.DeadlineExceeded: ErrorCode.CONTROLLER_WORKER_TIMEOUT,
    errors.PenstockError: ErrorCode.INTERNAL_ERROR,
}

SERVER_ERROR_MESSAGE: Final = (
    "**NETWORK ERROR DUE TO HIGH TRAFFIC. PLEASE REGENERATE OR REFRESH THIS PAGE.**"
)
"""What FastChat's clients are used to see before the detail in brackets."""


def code_of(error: errors.PenstockError) -> ErrorCode:
    """Return the code of the error's class or of its nearest parent in the table."""
    return next(TABLE[kind] for kind in type(error).__mro__ if kind in TABLE)


def error_object(
    error: errors.PenstockError | Refusal, code: ErrorCode | None = None
) -> dict[str, Any]:
    """Return the object that ends a stream, or is the whole answer."""
    if isinstance(error, Refusal):
        error, code = error.error, error.code
    return {
        "text": f"{SERVER_ERROR_MESSAGE}\n\n({error.message})",
        "error_code": int(code_of(error) if code is None else code),
    }
