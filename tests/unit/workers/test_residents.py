"""The thread that loads and unloads, without engines: its order, its failures, its closing."""

from __future__ import annotations

import gc
import threading
import time
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import redis

from penstock.errors import ModelNotLoadable
from penstock.settings import Settings
from penstock.transport.jobs.demand import Demand
from penstock.transport.jobs.records import Claims
from tests.unit.workers.fakes import FakeEngine, FakeHooks, Slips, claimed_job, make_served
from workers.serving.claimed_jobs import Outcome, Ticket
from workers.serving.on_demand.absent_engine import AbsentEngine
from workers.serving.on_demand.model import OnDemand
from workers.serving.on_demand.residents import Residents

if TYPE_CHECKING:
    from workers.serving.served_queue import ServedQueue


class Orders:
    """What waits, as the test has it."""

    def __init__(self) -> None:
        self.demands: dict[str, Demand] = {}
        self.tries = 1
        self.ended: list[tuple[str, bool]] = []

    def ask(self, queue: str, **fields: Any) -> None:
        stated = {"waiting": 1, "oldest_s": 1.0, "priority": 5, "claiming": 0, "loaders": 0}
        self.demands[queue] = Demand(**{**stated, "is_loading": False, **fields})

    def waiting(self, queues: list[str]) -> dict[str, int]:
        return {
            queue: self.demands[queue].waiting if queue in self.demands else 0 for queue in queues
        }

    def demand(self, queue: str) -> Demand:
        return self.demands[queue]

    def begin(self, queue: str) -> int:
        return self.tries

    def end(self, queue: str, *, tried: bool = True) -> None:
        self.ended.append((queue, tried))


class Jobs:
    """Jobs that nobody else has."""

    def __init__(self) -> None:
        self.released: list[str] = []
        self.forgotten: list[str] = []

    def claim_many(self, *_: Any, **__: Any) -> Claims:
        return Claims((), 0)

    def release(self, queue: str, job_id: str, epoch: int) -> bool:
        self.released.append(job_id)
        return True

    def forget_all_heads(self, queue: str) -> None:
        self.forgotten.append(queue)


class Flushed:
    def flush(self, timeout_s: float) -> bool:
        return True


class Hooks(FakeHooks):
    """Puts tickets back, as the preparer does with those of a closed queue."""

    def take(self, ticket: Ticket) -> None:
        super().take(ticket)
        ticket.done(Outcome.PUT_BACK)

    def end(self, claimed: Any) -> None:
        self.claimed.pop(claimed.attempt_id)
        super().end(claimed)


class House:
    def __init__(self, *queues: str, most: int = 1, **settings: Any) -> None:
        self.orders, self.jobs, self.hooks = Orders(), Jobs(), Hooks()
        self.served = {queue: self._served(queue) for queue in queues}
        self.error: Exception | None = None
        orders: Any = self.orders
        jobs: Any = self.jobs
        publisher: Any = Flushed()
        self.residents = Residents(
            served_queues=self.served,
            claimed=self.hooks.claimed,
            jobs=jobs,
            orders=orders,
            publisher=publisher,
            settings=Settings(resident_models=most, **settings),
            hooks=self.hooks,
        )

    def _served(self, queue: str) -> ServedQueue:
        served = make_served(queue)
        served.engine, served.open = AbsentEngine(), False
        served.on_demand = OnDemand(self.load, needed_bytes=1, free_bytes=lambda: 2)
        return served

    def load(self, served: ServedQueue) -> None:
        if self.error is not None:
            raise self.error
        engine: Any = FakeEngine()
        served.engine = engine

    def status(self, queue: str) -> str:
        model = self.served[queue].on_demand
        assert model is not None
        assert self.served[queue].open is (model.status == "loaded")
        return model.status


def test_an_idle_model_makes_room_and_its_memory_is_free():
    house = House("a-cpu", "b-cpu")
    house.orders.ask("a-cpu")
    assert house.residents.turn()
    assert house.status("a-cpu") == "loaded"
    assert house.hooks.opens[-1] == ("a-cpu", True)
    engine = weakref.ref(house.served["a-cpu"].engine)
    house.orders.demands.clear()
    house.orders.ask("b-cpu")
    gc.freeze()  # as the worker does at its start
    while house.residents.turn():
        pass
    assert (house.status("a-cpu"), house.status("b-cpu")) == ("on_demand", "loaded")
    assert engine() is None
    assert house.jobs.forgotten == ["a-cpu"]


def test_jobs_that_do_not_end_in_time_are_handed_back_and_wait_behind_the_others():
    house = House("a-cpu", "b-cpu", drain_s=0.05)
    house.orders.ask("a-cpu")
    house.residents.turn()
    model = house.served["a-cpu"].on_demand
    assert model is not None
    model.loaded_s -= 60.0  # its turn is over
    slips = Slips()
    house.hooks.claimed.add(claimed_job("old", "a-cpu", 1, slips, served=house.served["a-cpu"]))
    house.orders.ask("a-cpu", oldest_s=900.0)  # older than all, and claimed already
    house.orders.ask("b-cpu", oldest_s=0.5)
    assert house.residents.turn()
    assert house.jobs.released == ["old"]
    assert house.status("a-cpu") == "on_demand"
    assert house.residents.turn()
    assert house.status("b-cpu") == "loaded"


@pytest.mark.parametrize("error", [ModelNotLoadable("its weights"), ValueError("its weights")])
def test_a_load_that_fails_is_tried_again_later(error: Exception):
    house = House("a-cpu", "b-cpu")
    house.error = error
    house.orders.ask("a-cpu")
    assert house.residents.turn()
    assert house.status("a-cpu") == "failed"
    assert house.orders.ended == [("a-cpu", True)]
    house.error = None
    assert not house.residents.turn()  # not at once
    model = house.served["a-cpu"].on_demand
    assert model is not None
    assert model.error == "its weights"
    assert model.retry_s - time.monotonic() > 20.0
    model.retry_s = 0.0
    assert house.residents.turn()
    assert house.status("a-cpu") == "loaded"
    assert model.error == ""


def test_a_load_that_has_ended_workers_is_not_tried():
    house = House("a-cpu", max_attempts=2)
    house.orders.ask("a-cpu")
    house.orders.tries = 3
    assert house.residents.turn()
    assert house.status("a-cpu") == "failed"
    assert house.orders.ended == [("a-cpu", False)]


def test_another_workers_load_is_left_to_it():
    house = House("a-cpu")
    house.orders.ask("a-cpu")
    house.orders.tries = 0
    assert not house.residents.turn()
    assert house.status("a-cpu") == "on_demand"


def test_a_queue_whose_keys_are_foreign_keeps_no_other_from_being_loaded():
    house = House("a-cpu", "b-cpu")
    house.orders.ask("a-cpu")
    house.orders.ask("b-cpu")
    demand = house.orders.demand

    def refused(queue: str) -> Demand:
        if queue == "a-cpu":
            raise redis.ResponseError("WRONGTYPE Operation against a key")
        return demand(queue)

    house.orders.demand = refused
    assert house.residents.turn()
    assert house.status("b-cpu") == "loaded"


def test_a_resting_worker_loads_nothing():
    house = House("a-cpu")
    house.orders.ask("a-cpu")
    house.hooks.resting = True
    assert not house.residents.turn()


def test_a_load_that_ends_after_the_worker_opens_nothing():
    house = House("a-cpu")
    house.orders.ask("a-cpu")
    begun, go_on = threading.Event(), threading.Event()
    model = house.served["a-cpu"].on_demand
    assert model is not None

    def load(served: ServedQueue) -> None:
        begun.set()
        assert go_on.wait(10.0)
        house.load(served)

    model.load = load
    house.residents.start()
    assert begun.wait(10.0)
    assert model.status == "loading"
    house.residents.close()
    go_on.set()
    house.residents.join(10.0)
    assert not house.served["a-cpu"].open
