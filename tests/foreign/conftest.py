"""One fleet for the programs of others: the shipped demo model and a tiny random one.

With PENSTOCK_TEST_URL they are run against a server that is there already (it must serve `demo`
and `tiny-llama`).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import httpx
import pytest

from penstock import demo_model
from tests.fixtures.processes import store_and_processes, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = "demo"
TINY = "tiny-llama"


@pytest.fixture(scope="package")
def url(tmp_path_factory: pytest.TempPathFactory, models_dir: Path) -> Iterator[str]:
    """The address of a fleet that serves `demo` and `tiny-llama`; no trailing slash."""
    if running := os.environ.get("PENSTOCK_TEST_URL"):
        yield running.rstrip("/")
        return
    if not (demo_model.path() / "model.safetensors").is_file():
        pytest.skip("the demo model is not in this checkout")
    folder = tmp_path_factory.mktemp("foreign")
    with store_and_processes(folder) as (redis_url, processes):
        models_file = folder / "models.toml"
        models_file.write_text(
            f'[models.{DEMO}]\npath = "{demo_model.path()}"\nformat = "fp32"\n', encoding="utf-8"
        )
        processes.start_worker(
            f"{DEMO}-cpu,{TINY}-cpu",
            redis_url,
            models_dir,
            env={"PENSTOCK_MODELS_FILE": str(models_file)},
        )
        api = processes.start_api(redis_url, env={"PENSTOCK_FILES_DIR": str(folder / "files")})
        wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 200)
        yield api.url
