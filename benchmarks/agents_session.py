"""One coding agent's session against an OpenAI server: what each of its turns sends and gets."""

from __future__ import annotations

import asyncio
import json
import random
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from openai import AsyncOpenAI

WORDS: Final = [
    "the",
    "file",
    "queue",
    "worker",
    "holds",
    "takes",
    "writes",
    "reads",
    "line",
    "test",
    "fails",
    "passes",
    "function",
    "returns",
    "value",
    "error",
    "path",
    "name",
    "list",
    "text",
    "token",
    "cache",
    "turn",
    "answer",
    "makes",
    "keeps",
    "sends",
    "again",
    "first",
    "last",
]
TOOLS: Final = 24


@dataclass(frozen=True)
class Shape:
    """A session's lengths in tokens, and how many turns its main agent and each sub-agent take."""

    turns: int
    head_tokens: int
    prompt_tokens: int
    """Of the main agent's last prompt."""
    answer_tokens: int
    sub_agents: int
    sub_turns: int

    def scaled(self, scale: float) -> Shape:
        """Return the shape with shorter texts, and as many turns."""
        lengths = (self.head_tokens, self.prompt_tokens, self.answer_tokens)
        head, prompt, answer = (max(8, round(length * scale)) for length in lengths)
        return Shape(self.turns, head, prompt, answer, self.sub_agents, self.sub_turns)

    @property
    def result_tokens(self) -> int:
        """Of each tool's result, so that the last prompt is as long as it should be."""
        grown = self.prompt_tokens - self.head_tokens - self.answer_tokens * (self.turns - 1)
        return max(4, grown // max(1, self.turns - 1))


@dataclass(frozen=True)
class Turn:
    """What one turn cost. `new_tokens` nobody could have computed before."""

    agent: str
    number: int
    prompt_tokens: int
    cached_tokens: int
    new_tokens: int
    answer_tokens: int
    ttft_s: float
    took_s: float

    @property
    def again_tokens(self) -> int:
        """Tokens that were computed once more."""
        return max(0, self.prompt_tokens - self.cached_tokens - self.new_tokens)


class Session:
    """A main agent and its sub-agents, which share the head: system text and tools."""

    def __init__(
        self, client: AsyncOpenAI, model: str, shape: Shape, words_a_token: float, seed: int
    ) -> None:
        self._client = client
        self._model = model
        self._shape = shape
        self._words_a_token = words_a_token
        self._random = random.Random(f"session {seed}")
        self._system = self.text(shape.head_tokens // 2)
        share = shape.head_tokens // 2 // TOOLS
        self._tools: list[Any] = [
            {
                "type": "function",
                "function": {
                    "name": f"tool_{place}",
                    "description": self.text(max(1, share - 30)),
                    "parameters": {"type": "object", "properties": {"path": {"type": "string"}}},
                },
            }
            for place in range(TOOLS)
        ]
        self.turns: list[Turn] = []

    def text(self, tokens: int) -> str:
        """Return words that make about so many tokens, not the same ones again."""
        count = max(1, round(tokens * self._words_a_token))
        return " ".join(self._random.choices(WORDS, k=count))

    async def run(self) -> None:
        """Run the main agent; its sub-agents run at even distances, while it waits for them."""
        shape = self._shape
        starts = {
            (place + 1) * shape.turns // (shape.sub_agents + 1): place
            for place in range(shape.sub_agents)
        }
        messages = self._opening()
        for number in range(shape.turns):
            result = self.text(shape.result_tokens)
            if number in starts:
                await self._sub_agent(f"sub-agent {starts[number] + 1}")
            await self._turn("main", number, messages, result)

    async def _sub_agent(self, name: str) -> None:
        messages = self._opening()
        for number in range(self._shape.sub_turns):
            await self._turn(name, number, messages, self.text(self._shape.result_tokens))

    def _opening(self) -> list[Any]:
        return [
            {"role": "system", "content": self._system},
            {"role": "user", "content": self.text(max(4, self._shape.answer_tokens // 4))},
        ]

    async def _turn(self, agent: str, number: int, messages: list[Any], result: str) -> None:
        """Send a prompt, and add the answer, a call and its result to the conversation."""
        began_s, first_s, said, usage, cached = time.perf_counter(), 0.0, "", None, 0
        stream = await self._client.chat.completions.create(
            model=self._model,
            messages=messages,
            tools=self._tools,
            max_tokens=self._shape.answer_tokens,
            temperature=1.0,
            seed=number,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"ignore_eos": True, "cache_prompt": True},
        )
        async for chunk in stream:
            delta = chunk.choices[0].delta if chunk.choices else None
            if delta and (delta.content or delta.tool_calls) and not first_s:
                first_s = time.perf_counter()
            said += (delta.content or "") if delta else ""
            if chunk.usage is not None:
                usage, cached = chunk.usage, _cached(chunk)
        end_s = time.perf_counter()
        assert usage is not None
        self.turns.append(
            Turn(
                agent,
                number,
                usage.prompt_tokens,
                cached,
                self._new_tokens(agent, usage.prompt_tokens, messages),
                usage.completion_tokens,
                (first_s or end_s) - began_s,
                end_s - began_s,
            )
        )
        call_id = f"{number:09d}"
        function = {"name": "tool_0", "arguments": json.dumps({"path": f"src/{number}.py"})}
        call = {"id": call_id, "type": "function", "function": function}
        messages.append({"role": "assistant", "content": said, "tool_calls": [call]})
        messages.append({"role": "tool", "tool_call_id": call_id, "content": result})

    def _new_tokens(self, agent: str, prompt_tokens: int, messages: list[Any]) -> int:
        """Return how many of a prompt's tokens come after all that the server has seen."""
        before = next((turn for turn in reversed(self.turns) if turn.agent == agent), None)
        if before is not None:
            return prompt_tokens - before.prompt_tokens - before.answer_tokens
        if not self.turns:
            return prompt_tokens
        return round(len(str(messages[-1]["content"]).split()) / self._words_a_token)


def _cached(chunk: Any) -> int:
    """Return the prompt's tokens that were not computed; llama.cpp's server has a field of its own."""
    details = chunk.usage.prompt_tokens_details
    if details is not None and details.cached_tokens is not None:
        return int(details.cached_tokens)
    timings: dict[str, Any] = (chunk.model_extra or {}).get("timings") or {}
    return int(timings.get("cache_n", 0))


async def words_a_token(client: AsyncOpenAI, model: str) -> float:
    """Return how many of our words make one token of a server's model."""
    counts: list[int] = []
    for words in (100, 600):
        text = " ".join(random.Random(words).choices(WORDS, k=words))
        answer = await client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}], max_tokens=1
        )
        assert answer.usage is not None
        counts.append(answer.usage.prompt_tokens)
    return 500 / (counts[1] - counts[0])


async def run_sessions(
    client: AsyncOpenAI, model: str, shape: Shape, sessions: int, seed: int
) -> list[list[Turn]]:
    """Run sessions at once; returns the turns of each."""
    ratio = await words_a_token(client, model)
    started = [Session(client, model, shape, ratio, seed + one) for one in range(sessions)]
    await asyncio.gather(*(session.run() for session in started))
    return [session.turns for session in started]
