"""The real worker around a sleeping model: `celery -A benchmarks.sleeping_worker worker -Q sleeper20-cpu`.

Everything but the model is the product's: Celery application, pool, station, threads, engine.
"""

from __future__ import annotations

from typing import Any

from celery import signals

from benchmarks.sleeping import WordTokenizer, card_of, make_engine
from penstock import settings
from penstock.transport.store.connection import connect
from workers.delivery.application import app, steps
from workers.delivery.bootsteps import Serving
from workers.serving.identity import new_worker_id
from workers.serving.served_queue import ServedQueue, Sink
from workers.serving.worker import Worker

__all__ = ["app"]

_SLOTS = 64


class SleepingServing(Serving):
    """Opens a station with a sleeping model in place of one that is loaded."""

    requires = Serving.requires

    def create(self, parent: Any) -> None:
        """Do as `Serving.create`, without loading."""
        (queue,) = parent.app.amqp.queues.consume_from
        chosen = settings.load()
        slots = chosen.slots or _SLOTS

        def open_queues(publish: Any) -> list[ServedQueue]:
            sink = Sink(publish)
            words: Any = WordTokenizer()  # what these jobs call of a tokenizer
            engine = make_engine(queue, slots, sink)
            return [ServedQueue(card_of(queue, slots), words, engine, sink)]

        self._worker = Worker(
            settings=chosen,
            store=connect(chosen),
            worker_id=new_worker_id(),
            open_queues=open_queues,
        )
        signals.worker_shutting_down.connect(self._on_signal)
        parent.concurrency = parent.min_concurrency = self._worker.slots
        parent.pool.attach(self._worker, parent)


steps["worker"].discard("workers.delivery.bootsteps:Serving")
steps["worker"].add("benchmarks.sleeping_worker:SleepingServing")
