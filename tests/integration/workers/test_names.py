"""A model in an organisation's folder is served by its whole name, slash and all."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from pathlib import Path

    from tests.fixtures.processes import Processes


def test_an_organisations_model_answers(
    processes: Processes, redis_url: str, tmp_path: Path, tiny_llama: Path
):
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "Tiny.Llama-1_0").symlink_to(tiny_llama, target_is_directory=True)
    processes.start_worker("org/Tiny.Llama-1_0-cpu", redis_url, tmp_path)
    api = processes.start_api(redis_url)
    name = "org/Tiny.Llama-1_0"
    with httpx.Client(base_url=api.url, timeout=60) as client:
        assert name in {model["id"] for model in client.get("/v1/models").json()["data"]}
        assert client.get(f"/v1/models/{name}").json()["id"] == name
        asked = {"model": name, "prompt": "Hi", "max_tokens": 3}
        answer = client.post("/v1/completions", json=asked)
    assert answer.status_code == 200
    assert answer.json()["model"] == name
    assert answer.json()["usage"]["completion_tokens"] == 3
