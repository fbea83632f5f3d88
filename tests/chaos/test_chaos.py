"""A short run of the chaos suite; `make chaos` makes long ones."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.run import Plan, run

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

FAULTS = (
    "kill_worker",
    "demote_redis",
    "flush_again_and_again",
    "foreign_messages",
    "kill_connections",
    "stall_one_way",
    "cut_file",
)


@pytest.mark.slow
@pytest.mark.timeout(400)  # it hangs, or the machine is very busy
async def test_no_answer_is_lost_under_faults(tmp_path: Path, models_dir: Path) -> None:
    plan = Plan(
        seed=7,
        seconds=0,
        jobs=40,
        faults=len(FAULTS),
        order=FAULTS,
        has_networks=False,
        clients=8,
        workers=2,
        asks=12,
        tokens=(20, 150),
        pause_s=(0.1, 0.5),  # what the clients leave of the processor, processes start with
    )
    verdict = await run(plan, tmp_path, models_dir)
    assert not verdict.faults_found, verdict.table()
    assert sum(verdict.faults.values()) >= len(FAULTS)
