"""The Celery application. Importing it loads no model library and reads no setting.

The module is not called `app.py`: `celery -A workers` would take a module `workers.app` for the
application itself.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, cast

from celery import Celery

from penstock import settings
from penstock.errors import BadSettings
from penstock.transport.store import sentinel
from workers.delivery import broker

if TYPE_CHECKING:
    from collections import defaultdict

    from penstock.settings import Settings

NO_QUEUE = "penstock.no-queue"
"""What Celery would consume without `-Q`; no model has this name."""

_DAY_S = 24 * 60 * 60


def broker_settings(ours: Settings) -> dict[str, Any]:
    """Celery's settings of the Redis that has a worker's doorbells."""
    broker_url, sentinel_options = sentinel.broker(ours)
    return {
        "broker_url": broker_url,
        "broker_transport_options": {
            # Redelivery is not Celery's business here: leases find lost jobs within seconds.
            "visibility_timeout": _DAY_S,
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            "socket_keepalive": True,
            "health_check_interval": 10,
            **sentinel_options,
        },
    }


def configuration() -> dict[str, Any]:
    """Celery's settings, made of ours when Celery first asks for one.

    A bad value ends the process with one line: the command that reads it cannot go on.
    """
    try:
        ours = settings.load()
    except BadSettings as error:
        sys.exit(f"penstock: {error}")
    return {
        **broker_settings(ours),
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_pool": "workers.delivery.pool:EnginePool",
        "worker_consumer": "workers.delivery.consumer:PromptConsumer",
        # The pool keeps its own account of slots across reconnects.
        "worker_enable_prefetch_count_reduction": False,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "worker_enable_remote_control": True,
        "worker_redirect_stdouts": False,
        "worker_log_format": "%(asctime)s %(levelname)s %(message)s",
        "task_default_queue": NO_QUEUE,
        "task_acks_late": True,
        "task_ignore_result": True,
        "task_send_sent_event": False,
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "imports": ("workers.delivery.tasks", "workers.delivery.bootsteps"),
    }


broker.install()
app = Celery("workers")
app.add_defaults(configuration)
steps = cast("defaultdict[str, set[str]]", app.steps)
steps["worker"].add("workers.delivery.bootsteps:Serving")
