"""Any reply of Redis replaced by an error, nil, another type or a cut, at any point of any request."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from pydantic import RedisDsn

from penstock.settings import Settings
from penstock.transport.accounts.keyring import KeyDesk
from penstock.transport.replies import followers, tokenizer_calls
from penstock.transport.store.connection import connect
from penstock.transport.store.repeated_lines import lines
from tests.fixtures.api import WORDS, ApiServer, Fleet
from tests.fixtures.clerk import Clerk
from tests.fixtures.jobs import wait_until
from tests.fixtures.redis import RedisServer
from tests.fixtures.reply_proxy import KINDS, ReplyProxy
from tests.integration.api.test_store_faults import ASK, CHAT, REQUESTS, as_vector

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "3")) // 3
"""Cases of each request: one by default, all with `EXAMPLES=1000`."""
POSITIONS = 14
"""Replies that pass before the one that is replaced; no request has as many of its own."""
BOUND_S = 8.0
TEXT = "".join(WORDS)

STREAMS: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/chat/completions", {**CHAT, "stream": True}),
    ("POST", "/v1/chat/completions", {**CHAT, "n": 2}),
    ("POST", "/api/chat", {**CHAT, "options": {"num_predict": 4}}),
    ("POST", "/api/chat", {**CHAT, "options": {"num_predict": 4}, "stream": False}),
    ("POST", "/api/generate", {"model": "tiny", "prompt": "Once", "options": {"num_predict": 4}}),
    ("POST", "/api/embed", {"model": "vectors", "input": "Once"}),
    ("GET", "/api/tags", None),
    ("GET", "/api/ps", None),
    ("POST", "/api/show", {"model": "tiny"}),
]


class Subject:
    """An API behind the proxy; its workers and the test itself reach Redis directly."""

    def __init__(self, server: ApiServer, proxy: ReplyProxy, secret: str) -> None:
        self.server, self.proxy = server, proxy
        self.http = httpx.Client(
            base_url=server.url, timeout=BOUND_S, headers={"authorization": f"Bearer {secret}"}
        )

    def ask(self, case: tuple[str, int, Any], row: Any, headers: dict[str, str]) -> httpx.Response:
        """Send a request while a reply, or all from one on, are something else."""
        method, path, body = row
        self.server.services.keyring._cached.clear()  # else most need not ask for the key
        end_s = time.monotonic() + BOUND_S
        with (
            self.proxy.faulty(*case),
            self.http.stream(method, path, json=body, headers=headers) as answer,
        ):
            content = b""
            for piece in answer.iter_raw():  # keep-alives come as long as it hangs
                content += piece
                assert time.monotonic() < end_s, (case, content)
        return httpx.Response(answer.status_code, headers=answer.headers, content=content)


@pytest.fixture(scope="module")
def subject(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Subject]:
    own = RedisServer(tmp_path_factory.mktemp("store"))
    own.start()
    settings = Settings(redis_url=RedisDsn(own.url), files_dir=tmp_path_factory.mktemp("files"))
    with ExitStack() as stack:
        stack.callback(own.kill)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(followers, "SILENT_S", 0.1)  # thousands of requests wait for these
        patch.setattr(tokenizer_calls, "CALL_AGAIN_S", 0.2)
        proxy = ReplyProxy(own.port)
        proxy.start()
        stack.callback(proxy.stop)
        client = stack.enter_context(connect(settings))
        _, secret = KeyDesk(client, 5.0).make(
            "ann", admin=True, requests_per_min=10**6, tokens_per_min=10**9, tokens_per_day=10**9
        )
        fleet = Fleet(settings, stack)
        server = fleet.api(
            redis_url=RedisDsn(f"redis://127.0.0.1:{proxy.port}/0"),
            redis_patience_s=0.05,
            keepalive_s=0.2,
        )
        stack.callback(Clerk(settings).stop)
        fleet.worker()
        fleet.worker(
            as_vector, name="vectors", queue="vectors-cpu", aliases=(),
            capabilities=("embed", "score"), kv_cache_tokens=0,
        )  # fmt: skip
        server.services.registry._view_life_s = 60.0  # else it would refuse all from the start
        subject = Subject(server, proxy, secret)
        stack.callback(subject.http.close)
        yield subject


def cases() -> list[tuple[str, int, Any]]:
    return list(itertools.product(KINDS, range(POSITIONS), ("once", "lasting")))


def chosen(row: Any) -> list[tuple[str, int, Any]]:
    """Return some cases of a request by a seed of its own, so that each request has others."""
    return random.Random(json.dumps(row)).sample(cases(), min(EXAMPLES, len(cases())))


@pytest.mark.timeout(120 + EXAMPLES * 3)
@pytest.mark.parametrize(
    "row", [*REQUESTS, *STREAMS], ids=lambda row: f"{row[0]} {row[1]} {sorted(row[2] or {})}"
)
def test_no_reply_of_redis_is_a_500(
    subject: Subject, row: Any, caplog: pytest.LogCaptureFixture
) -> None:
    for number, case in enumerate(chosen(row)):
        headers = {"idempotency-key": f"{row[1]}-{case}"} if number % 2 else {}
        began_s = time.monotonic()
        answer = subject.ask(case, row, headers)
        assert time.monotonic() - began_s < BOUND_S, case
        assert answer.status_code < 500 or answer.status_code == 503, (case, answer.text)
        assert "internal error" not in answer.text.lower(), (case, answer.text)
        check_text(row, answer, case)
        check_log(caplog, case)


def check_text(row: Any, answer: httpx.Response, case: Any) -> None:
    """Fail where an answer that ended well has another text than the worker's."""
    if row[2] not in (ASK, {**ASK, "stream": True}, CHAT, {**CHAT, "stream": True}):
        return
    if answer.status_code != 200 or row[1] not in {"/v1/completions", "/v1/chat/completions"}:
        return
    if not row[2].get("stream"):
        (choice,) = answer.json()["choices"]
        assert (choice.get("text") or choice["message"]["content"]) == TEXT, case
        return
    frames = [json.loads(line[6:]) for line in answer.text.splitlines() if line[:7] == "data: {"]
    choices = [one for frame in frames for one in frame.get("choices", ())]
    text = "".join(one.get("text") or one.get("delta", {}).get("content") or "" for one in choices)
    assert TEXT.startswith(text), case
    assert text == TEXT or "error" in frames[-1], (case, answer.text)


def check_log(caplog: pytest.LogCaptureFixture, case: Any) -> None:
    """Fail where somebody has met an error that nobody expected."""
    wrong = [one for one in caplog.records if one.exc_info and one.levelno >= logging.ERROR]
    assert not wrong, (case, wrong[0].getMessage(), caplog.text[-3000:])
    caplog.clear()


def test_a_batch_gets_through_replies_of_every_kind(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    asked_for = [
        {"custom_id": f"line-{n}", "method": "POST", "url": "/v1/completions", "body": ASK}
        for n in range(4)
    ]
    form = {"file": ("a.jsonl", "\n".join(map(json.dumps, asked_for)).encode())}
    file = subject.http.post("/v1/files", files=form, data={"purpose": "batch"}).json()
    asked = {"input_file_id": file["id"], "endpoint": "/v1/completions", "completion_window": "24h"}
    batch_id = subject.http.post("/v1/batches", json=asked).json()["id"]
    order = itertools.cycle(random.Random(5).sample(cases(), len(KINDS) * POSITIONS))
    faults = iter(range(min(EXAMPLES * 60, 400)))

    def has_ended() -> bool:
        kind, after, _ = next(order)
        if next(faults, None) is not None:
            with subject.proxy.faulty(kind, after):
                time.sleep(0.01)
        batch = subject.http.get(f"/v1/batches/{batch_id}").json()
        return batch["status"] == "completed"

    wait_until(has_ended, 60.0, poll_s=0.01)
    output = subject.http.get(f"/v1/batches/{batch_id}").json()["output_file_id"]
    rows = subject.http.get(f"/v1/files/{output}/content").text.splitlines()
    texts = [json.loads(row)["response"]["body"]["choices"][0]["text"] for row in rows]
    assert texts == [TEXT] * len(asked_for)
    check_log(caplog, "a batch")


def test_a_reply_of_another_shape_is_named_in_the_log(
    subject: Subject, caplog: pytest.LogCaptureFixture
) -> None:
    lines._at_s.clear()  # the same line is written every ten seconds
    job = "0" * 32
    answer = subject.ask(("array", 0, "lasting"), ("GET", f"/v1/jobs/{job}", None), {})
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == "store_unavailable"
    assert "HGET penstock:keys was answered with something else (list)" in caplog.text


def test_the_fleet_is_whole_afterwards(subject: Subject) -> None:
    def answers() -> bool:
        answer = subject.http.post("/v1/completions", json=ASK)
        return answer.status_code == 200 and answer.json()["choices"][0]["text"] == TEXT

    wait_until(answers, 10.0, poll_s=0.1)
    assert subject.proxy.replaced > EXAMPLES
