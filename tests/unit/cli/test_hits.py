"""Where prompt tokens were found: in memory, on the disk, on other hosts."""

from __future__ import annotations

import pytest

from penstock.cli.status import _hits
from penstock.contract.worker import StoreLoad, WorkerLoad, hit_ratios, sum_of_stores


def load(cached: int, computed: int, loaded: int = 0, remote: int = 0) -> WorkerLoad:
    store = StoreLoad(loaded_tokens_total=loaded, remote_tokens_total=remote) if loaded else None
    return WorkerLoad(cached_tokens_total=cached, prefilled_tokens_total=computed, store=store)


@pytest.mark.parametrize(
    ("of", "words"),
    [
        (load(0, 0), ""),
        (load(30, 70), "30%"),
        (load(60, 40, loaded=30), "60% (disk 30%)"),
        (load(60, 40, loaded=30, remote=10), "60% (disk 20%, hosts 10%)"),
        (load(60, 40, loaded=10, remote=10), "60% (hosts 10%)"),
    ],
)
def test_what_the_status_shows(of: WorkerLoad, words: str) -> None:
    assert _hits(of) == words


def test_the_shares_of_a_queue_are_those_of_all_its_workers_together() -> None:
    loads = [load(10, 90), load(60, 40, loaded=30, remote=10), load(0, 0, loaded=1)]
    both = WorkerLoad(
        cached_tokens_total=70, prefilled_tokens_total=130, store=sum_of_stores(loads)
    )
    ratios = hit_ratios(both)
    assert ratios is not None
    assert ratios == pytest.approx((0.35, 0.105, 0.05))
    assert sum_of_stores([load(1, 1)]) is None
