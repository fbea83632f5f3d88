"""Starts our worker inside Celery's: after the pool is made, before anything is consumed."""

from __future__ import annotations

import atexit
import logging
import os
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
from celery import bootsteps, signals
from celery.platforms import EX_FAILURE, SecurityWarning
from celery.utils.log import get_logger

from penstock import settings
from penstock.errors import PenstockError, StartupError
from penstock.observability.logs import adopt
from workers.delivery.application import NO_QUEUE, broker_settings
from workers.delivery.consumer import calm_acks
from workers.delivery.pool import EnginePool

if TYPE_CHECKING:
    from workers.serving.worker import Worker

logger = get_logger(__name__)

SEVERAL_QUEUES_POLL_S = 0.1
"""How long Celery waits for one set of queues before it checks whether the set has changed."""

_CHATTY = ("celery.worker.strategy", "celery.worker.consumer.connection", "kombu.pidbox")


class Serving(bootsteps.StartStopStep):
    """Loads the models of `-Q`, sizes the worker by their slots, starts and drains it.

    Of a drain it has what depends on Celery: the signals that begin it, a second one that hurries
    it (`EnginePool.in_a_hurry`), the exit code. What it does to jobs is `Worker.drain`.

    Loading takes place while the worker is built: Celery has no handlers of its own for signals
    by then, so that Ctrl-C ends a long load at once, and it needs the slots for its prefetch count.
    """

    requires = ("celery.worker.components:Pool",)

    def __init__(self, parent: Any, **options: Any) -> None:
        super().__init__(parent, **options)
        self._worker: Worker | None = None
        self._is_signalled = False
        self._exit_code: int | None = None

    def create(self, parent: Any) -> None:
        """Load every model; any failure is one line on stderr and exit code 1."""
        try:
            self._worker = _open(parent)
        except PenstockError as error:
            sys.exit(f"penstock: {error}")
        # Before Celery's own, which restarts the program after SIGHUP and has to run first.
        atexit.register(self._leave)
        # Claim nothing from the signal on, not only once the loop notices it.
        signals.worker_shutting_down.connect(self._on_signal)
        parent.concurrency = parent.min_concurrency = self._worker.slots
        parent.pool.attach(self._worker, parent)

    def start(self, parent: Any) -> None:
        """Start the threads; Celery begins to consume right after."""
        if self._worker is not None:
            self._worker.start(parent.pool)
            logger.info(
                "Worker %s serves %s", self._worker.worker_id, ", ".join(self._worker.served_queues)
            )

    def stop(self, parent: Any) -> None:
        """Drain; the process's exit code is 0 unless an engine broke, or Celery did."""
        if self._worker is None:
            return
        pool: EnginePool = parent.pool
        self._worker.drain(in_a_hurry=pool.in_a_hurry, pump=pool.pump)
        # Celery's own code of SIGINT is 1, though all is handed over as after SIGTERM.
        of_celery = 0 if self._is_signalled else parent.exitcode or 0
        self._exit_code = self._worker.exit_code or of_celery
        parent.exitcode = self._exit_code

    def terminate(self, parent: Any) -> None:
        """Hand everything back at once."""
        if self._worker is not None:
            self._worker.hand_back()
            parent.pool.pump()
            self._exit_code = self._worker.exit_code or EX_FAILURE

    def _leave(self) -> None:
        """End the process without tearing down the interpreter, once all is handed over.

        With torch in it that takes seconds, and native code which still runs in a hung engine's
        thread would abort it.
        """
        if self._exit_code is not None:
            logging.shutdown()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._exit_code)

    def _on_signal(self, **_: Any) -> None:
        self._is_signalled = True
        if self._worker is not None:
            self._worker.begin_drain()


def _open(worker: Any) -> Worker:
    if not isinstance(worker.pool, EnginePool):
        raise StartupError("-P: this worker serves with its own pool; leave the option out")
    if worker.autoscale:
        raise StartupError("--autoscale: a worker's slots are fixed; give them with -c")
    queues = sorted(worker.app.amqp.queues.consume_from)
    if queues == [NO_QUEUE]:
        raise StartupError("name the queues to serve: celery -A workers worker -Q <model>-<device>")
    # Imported here: this loads the model libraries, which `celery inspect` does not need.
    from workers.serving.startup import open_worker  # noqa: PLC0415 - see above

    ours = settings.load().for_queues(queues)
    return open_worker(queues, getattr(worker, "asked_slots", None), ours)


@signals.celeryd_init.connect
def _note_options(instance: Any, options: Any, **_: Any) -> None:
    """Remember `-c` before Celery puts the number of cores in its place."""
    instance.quiet = True  # no banner of Celery's; the lines about the models have more
    # It warns root of messages that carry code; ours are JSON and can carry none.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    slots = options.get("concurrency")
    instance.asked_slots = slots if isinstance(slots, int) else None


@signals.after_setup_logger.connect
@signals.after_setup_task_logger.connect
def _write_json(logger: logging.Logger, **_: Any) -> None:
    """Format Celery's log lines, and by its root logger all others, as the settings have it."""
    adopt(logger.handlers, settings.load())


@signals.worker_init.connect
def _tune(sender: Any, **_: Any) -> None:
    """Set what the plain command line leaves at Celery's own defaults."""
    calm_acks()
    # Workers do not talk to each other: no second of mingling at the start.
    sender.options["without_mingle"] = sender.options["without_gossip"] = True
    context = click.get_current_context(silent=True)
    source = context.get_parameter_source("loglevel") if context else None
    if source is click.core.ParameterSource.DEFAULT:
        sender.loglevel = logging.INFO
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)
    try:
        ours = settings.load().for_queues(sender.app.amqp.queues.consume_from)
    except StartupError as error:
        sys.exit(f"penstock: {error}")
    sender.app.conf.update(broker_settings(ours))  # its queues' Redis may be another one
    if len(sender.app.amqp.queues.consume_from) > 1:
        sender.app.conf.broker_transport_options["polling_interval"] = SEVERAL_QUEUES_POLL_S
