"""Models from a hub: a small server that speaks its API, cut off in the middle, empty, or away."""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from penstock.errors import BadSettings, ModelNotFound
from penstock.models import hub
from penstock.models.catalogue import resolve
from penstock.settings import Settings
from tests.fixtures.models import write_tiny_llama

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

constants = pytest.importorskip("huggingface_hub.constants")
COMMIT = "c0ffee" * 6 + "c0ff"
WEIGHTS = bytes(range(256)) * 400


class Hub:
    """A hub with one repository, `org/tiny`; it breaks off the weights' first `cut` bytes once."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {
            "config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": WEIGHTS,
            "pytorch_model.bin": b"x", "modeling_tiny.py": b"x", "original/a.safetensors": b"x",
            "README.md": b"#",
        }  # fmt: skip
        self.cut = 0
        self.ranges: list[str] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None: ...

            def do_HEAD(self) -> None:
                self.do_GET()

            def do_GET(self) -> None:
                outer.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, to: BaseHTTPRequestHandler) -> None:
        path = to.path.partition("?")[0]
        if re.fullmatch(r"/api/models/org/tiny(/revision/\w+)?", path):
            siblings = [{"rfilename": name, "size": len(c)} for name, c in self.files.items()]
            card = {"license": "apache-2.0"}
            self._json(
                to, {"id": "org/tiny", "sha": COMMIT, "cardData": card, "siblings": siblings}
            )
        elif path == f"/api/models/org/tiny/tree/{COMMIT}":
            self._json(
                to,
                [
                    {"type": "file", "path": name, "size": len(c), "oid": _digest(c)}
                    for name, c in self.files.items()
                ],
            )
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._file(to, path.removeprefix(f"/org/tiny/resolve/{COMMIT}/"))
        else:
            self._json(to, {"error": "Repository not found"}, 404, "RepoNotFound")

    def _json(
        self, to: BaseHTTPRequestHandler, content: Any, status: int = 200, code: str = ""
    ) -> None:
        body = json.dumps(content).encode()
        to.send_response(status)
        to.send_header("Content-Type", "application/json")
        to.send_header("Content-Length", str(len(body)))
        if code:
            to.send_header("X-Error-Code", code)
        to.end_headers()
        to.wfile.write(body)

    def _file(self, to: BaseHTTPRequestHandler, name: str) -> None:
        content = self.files[name]
        asked = to.headers.get("Range", "")
        start = int(asked.removeprefix("bytes=").partition("-")[0] or 0) if asked else 0
        if name == "model.safetensors" and to.command == "GET":
            self.ranges.append(asked)
        to.send_response(206 if asked else 200)
        to.send_header("ETag", f'"{_digest(content)}"')
        to.send_header("X-Repo-Commit", COMMIT)
        to.send_header("Accept-Ranges", "bytes")
        to.send_header("Content-Length", str(len(content) - start))
        if asked:
            to.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        to.end_headers()
        if to.command == "HEAD":
            return
        if name == "model.safetensors" and self.cut:
            to.wfile.write(content[start : start + self.cut])
            to.close_connection = True
            return
        to.wfile.write(content[start:])


def _digest(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Return a hub that huggingface_hub goes to."""
    served = Hub()
    monkeypatch.setattr(constants, "ENDPOINT", served.url)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    template = served.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    yield served
    served.stop()


def test_a_model_comes_whole_and_alone(served: Hub, tmp_path: Path) -> None:
    offered = hub.offer("org/tiny")
    assert (offered.licence, offered.revision, offered.left_out) == ("apache-2.0", COMMIT, 3)
    assert offered.nbytes == len(WEIGHTS) + 5
    assert not list(tmp_path.iterdir())
    path = hub.fetch(offered, tmp_path)
    assert path == tmp_path / "org/tiny"
    names = {str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()}
    assert names == {"config.json", "tokenizer.json", "model.safetensors", "README.md"}
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    with pytest.raises(BadSettings, match="exists"):
        hub.fetch(offered, tmp_path)


def test_what_broke_off_goes_on(
    served: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 4096)  # what is kept of a broken one
    served.cut = 10_000
    offered = hub.offer("org/tiny")
    try:
        hub.fetch(offered, tmp_path)
    except ModelNotFound:
        assert not (tmp_path / "org/tiny").exists()
    served.cut = 0
    path = tmp_path / "org/tiny"
    if not path.exists():
        hub.fetch(offered, tmp_path)
    assert (path / "model.safetensors").read_bytes() == WEIGHTS
    assert any(asked.startswith("bytes=") for asked in served.ranges)


def test_of_several_gguf_files_one_is_chosen(served: Hub) -> None:
    served.files = {"a-Q4_K_M.gguf": b"4", "a-Q8_0.gguf": b"88", "config.json": b"{}"}
    with pytest.raises(BadSettings, match=r"choose one with --file: a-Q4_K_M\.gguf, a-Q8_0\.gguf"):
        hub.offer("org/tiny")
    assert [file.name for file in hub.offer("org/tiny", file="*Q8_0*").files] == ["a-Q8_0.gguf"]
    with pytest.raises(BadSettings, match="fits 2 files"):
        hub.offer("org/tiny", file="*.gguf")


def test_what_is_not_fetched_is_one_line(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    served.files = {"pytorch_model.bin": b"x", "../../evil.safetensors": b"x"}
    with pytest.raises(BadSettings, match="pickled"):
        hub.offer("org/tiny")
    with pytest.raises(ModelNotFound, match="has no model org/other"):
        hub.offer("org/other")
    for name in ("../tiny", "a/b/c", "/etc", ""):
        with pytest.raises(BadSettings, match="is not the name"):
            hub.offer(name)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(ModelNotFound, match=r"127\.0\.0\.1:9 cannot be reached"):
        hub.offer("org/tiny")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelNotFound, match="HF_HUB_OFFLINE"):
        hub.offer("org/tiny")


def test_a_repository_at_its_bound_of_files(served: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "MOST_FILES", len(served.files))
    assert hub.offer("org/tiny").files
    monkeypatch.setattr(hub, "MOST_FILES", len(served.files) - 1)
    with pytest.raises(BadSettings, match="has 7 files; at most 6 are fetched"):
        hub.offer("org/tiny")


def test_a_name_that_a_terminal_obeys_is_left_out(served: Hub) -> None:
    served.files["tokenizer\x1b[2J.spm"] = b"x"
    assert all(file.name.isprintable() for file in hub.offer("org/tiny").files)


def test_a_hubs_cache_is_served_as_it_is(tmp_path: Path) -> None:
    cached = tmp_path / "models--org--tiny"
    write_tiny_llama(cached / "snapshots" / "abc")
    settings = Settings(models_dir=tmp_path, models_file=tmp_path / "none.toml")
    spec = resolve.resolve("org/tiny-cpu", settings)
    assert spec.path == cached / "snapshots" / "abc"
    assert "org/tiny" in [one.name for one in resolve.discover(settings)]
    (cached / "snapshots" / "def").mkdir()
    with pytest.raises(ModelNotFound):
        resolve.resolve("org/tiny-cpu", settings)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text("abc")
    assert resolve.resolve("bigdl-org/tiny-cpu", settings).path == cached / "snapshots" / "abc"
