"""Celery's connections to Redis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import redis
from kombu import Connection

from penstock.settings import Settings
from penstock.transport.store.connection import connect, connect_async
from workers.delivery import broker
from workers.delivery.broker import (
    SteadyChannel,
    SteadySentinelChannel,
    SteadySentinelTransport,
    SteadyTransport,
)


@pytest.mark.parametrize(
    ("url", "transport"),
    [
        ("redis://127.0.0.1:1/0", SteadyTransport),
        ("rediss://127.0.0.1:1/0", SteadyTransport),
        ("sentinel://127.0.0.1:1/0", SteadySentinelTransport),
    ],
)
def test_every_scheme_has_our_transport(url: str, transport: type) -> None:
    broker.install()
    assert Connection(url).get_transport_cls() is transport


@pytest.mark.parametrize("kind", [SteadyChannel, SteadySentinelChannel])
def test_a_channel_that_was_closed_has_lost_its_connection(kind: Any) -> None:
    channel = kind.__new__(kind)
    channel.connection = SimpleNamespace(client=None)
    with pytest.raises(redis.ConnectionError, match="closed"):
        channel._connparams()


@pytest.mark.parametrize("error", [redis.ConnectionError("gone"), redis.TimeoutError("slow")])
def test_a_bell_that_cannot_be_put_back_now_is_no_fault(
    error: redis.RedisError, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def reject(_tag: str, *, requeue: bool) -> None:
        assert requeue
        raise error

    channel: Any = SteadyChannel.__new__(SteadyChannel)
    monkeypatch.setattr(SteadyChannel, "qos", SimpleNamespace(reject=reject))
    with caplog.at_level("WARNING"):
        channel.basic_reject("tag", requeue=True)
    assert str(error) in caplog.text


async def test_no_connection_introduces_itself() -> None:
    broker.install()
    settings = Settings()
    connection: Any
    async with connect_async(settings) as client:
        connection = client.connection_pool.make_connection()
        assert connection.driver_info is None
    with connect(settings) as client:
        connection = client.connection_pool.make_connection()
        assert connection.driver_info is None
    transport = Connection("redis://127.0.0.1:1/0").transport
    channel: Any = SteadyChannel.__new__(SteadyChannel)
    channel.connection = transport
    channel.transport = transport
    assert channel._connparams()["driver_info"] is None
