"""A real API process in front of a scripted worker, for input that no client should send."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock.contract.tokenizer_calls import Detokenize, Tokenize, TokenizerReply
from penstock.contract.worker import IMAGES
from penstock.transport.replies import tokenizer_calls
from penstock.transport.store.connection import connect
from tests.fixtures.api import QUEUE, ScriptedWorker, model_card, speak
from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.settings import Settings
    from tests.fixtures.processes import Processes, Running

BODY_LIMIT = 256 * 1024
CAPABILITIES = ("generate", IMAGES)


class Target:
    """The API under fire."""

    def __init__(self, api: Running, worker: ScriptedWorker) -> None:
        self.api = api
        self.worker = worker
        self.port = int(api.url.rpartition(":")[2])

    def resident_bytes(self) -> int:
        """Return the memory that the API holds."""
        status = Path(f"/proc/{self.api.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
        return int(line.split()[1]) * 1024

    def check_alive(self) -> None:
        """Fail unless it still answers as it should."""
        body = {"model": "tiny", "prompt": "hello", "max_tokens": 1}
        answer = httpx.post(f"{self.api.url}/v1/completions", json=body, timeout=20.0)
        assert answer.status_code == 200, answer.text
        assert self.worker.broken is None
        assert "Traceback" not in self.api.output()


def answer_calls(settings: Settings, stop: threading.Event) -> None:
    """Answer every tokenizer call somehow."""
    with connect(settings) as client:
        while not stop.is_set():
            call = tokenizer_calls.take(client, [QUEUE], 0.2)
            if call is None:
                continue
            match call.call:
                case Tokenize():
                    reply = TokenizerReply(call.id, token_ids=(1, 2, 3))
                case Detokenize():
                    reply = TokenizerReply(call.id, text="x", texts=("x",))
                case _:
                    reply = TokenizerReply(call.id, text="x")
            tokenizer_calls.answer(client, call.reply, reply)


@pytest.fixture
def target(
    processes: Processes, redis_settings: Settings, redis_url: str, tmp_path: Path
) -> Iterator[Target]:
    worker = ScriptedWorker(redis_settings, model_card(capabilities=CAPABILITIES), speak)
    worker.start()
    stop = threading.Event()
    clerk = threading.Thread(target=answer_calls, args=(redis_settings, stop), daemon=True)
    clerk.start()
    env = {
        "PENSTOCK_MAX_BODY_BYTES": str(BODY_LIMIT),
        "PENSTOCK_FILES_DIR": str(tmp_path / "files"),
        "PENSTOCK_DEADLINE_S": "20",
    }
    try:
        api = processes.start_api(redis_url, env=env)
        wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 200, 20.0)
        yield Target(api, worker)
    finally:
        stop.set()
        clerk.join(5.0)
        worker.stop()
