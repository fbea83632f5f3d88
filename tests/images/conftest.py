"""The engine, the base images, Penstock's two images and a fleet of them (`make test-images`)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fixtures.redis import find_free_port
from tests.images.bases import provide
from tests.images.compose import Compose
from tests.images.engine import ROOT, Docker, engine

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(os.environ.get("PENSTOCK_IMAGES_DIR", ROOT / "build/images"))
"""What the next run uses again: the engine's layers, the base."""
IMAGES = ("api", "worker")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = str(Path(__file__).parent)
    for item in items:
        if str(item.path).startswith(here) and "PENSTOCK_TEST_IMAGES" not in os.environ:
            item.add_marker(pytest.mark.skip(reason="make test-images runs these"))


@pytest.fixture(scope="session")
def docker() -> Iterator[Docker]:
    with engine(FOLDER / "engine") as client:
        provide(client, FOLDER)
        yield client


@pytest.fixture(scope="session")
def images(docker: Docker) -> dict[str, str]:
    """Return the ids of both images, built as Docker builds by default, by their part's name.

    `PENSTOCK_TEST_IMAGES=built` takes those that are there.
    """
    if os.environ["PENSTOCK_TEST_IMAGES"] == "built":
        return {part: docker.inspect(f"penstock-{part}", "{{.Id}}") for part in IMAGES}
    kit = "1" if docker.has("buildx") else "0"
    return {part: build(docker, part, kit) for part in IMAGES}


def build(docker: Docker, part: str, kit: str, *, context: Path = ROOT, tag: str = "") -> str:
    """Build an image and return its id; `kit` is `1` for BuildKit, `0` for the classic builder."""
    name = tag or f"penstock-{part}"
    arguments = ["--network", "host", "--file", str(context / f"docker/Dockerfile.{part}")]
    if part == "worker":  # without the variable, torch comes by pip's own settings
        index = os.environ.get("TORCH_INDEX_URL", "")
        arguments += ["--build-arg", f"TORCH_INDEX_URL={index}"]
    docker("build", *arguments, "--tag", name, context, env={"DOCKER_BUILDKIT": kit})
    return docker.inspect(name, "{{.Id}}")


@pytest.fixture(scope="module")
def fleet(
    docker: Docker, images: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Compose]:
    """compose.yaml's services, each in good health."""
    models = tmp_path_factory.mktemp("models")
    models.chmod(0o755)
    compose = Compose(docker, find_free_port(), models)
    try:
        compose.up()
        yield compose
    finally:
        compose.down()
