"""The protocols that clients ask by: what is sent, how an answer is read, how a client comes back.

`load.Clients` does everything else once for all of them. A protocol makes one attempt at an answer
over one API process, and raises nothing but what httpx raises: what it hears goes to the outcome.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.chaos.load import Ask, Outcome

JOBS_HEADER = "x-penstock-jobs"
KEY = "idempotency-key"
POLL_S = 0.3
BUSY = frozenset({429, 502, 503})
MOST_LIKELY = 8
"""A draw is from so many tokens. A number falls on the border between two of them, where rounding
decides, in proportion to their count; over the whole vocabulary that was seen once in 20 runs."""


class Protocol:
    """A request whose answer streams. Without numbered events a client hears all of it again."""

    name: ClassVar[str]
    path: ClassVar[str]
    takes_key: ClassVar[bool] = True
    has_seed: ClassVar[bool] = True
    """Without a seed, answers are greedy."""
    forgets: ClassVar[frozenset[str]] = frozenset()
    """Errors that are right after a loss of memory, beside those of all protocols."""

    def body(self, ask: Ask) -> dict[str, Any]:
        """Return what is sent."""
        raise NotImplementedError

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        """Add one object of the stream to what its client has heard."""
        raise NotImplementedError

    async def objects(self, response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        """Yield (id, object) of a stream of events."""
        async for event_id, content in sse_events(response):
            if content != "[DONE]":
                yield event_id, json.loads(content)

    def request(self, outcome: Outcome) -> tuple[str, str, dict[str, Any] | None, dict[str, str]]:
        """Return method, path, body and headers of the next attempt."""
        headers = {KEY: outcome.key} if outcome.key else {}
        if outcome.last_name:
            headers["last-event-id"] = outcome.last_name
        return "POST", self.path, self.body(outcome.ask), headers

    def goes_on(self, outcome: Outcome) -> bool:
        """Whether the next attempt asks only for what its client has not heard."""
        return bool(outcome.last_name)

    async def attempt(self, http: httpx.AsyncClient, url: str, outcome: Outcome) -> None:
        """Ask, or come back, once."""
        method, path, body, headers = self.request(outcome)
        if not self.goes_on(outcome):
            outcome.begin_again()
        async with http.stream(method, f"{url}{path}", json=body, headers=headers) as response:
            if await is_refused(response, outcome):
                return
            outcome.job_id = response.headers.get(JOBS_HEADER, outcome.job_id)
            async for event_id, content in self.objects(response):
                self.take(outcome, event_id, content)
                if outcome.finish_reason or outcome.error or outcome.has_passed:
                    return


async def is_refused(response: httpx.Response, outcome: Outcome) -> bool:
    """Note a status that is no success; True for one."""
    if response.status_code == 200:
        return False
    await response.aread()
    outcome.refuse(response.status_code, response.text)
    if response.status_code in BUSY:
        await asyncio.sleep(min(float(response.headers.get("retry-after", 1)), 2.0))
    return True


class Completions(Protocol):
    """`/v1/completions`, whose events are numbered."""

    name = "completions"
    path = "/v1/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": ask.model, "prompt": ask.prompt, "max_tokens": ask.max_tokens, "seed": ask.seed,
            "temperature": ask.temperature, "top_k": MOST_LIKELY, "ignore_eos": True,
            "stream": True,
        }  # fmt: skip

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        if "error" in content:
            outcome.fail(content["error"]["code"], content["error"])
            return
        choice = content["choices"][0]
        outcome.hear(self._text(choice), event_id)
        outcome.finish_reason = choice["finish_reason"] or ""

    def _text(self, choice: dict[str, Any]) -> str:
        return choice["text"]


class Chat(Completions):
    """`/v1/chat/completions`, likewise."""

    name = "chat"
    path = "/v1/chat/completions"

    def body(self, ask: Ask) -> dict[str, Any]:
        body = super().body(ask)
        return {**body, "messages": [{"role": "user", "content": body.pop("prompt")}]}

    def _text(self, choice: dict[str, Any]) -> str:
        return choice["delta"].get("content") or ""


class Responses(Protocol):
    """`/v1/responses`, streamed; a client that comes back hears it from its beginning."""

    name = "responses"
    path = "/v1/responses"
    has_seed = False

    def body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": ask.model, "input": ask.prompt, "max_output_tokens": ask.max_tokens,
            "temperature": 0, "stream": True, "store": False,
        }  # fmt: skip

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        kind = content["type"]
        if kind == "response.output_text.delta":
            outcome.hear(content["delta"])
        elif kind in {"response.completed", "response.incomplete"}:
            outcome.finish_reason = content["response"]["status"]
        elif kind == "error":
            outcome.fail(content.get("code") or "error", content)
        elif kind == "response.failed":
            error = content["response"]["error"] or {}
            # This protocol has one code for all that its client may ask again for.
            is_away = error.get("message", "").startswith("Redis")
            outcome.fail("store_unavailable" if is_away else error.get("code") or "failed", error)


class Background(Responses):
    """The same in the background: a client comes back by the response's id and a sequence number."""

    name = "background"
    forgets = frozenset({"404", "server_error", "lost"})

    def body(self, ask: Ask) -> dict[str, Any]:
        return {**super().body(ask), "background": True, "store": True}

    def request(self, outcome: Outcome) -> tuple[str, str, dict[str, Any] | None, dict[str, str]]:
        if not outcome.stored_id:
            return super().request(outcome)
        path = f"{self.path}/{outcome.stored_id}?stream=true&starting_after={outcome.last_id}"
        return "GET", path, None, {}

    def goes_on(self, outcome: Outcome) -> bool:
        return bool(outcome.stored_id)

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        if "response" in content:
            outcome.stored_id = content["response"]["id"]
        if content["type"] != "error":  # the stream's, with the number of the event before it
            outcome.number(str(content["sequence_number"]))
        super().take(outcome, event_id, content)


class Anthropic(Protocol):
    """`/v1/messages`."""

    name = "anthropic"
    path = "/v1/messages"
    has_seed = False

    def body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": ask.model, "messages": [{"role": "user", "content": ask.prompt}],
            "max_tokens": ask.max_tokens, "temperature": 0, "stream": True,
        }  # fmt: skip

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        if content["type"] == "content_block_delta":
            outcome.hear(content["delta"].get("text", ""))
        elif content["type"] == "message_delta":
            outcome.stop_reason = content["delta"]["stop_reason"]
        elif content["type"] == "message_stop":
            outcome.finish_reason = outcome.stop_reason
        elif content["type"] == "error":
            outcome.fail(content["error"]["type"], content["error"])


class Ollama(Protocol):
    """`/api/chat`: lines of JSON."""

    name = "ollama"
    path = "/api/chat"

    def body(self, ask: Ask) -> dict[str, Any]:
        options = {
            "num_predict": ask.max_tokens, "temperature": ask.temperature, "seed": ask.seed,
            "top_k": MOST_LIKELY,
        }  # fmt: skip
        messages = [{"role": "user", "content": ask.prompt}]
        return {"model": ask.model, "messages": messages, "options": options, "stream": True}

    async def objects(self, response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        async for line in response.aiter_lines():
            if line.strip():
                yield "", json.loads(line)

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        if "error" in content:
            outcome.fail(content.get("code") or "error", content)
            return
        outcome.hear(content["message"]["content"])
        outcome.finish_reason = content.get("done_reason") or "" if content["done"] else ""


class FastChat(Protocol):
    """The worker's protocol: each object has all of the text so far. It knows no key."""

    name = "fastchat"
    path = "/worker_generate_stream"
    takes_key = False
    has_seed = False

    def body(self, ask: Ask) -> dict[str, Any]:
        return {
            "model": ask.model, "prompt": ask.prompt, "temperature": 0,
            "max_new_tokens": ask.max_tokens, "echo": False,
        }  # fmt: skip

    async def objects(self, response: httpx.Response) -> AsyncIterator[tuple[str, dict[str, Any]]]:
        rest = b""
        async for piece in response.aiter_bytes():
            *whole, rest = (rest + piece).split(b"\0")
            for content in filter(None, whole):
                yield "", json.loads(content)

    def take(self, outcome: Outcome, event_id: str, content: dict[str, Any]) -> None:
        if content["error_code"]:
            outcome.fail(str(content["error_code"]), content)
            return
        if not content["text"].startswith(outcome.text):
            outcome.earlier.append(content["text"])
        outcome.hear(content["text"][len(outcome.text) :])
        outcome.finish_reason = content.get("finish_reason") or ""


class Batches(Protocol):
    """A file of one line, a batch, its output: each step again until it has been taken."""

    name = "batches"
    path = "/v1/completions"
    forgets = frozenset({"404"})

    def body(self, ask: Ask) -> dict[str, Any]:
        body = Completions().body(ask)
        return {**body, "stream": False}

    async def attempt(self, http: httpx.AsyncClient, url: str, outcome: Outcome) -> None:
        steps = outcome.steps
        if "file" not in steps:
            line = {"custom_id": "one", "method": "POST", "url": self.path}
            content = json.dumps({**line, "body": self.body(outcome.ask)})
            answer = await http.post(
                f"{url}/v1/files",
                data={"purpose": "batch"},
                files={"file": ("one.jsonl", content)},
            )
            if await is_refused(answer, outcome):
                return
            steps["file"] = answer.json()["id"]
        if "batch" not in steps:
            asked = {
                "input_file_id": steps["file"], "endpoint": self.path, "completion_window": "24h",
            }  # fmt: skip
            answer = await http.post(f"{url}/v1/batches", json=asked)
            if await is_refused(answer, outcome):
                return
            steps["batch"] = answer.json()["id"]
        while True:
            answer = await http.get(f"{url}/v1/batches/{steps['batch']}")
            if await is_refused(answer, outcome):
                return
            batch = answer.json()
            if batch["status"] not in {"validating", "in_progress", "finalizing"}:
                break
            await asyncio.sleep(POLL_S)
        name = batch.get("output_file_id") or batch.get("error_file_id")
        if not name:
            outcome.fail(batch["status"], batch)
            return
        answer = await http.get(f"{url}/v1/files/{name}/content")
        if not await is_refused(answer, outcome):
            self._take_line(outcome, json.loads(answer.text.splitlines()[0]))

    def _take_line(self, outcome: Outcome, line: dict[str, Any]) -> None:
        answered = line.get("response") or {}
        body = answered.get("body") or {}
        if line.get("error") or "error" in body or answered.get("status_code") != 200:
            error = line.get("error") or body.get("error") or {"code": "unknown"}
            outcome.fail(str(error.get("code")), error, is_final=True)
            return
        choice = body["choices"][0]
        outcome.hear(choice["text"])
        outcome.finish_reason = choice["finish_reason"]


ALL: tuple[Protocol, ...] = (
    Completions(), Chat(), Responses(), Background(), Anthropic(), Ollama(), FastChat(), Batches(),
)  # fmt: skip
BY_NAME = {protocol.name: protocol for protocol in ALL}


async def sse_events(response: httpx.Response) -> AsyncIterator[tuple[str, str]]:
    """Yield (id, data) of a response's events; comments are skipped."""
    event_id = ""
    async for line in response.aiter_lines():
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            yield event_id, line[6:]
        elif not line:
            event_id = ""
