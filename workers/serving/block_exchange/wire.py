"""What two hosts of an exchange write to each other, and how each knows that the other has the token.

A request names blocks, 16 bytes each. It is signed, with its time, so that the token itself never
travels: a false address in Redis gets nothing that opens a host. A block travels as its file has
it, with a seal behind it that only who has the token can make.
"""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

NAME_BYTES: Final = 16
MOST_NAMES: Final = 4096
"""Blocks that one request may name: 65,536 tokens."""
SEAL_BYTES: Final = 16
SKEW_S: Final = 60.0
"""How far the clocks of two hosts may be apart: a request is as old as that at most."""
SCHEME: Final = "Penstock"
HAS: Final = "has"
READ: Final = "read"


class Token:
    """What the hosts of an exchange share. Any thread may use it."""

    def __init__(self, secret: str) -> None:
        self._request_key, self._block_key = (
            hmac.digest(secret.encode(), use, "sha256") for use in (b"request", b"block")
        )

    def sign(self, path: str, body: bytes, now_s: float) -> str:
        """Return the header `Authorization` of a request."""
        time_s = str(int(now_s))
        return f"{SCHEME} {time_s}:{self._signature(time_s, path, body)}"

    def has_signed(self, header: str, path: str, body: bytes, now_s: float) -> bool:
        """Return whether a request comes from who has the token, and lately; in constant time."""
        time_s, _, signature = header.removeprefix(f"{SCHEME} ").partition(":")
        if not (time_s.isascii() and time_s.isdigit() and len(time_s) < 16):  # noqa: PLR2004 - any time fits
            return False
        expected = self._signature(time_s, path, body)
        is_ours = hmac.compare_digest(expected.encode(), signature.encode("utf-8", "replace"))
        return is_ours and abs(now_s - int(time_s)) <= SKEW_S

    def seal(self, frame: bytes | bytearray) -> bytes:
        """Return the seal of a block with its header; by SHA-256, which CPUs have instructions for."""
        return hmac.digest(self._block_key, frame, "sha256")[:SEAL_BYTES]

    def has_sealed(self, frame: bytes | bytearray, seal: bytes | bytearray) -> bool:
        """Return whether a block comes from who has the token."""
        return hmac.compare_digest(self.seal(frame), seal)

    def _signature(self, time_s: str, path: str, body: bytes) -> str:
        signed = f"{time_s}\n{path}\n".encode() + body
        return hmac.digest(self._request_key, signed, "sha256").hex()


def path_of(identity: bytes, call: str) -> str:
    """Return the path of a call about the blocks of one model."""
    return f"/blocks/{identity.hex()}/{call}"


def body_of(names: Sequence[bytes]) -> bytes:
    """Return the body that names blocks."""
    return b"".join(names)


def names_of(body: bytes) -> list[bytes] | None:
    """Return the blocks that a body names; None if it is no such body."""
    if not body or len(body) % NAME_BYTES or len(body) > MOST_NAMES * NAME_BYTES:
        return None
    return [body[start : start + NAME_BYTES] for start in range(0, len(body), NAME_BYTES)]
