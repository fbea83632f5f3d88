"""An API process that is told to stop: streams finish, or go on at another process."""

from __future__ import annotations

import signal
from contextlib import ExitStack
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.fixtures.api import Fleet, ScriptedWorker, model_card
from tests.fixtures.processes import wait_until
from tests.integration.api.test_resumption import ASK, KEY, WHOLE, count_up, frames

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.settings import Settings
    from tests.fixtures.processes import Processes, Running

pytestmark = pytest.mark.busy(
    reason="leases and patience of a second or less, beside three other tests"
)


@pytest.fixture
def worker(redis_settings: Settings) -> Iterator[ScriptedWorker]:
    # Nobody dies here: a lease that a busy machine outsleeps would make its jobs another's, or poison.
    settings = redis_settings.model_copy(update={"lease_ms": 10_000})
    worker = ScriptedWorker(settings, model_card(), count_up)
    worker.step_s = 0.08  # six seconds for an answer
    worker.start()
    yield worker
    worker.stop()


def is_ready(api: Running) -> bool:
    return httpx.get(f"{api.url}/ready").status_code == 200


def refuses(api: Running) -> bool:
    try:
        httpx.get(f"{api.url}/health")
    except httpx.ConnectError:
        return True
    return False


def test_streams_finish_and_balancers_hear_of_it_first(
    processes: Processes, redis_url: str, worker: ScriptedWorker
) -> None:
    api = processes.start_api(redis_url, env={"PENSTOCK_DRAIN_NOTICE_S": "4"})
    wait_until(lambda: is_ready(api))
    with (
        httpx.Client(base_url=api.url, timeout=30.0) as kept_alive,
        httpx.stream("POST", f"{api.url}/v1/completions", json=ASK) as answer,
    ):
        seen = frames(answer)
        text = next(seen)[1]
        assert "connection" not in kept_alive.get("/health").headers
        api.send(signal.SIGTERM)
        wait_until(lambda: not is_ready(api), 3.0)
        late = kept_alive.post("/v1/completions", json={**ASK, "stream": False, "max_tokens": 1})
        assert late.status_code == 200, "within the notice it is served"
        assert late.headers["connection"] == "close"
        wait_until(lambda: refuses(api))
        assert text != WHOLE
        text += "".join(piece for _, piece in seen)
    assert text == WHOLE
    assert api.wait() in {0, -signal.SIGTERM}
    assert "Traceback" not in api.output()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_a_stream_that_is_cut_goes_on_at_another_process(
    processes: Processes, redis_url: str, worker: ScriptedWorker, number: signal.Signals
) -> None:
    first = processes.start_api(redis_url, options=("--timeout-graceful-shutdown", "1"))
    second = processes.start_api(redis_url)
    wait_until(lambda: is_ready(first) and is_ready(second))
    text, last = "", -1
    with httpx.stream("POST", f"{first.url}/v1/completions", json=ASK, headers=KEY) as answer:
        try:
            for event_id, piece in frames(answer):
                if last < 0:
                    first.send(number)
                text, last = text + piece, event_id
        except httpx.TransportError:
            pass
        else:
            pytest.fail("it was not cut")
    assert 0 <= last < 40
    first.wait()
    headers = {**KEY, "Last-Event-ID": str(last)}
    with httpx.stream("POST", f"{second.url}/v1/completions", json=ASK, headers=headers) as answer:
        text += "".join(piece for _, piece in frames(answer))
    assert text == WHOLE
    assert len(worker.jobs) == 1, "taken up, not asked again"
    assert worker.dropped == {}


def test_what_comes_in_between_is_sent_on(redis_settings: Settings) -> None:
    with ExitStack() as stack:
        server = Fleet(redis_settings, stack).api()
        server.app.state.drain.draining = server.app.state.drain.closed = True
        answer = httpx.post(f"{server.url}/v1/completions", json=ASK)
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "draining"
        assert answer.headers["retry-after"] == "1"
        assert answer.headers["connection"] == "close"
        assert httpx.get(f"{server.url}/health").status_code == 200
        assert httpx.get(f"{server.url}/ready").status_code == 503
