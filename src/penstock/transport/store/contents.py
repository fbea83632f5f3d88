"""Reads what is in Redis, where any writer to it may have put something else."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from penstock.errors import StoreUnavailable
from penstock.transport.store.repeated_lines import lines

if TYPE_CHECKING:
    from collections.abc import Iterable

T = TypeVar("T")

_log = logging.getLogger(__name__)


def foreign(key: str, error: Exception) -> StoreUnavailable:
    """Return the error of a key that holds something else than ours; its name is in the log."""
    if lines.is_due(key):
        _log.error("%s holds something else than ours: %s", key, error)
    refusal = StoreUnavailable("Redis holds something else than ours")
    refusal.is_refused = True
    return refusal


def decode(decoder: msgspec.json.Decoder[T], payload: bytes, key: str) -> T:
    """Return what a key holds.

    :raises StoreUnavailable: it is something else.
    """
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise foreign(key, error) from error


def readable(
    decoder: msgspec.json.Decoder[T], payloads: Iterable[tuple[str, bytes | None]]
) -> list[T | None]:
    """Return what keys hold; None for one that is not there, or holds something else."""
    read: list[T | None] = []
    for key, payload in payloads:
        try:
            read.append(None if payload is None else decode(decoder, payload, key))
        except StoreUnavailable:
            read.append(None)
    return read


def text(payload: bytes, key: str) -> str:
    """Return a key's text.

    :raises StoreUnavailable: it is no UTF-8.
    """
    try:
        return payload.decode()
    except UnicodeDecodeError as error:
        raise foreign(key, error) from error


def whole_number(payload: Any, key: str) -> int:
    """Return a key's number; 0 if there is none.

    :raises StoreUnavailable: it is something else.
    """
    try:
        return int(payload or 0)
    except ValueError as error:
        raise foreign(key, error) from error
