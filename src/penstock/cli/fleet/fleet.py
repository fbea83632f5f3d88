"""The processes of one development fleet: which, in what order, at which addresses."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from penstock import settings as settings_module
from penstock.cli import running
from penstock.cli.console import note, write_line
from penstock.cli.fleet import ports, redis_server
from penstock.cli.fleet.child import Child
from penstock.cli.fleet.readiness import Awaited, Startup
from penstock.cli.fleet.supervisor import Supervisor
from penstock.errors import BadSettings, StartupError
from penstock.models.catalogue import resolve
from penstock.redis_addresses import redis_address

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.settings import Settings

DEFAULT_QUEUE = "bigdl-demo-cpu"
_API_PATIENCE_S = 120.0
_API_GRACE_S = 5
_WORKER_MARGIN_S = 10.0
_PENSTOCK = (sys.executable, "-P", "-m", "penstock.cli")  # -P: nothing comes from this folder
_ANY_ADDRESSES = ("0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


@dataclass(frozen=True)
class Plan:
    """What will run where; checked before anything is started.

    `redis_port` is None if PENSTOCK_REDIS_URL names a running Redis. `fastchat_port` is None if
    the controller's port is off.
    """

    settings: Settings
    queues: tuple[str, ...]
    models: tuple[str, ...]
    chat_model: str | None
    host: str
    port: int
    redis_port: int | None
    fastchat_port: int | None

    @classmethod
    def make(
        cls,
        *,
        queues: tuple[str, ...],
        host: str,
        port: int,
        redis_port: int | None,
        fastchat_port: int,
    ) -> Plan:
        """Check models and ports, and return the plan.

        :raises ModelNotFound: a queue names a model that does not exist.
        :raises StartupError: a port is taken.
        :raises BadSettings: both `--redis-port` and PENSTOCK_REDIS_URL are set.
        """
        settings = settings_module.load()
        queues = tuple(dict.fromkeys(queues))
        specs = [resolve.resolve(queue, settings) for queue in queues]
        models = tuple(spec.name for spec in specs)
        if not ports.is_free(host, port):
            raise StartupError(
                f"port {port} for the API is taken{ports.holder(port)}; choose another with --port"
            )
        own_redis = not {"redis_url", "redis_sentinels"} & settings.model_fields_set
        if redis_port is not None and not own_redis:
            raise BadSettings(
                "--redis-port starts a Redis, but PENSTOCK_REDIS_URL names one; "
                "unset it or omit the option"
            )
        return cls(
            settings=settings,
            queues=queues,
            models=models,
            chat_model=next((spec.name for spec in specs if spec.task == "generate"), None),
            host=host,
            port=port,
            redis_port=redis_server.choose_port(redis_port) if own_redis else None,
            fastchat_port=_usable_controller_port(host, fastchat_port),
        )

    @property
    def api_url(self) -> str:
        """The API's address for a client on this machine."""
        return _url(self.host, self.port)

    @property
    def controller_url(self) -> str | None:
        """The controller's address for FastChat's programs; None if it is off."""
        return _url(self.host, self.fastchat_port) if self.fastchat_port else None

    @property
    def redis_url(self) -> str:
        """The address of our own server, or of the one that was configured."""
        if self.redis_port is None:
            return str(self.settings.redis_url)
        return f"redis://{redis_server.HOST}:{self.redis_port}/0"


@dataclass
class Fleet:
    """Starts and stops the processes of a plan. Only one fleet runs in a folder."""

    plan: Plan
    supervisor: Supervisor = field(default_factory=lambda: Supervisor(write_line))

    @property
    def key(self) -> str:
        """An API key that the fleet accepts."""
        return running.api_key(None)

    @property
    def redis_export(self) -> str | None:
        """The shell line by which other processes find our Redis; None if they find it anyway."""
        return f"export PENSTOCK_REDIS_URL={self.plan.redis_url}" if self.plan.redis_port else None

    def start(self, patience_s: float) -> None:
        """Start everything and wait until every model is served.

        :raises StartupError: a process exited or was not ready in time.
        """
        plan, startup = self.plan, Startup.make(self.supervisor)
        reached = plan.settings.model_copy(update={"redis_url": redis_address(plan.redis_url)})
        if plan.redis_port not in {None, redis_server.DEFAULT_PORT}:
            note(f"Redis runs on port {plan.redis_port}; for other processes: {self.redis_export}")
        with startup.progress:
            if plan.redis_port is not None:
                child = redis_server.make_child(plan.redis_port, running.STATE_DIR, running.LOG_DIR)
                self.supervisor.start_tier(child)
            startup.await_redis(reached)
            shared = plan.settings.resident_models > 0  # one worker loads what is asked for
            served = [plan.queues] if shared else [(queue,) for queue in plan.queues]
            workers = [self._worker(queues) for queues in served]
            apis = self._apis()
            self.supervisor.start_tier(*workers)
            self.supervisor.start_tier(*(child for child, _ in apis))
            for child, url in apis:
                startup.await_api(child.name, url, _API_PATIENCE_S)
            awaited = [
                Awaited(workers[0 if shared else place], queue, model, plan.api_url, self.key)
                for place, (queue, model) in enumerate(zip(plan.queues, plan.models, strict=True))
            ]
            startup.await_models(awaited, reached, patience_s)
        running.announce(running.Addresses(os.getpid(), plan.redis_url, plan.api_url))

    def stop(self, hurry: Callable[[], bool]) -> None:
        """Stop the API, then the workers, then our Redis."""
        self.supervisor.stop_all(hurry=hurry)

    def _worker(self, queues: tuple[str, ...]) -> Child:
        own = queues[0] if len(queues) == 1 else "models"
        command = [*_PENSTOCK, "worker", "-Q", ",".join(queues), "-n", f"{own}@%h"]
        patience_s = self.plan.settings.drain_s + _WORKER_MARGIN_S
        name = f"worker-{own.replace('/', '--')}"  # also the name of its log file
        return Child(name, command, running.LOG_DIR, self._environment(), patience_s=patience_s)

    def _apis(self) -> list[tuple[Child, str]]:
        """Return one API process for each port; they share only Redis."""
        plan = self.plan
        listed = [("api", plan.port)]
        if plan.fastchat_port is not None:
            listed.append(("api-fastchat", plan.fastchat_port))
        children: list[tuple[Child, str]] = []
        for name, port in listed:
            command = [*_PENSTOCK, "api", "--host", plan.host, "--port", str(port)]
            command += ["--timeout-graceful-shutdown", str(_API_GRACE_S)]
            command += ["--no-access-log"]  # the API writes a fuller one itself
            child = Child(name, command, running.LOG_DIR, self._environment())
            children.append((child, _url(plan.host, port)))
        return children

    def _environment(self) -> dict[str, str]:
        return {"PENSTOCK_REDIS_URL": self.plan.redis_url, "PYTHONUNBUFFERED": "1"}


def _usable_controller_port(host: str, port: int) -> int | None:
    if port == 0:
        return None
    if ports.is_free(host, port):
        return port
    note(
        f"[yellow]port {port} for FastChat is taken{ports.holder(port)}; continuing without it "
        "(--fastchat-port chooses another)[/]"
    )
    return None


def _url(host: str, port: int) -> str:
    reached = "127.0.0.1" if host in _ANY_ADDRESSES else host
    return f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
