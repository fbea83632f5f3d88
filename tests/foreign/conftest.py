"""One fleet for the programs of others: the shipped demo model, and tiny random ones.

The random ones are a chat model, one that takes images, a model of code, an embedding model and a
cross-encoder. With PENSTOCK_TEST_URL they are run against a server that is there already (it must serve the same).
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

from penstock import demo_model
from tests.fixtures import vision
from tests.fixtures.encoders import write_cross_encoder, write_sentence_files, write_tiny_bert
from tests.fixtures.models import write_tiny_llama
from tests.fixtures.processes import store_and_processes, wait_until
from tests.foreign.outcome import PROPERTY, Outcome, table

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEMO = "demo"
TINY = "tiny-llama"
CODER = "tiny-coder"
SEEING = "tiny-llava"
EMBEDDER = "tiny-bert"
RANKER = "tiny-ranker"
CODER_TOKENS = (
    "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>", "<|fim_pad|>", "<|repo_name|>",
    "<|file_sep|>",
)  # fmt: skip
"""Qwen Coder's."""


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
        paths = {
            DEMO: demo_model.path(),
            CODER: write_tiny_llama(folder / CODER, chat_template=False, special=CODER_TOKENS),
            SEEING: vision.write("llava", folder / SEEING),
            EMBEDDER: write_sentence_files(write_tiny_bert(folder / EMBEDDER)),
            RANKER: write_cross_encoder(folder / RANKER),
        }
        models_file.write_text(
            "".join(
                f'[models.{name}]\npath = "{path}"\nformat = "fp32"\n'
                for name, path in paths.items()
            ),
            encoding="utf-8",
        )
        processes.start_worker(
            ",".join(f"{name}-cpu" for name in (*paths, TINY)),
            redis_url,
            models_dir,
            env={"PENSTOCK_MODELS_FILE": str(models_file)},
        )
        api = processes.start_api(redis_url, env={"PENSTOCK_FILES_DIR": str(folder / "files")})
        wait_until(lambda: httpx.get(f"{api.url}/ready").status_code == 200)
        yield api.url


@pytest.fixture(scope="module")
def http(url: str, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    """A client of /v1/ that sends the HEADERS of the test's module with each request."""
    headers = request.module.HEADERS
    with httpx.Client(base_url=f"{url}/v1/", headers=headers, timeout=60.0) as http:
        yield http


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say suite by suite what passed, what failed as expected and why, and what else failed."""
    if not os.environ.get("PENSTOCK_TEST_FOREIGN"):
        return
    outcomes = list(_outcomes(terminalreporter))
    if outcomes:
        terminalreporter.section("suites of others")
    for line in table(outcomes):
        terminalreporter.write_line(line)


def _program(test: str) -> str:
    """Return the name of the coding agent that a test of `test_agents.py` runs."""
    name, _, case = test.removeprefix("test_").partition("[")
    return case.rstrip("]") if name == "a_shell_command" else name


def _outcomes(reporter: pytest.TerminalReporter) -> Iterator[Outcome]:
    """Yield the outcomes of the files here, then those of the suites that test_suites.py ran."""
    files: dict[str, Outcome] = {}
    suites: list[Outcome] = []
    for category in ("passed", "skipped", "failed", "error"):
        for report in cast("list[Any]", reporter.stats.get(category, [])):
            path, _, name = report.nodeid.partition("::")
            if not path.startswith("tests/foreign/"):
                continue
            ran = [Outcome(**value) for key, value in report.user_properties if key == PROPERTY]
            suites += ran
            file = path.rpartition("/")[2].removeprefix("test_").removesuffix(".py")
            suite = _program(name) if file == "agents" else file
            if not ran:
                files.setdefault(suite, Outcome(suite)).add(category, name)
    yield from files.values()
    yield from suites
