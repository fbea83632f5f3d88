"""FastChat's controller and worker endpoints on the wire, before a scripted worker."""

from __future__ import annotations

import base64
import json
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from api.fastchat.default_template import OPENING
from penstock.contract.events import (
    Failed,
    Finished,
    FinishReason,
    PositionLogprobs,
    TokenLogprob,
    Tokens,
    Usage,
)
from penstock.contract.job import ChatPrompt, TextPrompt
from penstock.transport.jobs.images import digest_of
from tests.fixtures.api import WORDS, drone
from tests.fixtures.processes import wait_until

if TYPE_CHECKING:
    from penstock.contract.job import Job
    from tests.fixtures.api import ApiServer, Fleet, Script

ASK: Any = {"model": "tiny", "prompt": "hello", "echo": False}
STREAM = "/worker_generate_stream"
PIXEL = "R0lGODlhAQABAIAAAAAAAAAAACwAAAAAAQABAAACAkQBADs="
"""A GIF of one pixel."""
POSTS = (
    *("/get_worker_address", "/receive_heart_beat", "/register_worker"),
    *("/worker_generate", "/worker_get_embeddings", "/count_token"),
    *("/worker_get_conv_template", "/model_details"),
)


def post(server: ApiServer, path: str, body: Any = None, **more: Any) -> httpx.Response:
    return httpx.post(f"{server.url}{path}", json=body, timeout=20.0, **more)


def objects(body: bytes) -> list[dict[str, Any]]:
    """Split a stream as FastChat's clients do; keep-alives are empty."""
    assert body.endswith(b"\0")
    return [json.loads(part) for part in body.split(b"\0") if part]


def code(answer: httpx.Response) -> int:
    """Return the error code of an answer that is nothing but an error."""
    assert answer.status_code == 200
    (shown,) = objects(answer.content.removesuffix(b"\0") + b"\0")
    assert set(shown) == {"text", "error_code"}
    assert shown["text"].startswith("**NETWORK ERROR")
    return shown["error_code"]


# -- the controller


def test_the_controller(fleet: Fleet) -> None:
    server = fleet.api()
    assert post(server, "/list_models").json() == {"models": []}
    worker = fleet.worker()
    assert httpx.get(f"{server.url}/test_connection").json() == "success"
    answer = post(server, "/refresh_all_workers")
    assert (answer.status_code, answer.json()) == (200, None)
    for path in ("/list_models", "/list_language_models"):
        assert post(server, path).json() == {"models": ["org/tiny", "tiny"]}
    assert post(server, "/list_multimodal_models").json() == {"models": []}
    for name in ("tiny", "org/tiny"):
        assert post(server, "/get_worker_address", {"model": name}).json() == {
            "address": server.url
        }
    assert post(server, "/get_worker_address", {"model": "other"}).json() == {"address": ""}
    assert httpx.get(f"{server.url}/list_models").status_code == 405
    worker.stop()
    wait_until(lambda: post(server, "/list_models").json() == {"models": []})


def test_the_address_is_the_one_that_the_caller_used_or_the_public_one(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker()
    named = {"host": "penstock.example:8443"}
    answer = post(server, "/get_worker_address", {"model": "tiny"}, headers=named)
    assert answer.json() == {"address": "http://penstock.example:8443"}
    public = fleet.api(public_url="https://llm.example/")
    answer = post(public, "/get_worker_address", {"model": "tiny"}, headers=named)
    assert answer.json() == {"address": "https://llm.example"}


def test_a_model_whose_last_worker_has_gone_for_good_has_no_address(fleet: Fleet) -> None:
    server = fleet.api(worker_grace_s=0.0)
    fleet.worker().stop()
    server.refresh()
    assert post(server, "/get_worker_address", {"model": "tiny"}).json() == {"address": ""}
    assert code(post(server, STREAM, ASK)) == 50005
    assert code(post(server, "/worker_generate", ASK)) == 50005


def test_no_worker_may_register_by_default(fleet: Fleet) -> None:
    server = fleet.api()
    body = {"worker_name": "http://127.0.0.1:1", "check_heart_beat": True}
    assert code(post(server, "/register_worker", body)) == 40103
    beat = {"worker_name": "http://127.0.0.1:1", "queue_length": 0}
    assert post(server, "/receive_heart_beat", beat).json() == {"exist": False}


# -- generating


def test_a_stream(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    answer = post(server, STREAM, ASK)
    assert answer.status_code == 200
    assert "content-type" not in answer.headers
    *shown, last = objects(answer.content)
    said = ["".join(WORDS[: count + 1]) for count in range(len(WORDS))]
    assert [one["text"] for one in shown] == said
    assert all(one["finish_reason"] is None for one in shown)
    assert [one["usage"]["completion_tokens"] for one in shown] == [1, 2, 3, 4]
    assert shown[0]["usage"] == {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    assert last == {
        "text": said[-1],
        "error_code": 0,
        "usage": {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7},
        "finish_reason": "stop",
        "logprobs": None,
    }
    whole = post(server, "/worker_generate", ASK)
    assert whole.headers["content-type"] == "application/json"
    assert whole.json() == last
    assert len(worker.jobs) == 2


def test_text_that_comes_with_the_end_is_shown_before_it(fleet: Fleet) -> None:
    def script(job: Job) -> Script:
        yield Tokens(job.id, 0, (1,), "", prompt_tokens=1)
        yield Finished(job.id, 1, FinishReason.LENGTH, Usage(1, 1), text="held back")

    server = fleet.api()
    fleet.worker(script)
    first, last = objects(post(server, STREAM, ASK).content)
    assert (first["text"], first["finish_reason"]) == ("held back", None)
    assert (last["text"], last["finish_reason"]) == ("held back", "length")


def test_an_empty_answer_is_still_one_object(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker(lambda job: iter([Finished(job.id, 0, FinishReason.STOP, Usage(3, 0))]))
    (only,) = objects(post(server, STREAM, ASK).content)
    assert (only["text"], only["finish_reason"]) == ("", "stop")


def test_every_option_reaches_the_worker(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    asked = {
        **ASK, "temperature": 0.3, "top_p": 0.0, "top_k": -1, "repetition_penalty": 1.2,
        "presence_penalty": None, "frequency_penalty": 0.5, "max_new_tokens": 2, "stop": "\n",
        "stop_token_ids": [2, 151_645], "logprobs": None, "seed": -1, "of_a_newer_version": {},
    }  # fmt: skip
    answer = post(server, "/worker_generate", asked).json()
    assert (answer["text"], answer["finish_reason"]) == ("once upon ", "length")
    work = worker.jobs[0].work
    sampling = work.sampling
    assert work.prompt == TextPrompt("hello")
    assert work.fit_context
    assert (sampling.temperature, sampling.top_k, sampling.repetition_penalty) == (0.3, 0, 1.2)
    assert (sampling.presence_penalty, sampling.frequency_penalty) == (0.0, 0.5)
    assert (sampling.stop, sampling.stop_token_ids) == (("\n",), (2,))
    assert 0 < sampling.top_p < 0.001
    assert sampling.seed == 2**63 - 1


def test_fastchats_defaults(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker()
    post(server, "/worker_generate", {"prompt": "hello", "temperature": 1e-6})
    work = worker.jobs[0].work
    assert work.echo
    assert (work.sampling.max_tokens, work.sampling.temperature) == (256, 0.0)


def test_the_default_template_gives_way_to_the_models_own(fleet: Fleet) -> None:
    server = fleet.api()
    chat = f"{OPENING}\n### Human: hi\n### Assistant:"
    own = fleet.worker()
    fleet.worker(name="base", queue="base-cpu", aliases=(), has_chat_template=False)
    asked = {**ASK, "prompt": chat, "stop": ["###", "END"]}
    assert post(server, "/worker_generate", asked).json()["error_code"] == 0
    assert own.jobs[0].work.prompt == ChatPrompt(({"role": "user", "content": "hi"},))
    assert own.jobs[0].work.sampling.stop == ("END",)
    post(server, "/worker_generate", {**asked, "echo": True})
    assert own.jobs[1].work.prompt == TextPrompt(chat)
    assert own.jobs[1].work.sampling.stop == ("###", "END")
    post(server, "/worker_generate", {**asked, "prompt": f"{chat} Sure"})
    assert own.jobs[2].work.prompt == TextPrompt(f"{chat} Sure")


def test_a_base_model_gets_the_default_template_as_it_stands(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(has_chat_template=False)
    chat = f"{OPENING}\n### Human: hi\n### Assistant:"
    post(server, "/worker_generate", {**ASK, "prompt": chat, "stop": "###"})
    assert worker.jobs[0].work.prompt == TextPrompt(chat)
    assert worker.jobs[0].work.sampling.stop == ("###",)


def test_keepalives_while_a_job_waits(fleet: Fleet) -> None:
    server = fleet.api(keepalive_s=0.05)
    worker = fleet.worker()
    worker.accepting = False
    with httpx.stream("POST", f"{server.url}{STREAM}", json=ASK) as answer:
        seen = answer.iter_bytes()
        assert [next(seen) for _ in range(3)] == [b"\0"] * 3
        worker.accepting = True
        rest = b"".join(seen)
    assert objects(rest)[-1]["text"] == "".join(WORDS)


def test_a_failure_after_the_beginning_ends_the_stream(fleet: Fleet) -> None:
    def script(job: Job) -> Script:
        yield Tokens(job.id, 0, (1,), "once ", prompt_tokens=1)
        yield Failed(job.id, 1, "engine_failed", "the engine broke")

    server = fleet.api()
    fleet.worker(script)
    first, last = objects(post(server, STREAM, ASK).content)
    assert first["text"] == "once "
    assert (last["error_code"], "the engine broke" in last["text"]) == (50001, True)
    assert post(server, "/worker_generate", ASK).json()["error_code"] == 50001


@pytest.mark.parametrize(
    ("failed", "expected"),
    [
        ("context_length_exceeded", 40303),
        ("invalid_parameter", 40302),
        ("deadline_exceeded", 50006),
        ("poison_job", 50001),
        ("a_code_of_a_newer_worker", 50001),
    ],
)
def test_what_a_worker_finds_wrong(fleet: Fleet, failed: str, expected: int) -> None:
    server = fleet.api()
    fleet.worker(lambda job: iter([Failed(job.id, 0, failed, "why")]))
    assert code(post(server, STREAM, ASK)) == expected
    assert code(post(server, "/worker_generate", ASK)) == expected


def test_a_full_queue(fleet: Fleet) -> None:
    server = fleet.api(max_waiting_jobs=1)
    worker = fleet.worker()
    worker.accepting = False
    waiting = threading.Thread(target=lambda: post(server, "/worker_generate", ASK))
    waiting.start()
    wait_until(lambda: fleet.depth().waiting_jobs == 1)
    assert code(post(server, STREAM, ASK)) == 42903
    assert code(post(server, "/worker_generate", ASK)) == 42903
    worker.accepting = True
    waiting.join(20.0)
    assert not waiting.is_alive()


@pytest.mark.parametrize("path", [STREAM, "/worker_generate"])
def test_values_out_of_range(fleet: Fleet, path: str) -> None:
    server = fleet.api()
    worker = fleet.worker()
    for wrong in (
        {"temperature": -0.1}, {"top_p": 1.5}, {"top_k": -2}, {"repetition_penalty": 0},
        {"presence_penalty": 3}, {"frequency_penalty": -3}, {"max_new_tokens": 0},
        {"logprobs": 21}, {"stop": ["x"] * 65}, {"images": [PIXEL]}, {"best_of": 0},
        {"best_of": 21}, {"use_beam_search": True},
    ):  # fmt: skip
        assert code(post(server, path, {**ASK, **wrong})) == 40302, wrong
    assert code(post(server, path, {**ASK, "model": "other"})) == 40301
    assert worker.jobs == []


def test_images(fleet: Fleet) -> None:
    pytest.importorskip("PIL", reason="Pillow is not installed")
    server = fleet.api()
    worker = fleet.worker(capabilities=("generate", "image"))
    for path in ("/list_models", "/list_language_models", "/list_multimodal_models"):
        assert post(server, path).json() == {"models": ["org/tiny", "tiny"]}
    digest = digest_of(base64.b64decode(PIXEL))
    asked = {**ASK, "prompt": "USER: $$<image>$$what? ASSISTANT:", "images": [PIXEL]}
    for image in (PIXEL, f"data:image/gif;base64,{PIXEL}"):
        assert objects(post(server, STREAM, {**asked, "images": [image]}).content)
        assert worker.jobs[-1].work.prompt == TextPrompt(asked["prompt"], images=(digest,))
    conv = post(server, "/worker_get_conv_template", {"model": "tiny"}).json()["conv"]
    head = conv["system_template"].format(system_message="")
    quoted = f"{head}{conv['roles'][0]}: $$<image>$$$$<image>$$and {conv['roles'][1]}:"
    assert post(server, "/worker_generate", {**asked, "prompt": quoted, "images": [PIXEL] * 2})
    image = {"type": "image", "digest": digest}
    content = [image, image, {"type": "text", "text": "and "}]
    assert worker.jobs[-1].work.prompt == ChatPrompt(({"role": "user", "content": content},))
    for wrong in ([PIXEL, PIXEL], ["?"], ["aGk="], ["/etc/passwd"], ["https://example.com/a.png"]):
        assert code(post(server, STREAM, {**asked, "images": wrong})) == 40302
    assert code(post(server, STREAM, {**asked, "images": [7]})) == 40001
    words = {**ASK, "prompt": asked["prompt"]}  # without images the marker is a word
    assert objects(post(server, STREAM, words).content)
    assert worker.jobs[-1].work.prompt == TextPrompt(asked["prompt"])


def test_the_best_of_several(fleet: Fleet) -> None:
    def script(job: Job) -> Script:
        likely = -1.0 if worker.jobs.index(job) == 1 else -2.0
        chosen = TokenLogprob(1, "x", likely)
        text = f"answer {worker.jobs.index(job)}"
        yield Tokens(job.id, 0, (1,), text, (PositionLogprobs(chosen, ()),), prompt_tokens=3)
        yield Finished(job.id, 1, FinishReason.STOP, Usage(3, 1))

    server = fleet.api()
    worker = fleet.worker(script)
    best = post(server, "/worker_generate", {**ASK, "best_of": 3}).json()
    assert (best["text"], best["logprobs"], best["finish_reason"]) == ("answer 1", None, "stop")
    assert best["usage"] == {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6}
    assert len({job.work.sampling.seed for job in worker.jobs}) == 3
    assert code(post(server, STREAM, {**ASK, "best_of": 2})) == 40302  # it cannot be taken back


def test_malformed_bodies_wedge_nothing(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker(slots=1)
    bodies = (
        b"", b"{", b"[]", b"null", b'"text"', b"\xff\xfe", b"[" * 100_000, b"{}",
        b'{"model": "tiny"}', b'{"model": "tiny", "prompt": 7}', b'{"model": [], "prompt": ""}',
        b'{"model": "tiny", "prompt": "x", "temperature": "warm"}',
        b'{"model": "tiny", "prompt": "x", "temperature": NaN}',
        b'{"model": "tiny", "prompt": "x", "stop": {}}',
        b'{"model": "tiny", "prompt": "x", "stop_token_ids": "2"}',
        b'{"model": "tiny", "prompt": "x", "max_new_tokens": 1.5}',
    )  # fmt: skip
    client = httpx.Client(base_url=server.url)
    for path in (STREAM, "/worker_generate"):
        for body in bodies:
            answer = client.post(path, content=body)
            assert code(answer) == 40001, (path, body[:80])
            assert answer.content.endswith(b"\0") == (path == STREAM)
    for path in POSTS:
        for body in bodies[:7]:
            answer = client.post(path, content=body)
            assert code(answer) in (40001, 40103), (path, body[:80])
    client.close()
    assert post(server, "/worker_generate", ASK).json()["text"] == "".join(WORDS)


def test_a_body_over_the_limit(fleet: Fleet) -> None:
    server = fleet.api(max_body_bytes=2048)
    fleet.worker()
    assert code(post(server, STREAM, {**ASK, "prompt": "x" * 4096})) == 40001


def test_unexpected_errors_have_the_same_shape(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = fleet.api()
    fleet.worker()

    def broken(_name: str) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(server.services.registry, "pick", broken)
    for path in (STREAM, "/worker_generate"):
        assert code(post(server, path, ASK)) == 50001
    monkeypatch.undo()
    monkeypatch.setattr(server.services.replies, "follow", broken)
    assert code(post(server, STREAM, ASK)) == 50001


# -- clients that go away


def test_a_client_that_leaves_its_stream_frees_the_slot(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    with httpx.stream("POST", f"{server.url}{STREAM}", json=ASK) as answer:
        next(answer.iter_bytes())
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
    wait_until(lambda: fleet.depth().running == 0)


def test_a_client_that_leaves_without_a_stream_frees_the_slot(fleet: Fleet) -> None:
    server = fleet.api()
    worker = fleet.worker(drone)
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(f"{server.url}/worker_generate", json=ASK, timeout=0.5)
    wait_until(lambda: list(worker.dropped.values()) == ["cancelled"])
    wait_until(lambda: fleet.depth().running == 0)


# -- keys


def test_keys(fleet: Fleet) -> None:
    server = fleet.api(api_keys=("sesame",))
    fleet.worker()
    for path, body in ((STREAM, ASK), ("/worker_generate", ASK), ("/list_models", None)):
        assert code(post(server, path, body)) == 40101
        for wrong in ("Bearer simsim", "Bearer", "sesame"):
            assert code(post(server, path, body, headers={"authorization": wrong})) == 40102
    right = {"authorization": "Bearer sesame"}
    assert post(server, "/worker_generate", ASK, headers=right).json()["error_code"] == 0
    open_to_friends = fleet.api(api_keys=("sesame",), fastchat_open=True)
    assert post(open_to_friends, "/worker_generate", ASK).json()["error_code"] == 0
    assert httpx.get(f"{open_to_friends.url}/v1/models").status_code == 401


# -- the worker's other endpoints


def test_the_worker(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker()
    status = post(server, "/worker_get_status").json()
    assert status["model_names"] == ["org/tiny", "tiny"]
    assert (status["speed"], status["queue_length"]) == (1, 0)
    assert post(server, "/model_details", {"model": "tiny"}).json() == {"context_length": 512}
    assert post(server, "/model_details", {}).json() == {"context_length": 512}
    conv = post(server, "/worker_get_conv_template", {"model": "tiny"}).json()["conv"]
    assert (conv["name"], conv["sep_style"], conv["sep2"]) == ("tiny", 2, "")
    assert code(post(server, "/worker_get_embeddings", {"model": "tiny", "input": ["a"]})) == 40302
    for path in ("/model_details", "/worker_get_conv_template", "/count_token"):
        assert code(post(server, path, {"model": "other", "prompt": ""})) == 40301
    fleet.worker(name="second", queue="second-cpu", aliases=())
    assert code(post(server, "/model_details", {})) == 40301  # which of the two?


def test_logprobs_are_cumulative(fleet: Fleet) -> None:
    def script(job: Job) -> Script:
        for index, word in enumerate(("once ", "upon ")):
            chosen = TokenLogprob(index, word, -0.5)
            top = (chosen, TokenLogprob(9, "x", -1e6))
            yield Tokens(job.id, index, (index,), word, (PositionLogprobs(chosen, top),))
        yield Finished(job.id, 2, FinishReason.STOP, Usage(1, 2))

    server = fleet.api()
    fleet.worker(script)
    first, second, last = objects(post(server, STREAM, {**ASK, "logprobs": 1}).content)
    assert first["logprobs"]["tokens"] == ["once "]
    assert second["logprobs"] == last["logprobs"]
    assert last["logprobs"] == {
        "tokens": ["once ", "upon "],
        "token_logprobs": [-0.5, -0.5],
        "top_logprobs": [{"once ": -0.5, "x": -9999.0}, {"upon ": -0.5, "x": -9999.0}],
        "text_offset": [0, 5],
    }


def test_redis_away(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    server = fleet.api()
    fleet.worker()
    registry = server.services.registry
    monkeypatch.setattr(registry, "_view_life_s", -1.0)  # a view is too old at once
    monkeypatch.setattr(registry, "_view", None)  # and so is the one of before
    assert code(post(server, STREAM, ASK)) == 50005
    assert post(server, "/list_models").json() == {"models": []}
    assert post(server, "/get_worker_address", {"model": "tiny"}).json() == {"address": ""}
    assert post(server, "/refresh_all_workers").json() is None


def test_an_api_that_shuts_down(fleet: Fleet) -> None:
    server = fleet.api()
    fleet.worker()
    drain = server.app.state.drain
    drain.draining = drain.closed = True
    for path in (STREAM, "/worker_generate", "/list_models", "/count_token"):
        assert code(post(server, path, ASK)) == 42903
    assert httpx.get(f"{server.url}/v1/models").status_code == 503
