"""compose.yaml as a project of the tests' own."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import httpx

from tests.fixtures.jobs import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.engine import Docker

PROJECT = "penstock-test"
FILES = "compose.yaml:tests/images/slots.yaml"
READY_S = 900.0
"""Of all services, on a machine that does much else."""
CARDS_S = 120.0
"""Until the fleet lists each worker, and no more the one that was killed."""


class Compose:
    """The services, on a port of their own."""

    def __init__(self, docker: Docker, port: int, models: Path) -> None:
        self.docker = docker
        self.url = f"http://127.0.0.1:{port}"
        self._environment = {
            "COMPOSE_FILE": FILES,
            "PENSTOCK_PORT": str(port),
            "MODELS": str(models),
        }

    def __call__(self, *arguments: str) -> str:
        """Run `docker compose` with these arguments."""
        return self.docker("compose", "--project-name", PROJECT, *arguments, env=self._environment)

    def up(self, **scale: int) -> None:
        """Start the services, some of them several times, and wait until all are in good health."""
        counts = [f"--scale={name.replace('_', '-')}={count}" for name, count in scale.items()]
        self("up", "--detach", "--no-build", *counts)
        try:
            wait_until(lambda: set(self.health().values()) == {"healthy"}, READY_S, poll_s=1)
        except AssertionError as error:
            raise AssertionError(f"{self.health()}\n{self('logs', '--tail', '30')}") from error
        workers = len(self.containers("worker-demo-cpu"))
        wait_until(lambda: len(self.fleet()["workers"]) == workers, CARDS_S, poll_s=0.5)

    def down(self) -> None:
        """Remove the containers and their volumes."""
        self("down", "--volumes", "--timeout", "5")

    def containers(self, service: str = "") -> list[str]:
        """Return the ids of a service's containers that run, or of all."""
        return self("ps", "--quiet", *filter(None, [service])).split()

    def health(self) -> dict[str, str]:
        """Return `healthy` or what else Docker found, by the container's name."""
        template = "{{.Name}} {{if .State.Health}}{{.State.Health.Status}}{{else}}none{{end}}"
        lines = [self.docker.inspect(container, template) for container in self.containers()]
        return dict(line.removeprefix("/").split() for line in lines)

    def run_in(self, container: str, *command: str) -> str:
        """Run a command in a container and return its output."""
        return self.docker("exec", container, *command)

    def fleet(self) -> dict[str, Any]:
        """Return `/admin/fleet`."""
        return json.loads(httpx.get(f"{self.url}/admin/fleet", timeout=30).text)
