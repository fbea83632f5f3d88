"""FastChat's own `tests/test_openai_api.py`, pointed at our API and at FastChat's server on it.

The file is fschat's, from its source distribution; `PENSTOCK_FASTCHAT_OPENAI_TEST` names another
version of it. It exits with 0 whatever curl and embeddings got, so its output is read here.
"""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.fastchat.conftest import FastChat, write_talkative_llama
from tests.fastchat.programs import OPENAI_SERVER, SOURCES, WITH_TORCH

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.busy(reason="real processes with real time-outs, beside three other tests")

FILE = Path(
    os.environ.get("PENSTOCK_FASTCHAT_OPENAI_TEST") or SOURCES / "tests" / "test_openai_api.py"
)
ITS_SERVER = "http://localhost:8000"
ITS_MODEL = "vicuna-7b-v1.5"
"""What its curl calls ask for: an alias here, so that it stands in the list as well."""
MODEL = "brief-llama"
CONTEXT = 160
"""Its chats have no `max_tokens`: the context ends them."""


@pytest.fixture(scope="module")
def brief(fastchat: FastChat, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastChat]:
    """A second fleet, in the same Redis's next database."""
    folder = tmp_path_factory.mktemp("brief")
    write_talkative_llama(folder / "models" / MODEL, context_length=CONTEXT)
    aliases = folder / "aliases.toml"
    aliases.write_text(f'[aliases."{ITS_MODEL}"]\nmodels = "{MODEL}"\n')
    redis_url = fastchat.redis_url.rpartition("/")[0] + "/1"
    env = {"PENSTOCK_ALIASES_FILE": str(aliases)}
    fleet = FastChat(fastchat.processes, redis_url, folder / "models", model=MODEL, env=env)
    yield fleet
    fleet.api.kill()
    fleet.worker.stop()


def run_their_test(fleet: FastChat, url: str, folder: Path) -> str:
    """Run the file against a server; return its output."""
    if not FILE.exists():
        pytest.skip(f"no {FILE} (make test-fastchat-api fetches it)")
    source = FILE.read_text()
    assert ITS_SERVER in source
    (folder / FILE.name).write_text(source.replace(ITS_SERVER, url))
    running = fleet.run(WITH_TORCH, str(folder / FILE.name), name="their-test")
    assert running.wait(240.0) == 0, running.output()
    return running.output()


def check_what_it_saw(said: str) -> None:
    """Every one of its checks printed an answer, for the model and for its alias."""
    for name in (MODEL, ITS_MODEL):
        part = said.partition(f"===== Test {name} ======")[2].partition("=====")[0]
        assert "full text: Once upon a time" in part
        assert len(re.findall(r"-\d+\.\d+", part.partition("logprobs: [")[2])) >= 10
        assert part.count("Once upon a time") == 2  # whole and streamed
        assert re.search(r"embedding len: \d\d", part)
        assert "Embedding error" not in part
    assert "Traceback" not in said


def check_its_curl_calls(said: str) -> None:
    if shutil.which("curl") is None:
        return
    said = said.partition("===== Test curl =====")[2]
    for kind in ("list", "chat.completion", "text_completion"):
        assert re.search(rf'"object": ?"{kind}"', said), kind
    assert '"embedding"' in said
    assert '"error"' not in said
    assert "BadRequest" not in said


def test_on_our_api(brief: FastChat, tmp_path: Path) -> None:
    said = run_their_test(brief, brief.api.url, tmp_path)
    check_what_it_saw(said)
    check_its_curl_calls(said)


def test_on_fastchats_server_before_our_fleet(brief: FastChat, tmp_path: Path) -> None:
    server = brief.serve(
        OPENAI_SERVER, "openai_api_server", "/v1/models", "--controller-address", brief.api.url
    )
    said = run_their_test(brief, server.url, tmp_path)
    check_what_it_saw(said)
    check_its_curl_calls(said)
    server.kill()
