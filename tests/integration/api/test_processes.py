"""The processes of tests: what is forked with its libraries behaves as what starts by itself."""

from __future__ import annotations

import gc
import os
import signal
from typing import TYPE_CHECKING

from tests.fixtures.processes import answers

if TYPE_CHECKING:
    from tests.fixtures.processes import Processes


def test_a_forked_process_is_one_of_its_own(processes: Processes, redis_url: str) -> None:
    env = {"PENSTOCK_DRAIN_NOTICE_S": "0"}
    stopped, killed = (processes.start_api(redis_url, env=env, wait=False) for _ in range(2))
    for api in (stopped, killed):
        api.wait_until(lambda api=api: answers(f"{api.url}/health"))
        assert api.exit_code() is None
        assert os.getsid(api.pid) == api.pid
    assert stopped.stop() == -signal.SIGTERM  # uvicorn ends by the signal that it was sent
    killed.kill()
    assert killed.exit_code() == -signal.SIGKILL
    gc.collect()  # warnings about what was left open are errors


def test_what_it_writes_and_how_it_fails_is_its_own(processes: Processes, redis_url: str) -> None:
    bad = processes.start_api(redis_url, env={"PENSTOCK_JOURNAL_TTL_S": "none"}, wait=False)
    assert bad.wait(60) != 0
    assert "PENSTOCK_JOURNAL_TTL_S" in bad.output()
