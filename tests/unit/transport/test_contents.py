"""What Redis holds in our keys' place is an error of its reader alone, and named in the log."""

from __future__ import annotations

import msgspec
import pytest

from penstock.errors import StoreUnavailable
from penstock.transport.accounts.keyring import KeyCard
from penstock.transport.store import contents
from penstock.transport.store.repeated_lines import RepeatedLines, lines

DECODER = msgspec.json.Decoder(KeyCard)
CARD = msgspec.json.encode(KeyCard("id", "ann", "1234", 1))
FOREIGN = [b"", b"x", b"\xff\xfe", b"[]", b"[" * 100_000, b'{"id": 5}']


@pytest.fixture(autouse=True)
def _fresh_lines() -> None:
    lines._at_s.clear()


@pytest.mark.parametrize("payload", FOREIGN, ids=range(len(FOREIGN)))
def test_a_foreign_payload_is_503_and_named(
    payload: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StoreUnavailable) as caught:
        contents.decode(DECODER, payload, "penstock:keys")
    assert caught.value.is_refused
    assert "penstock:keys holds something else than ours" in caplog.text


def test_the_readable_ones_are_read() -> None:
    payloads = [("a", CARD), ("b", None), ("c", b"x"), ("d", CARD)]
    ann = DECODER.decode(CARD)
    assert contents.readable(DECODER, payloads) == [ann, None, None, ann]


def test_texts_and_numbers() -> None:
    assert contents.text("grün".encode(), "k") == "grün"
    assert contents.whole_number(b"12", "k") == 12
    assert contents.whole_number(None, "k") == 0
    with pytest.raises(StoreUnavailable):
        contents.text(b"\xff", "k")
    with pytest.raises(StoreUnavailable):
        contents.whole_number(b"many", "k")


def test_a_line_comes_once_in_a_while() -> None:
    few = RepeatedLines()
    assert few.is_due("a")
    assert not few.is_due("a")
    assert few.is_due("b")
