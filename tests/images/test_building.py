"""Both images by both builders, and what is in them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.images.conftest import IMAGES, build
from tests.install.checkout import copy_checkout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.images.engine import Docker

BUILDERS = {"classic": "0", "buildkit": "1"}
OF_CODE = 2
"""The layers that a change of code makes again: the wheel, and what pip unpacks of it."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    target = tmp_path / "checkout"
    copy_checkout(target)
    return target


def layers(docker: Docker, image: str) -> list[str]:
    return json.loads(docker.inspect(image, "{{json .RootFS.Layers}}"))


@pytest.mark.parametrize("part", IMAGES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_change_of_code_reinstalls_nothing(
    docker: Docker, builder: str, part: str, checkout: Path
) -> None:
    if builder == "buildkit" and not docker.has("buildx"):
        pytest.skip("this docker has no buildx")
    kit, tag = BUILDERS[builder], f"penstock-test-{part}-{builder}"
    build(docker, part, kit, context=checkout, tag=tag)
    before = layers(docker, tag)
    code = checkout / "api/__init__.py"
    code.write_text(code.read_text() + "\nCHANGED = True\n")
    build(docker, part, kit, context=checkout, tag=tag)
    after = layers(docker, tag)
    try:
        assert len(after) == len(before)
        assert after[:-OF_CODE] == before[:-OF_CODE]
        assert after[-1] != before[-1]
        shown = docker("run", "--rm", tag, "python", "-c", "import api; print(api.CHANGED)")
        assert shown == "True"
    finally:
        docker("rmi", tag)


@pytest.mark.parametrize("part", IMAGES)
def test_an_image_names_its_packages_and_is_nobody_special(
    docker: Docker, images: dict[str, str], part: str
) -> None:
    image = images[part]
    assert docker.inspect(image, "{{.Config.User}}") == "penstock"
    assert docker("run", "--rm", image, "id", "-u") == "1000"
    file = docker.inspect(image, '{{index .Config.Labels "penstock.sbom"}}')
    listed = json.loads(docker("run", "--rm", image, "cat", file))
    assert listed["bomFormat"] == "CycloneDX"
    versions = {one["name"]: one["version"] for one in listed["components"]}
    code = "import importlib.metadata as m; print(m.version('celery'))"
    assert docker("run", "--rm", image, "python", "-c", code) == versions["celery"]
    assert ("torch" in versions) == (part == "worker")
    missing = docker.tried("run", "--rm", image, "sh", "-c", "command -v gcc c++ zig")
    assert missing.stdout == "", "no compiler is needed once the image is built"


def test_the_workers_image_has_the_kernels(docker: Docker, images: dict[str, str]) -> None:
    code = "from penstock.models.backends.native.library import best_isa; print(best_isa())"
    assert docker("run", "--rm", images["worker"], "python", "-c", code)


def test_the_apis_image_has_no_model_library(docker: Docker, images: dict[str, str]) -> None:
    code = "import importlib.util as u; print(u.find_spec('torch'), u.find_spec('transformers'))"
    assert docker("run", "--rm", images["api"], "python", "-c", code) == "None None"
