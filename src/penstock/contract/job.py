"""A job: what the API requests from a worker."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from penstock.contract.adapter import AdapterCard
from penstock.contract.structure import Structure

WHOLE = 0
"""`truncate` of a prompt that must not be truncated."""
TO_CONTEXT = -1
"""`truncate` of a prompt that is truncated to the model's context."""


IMAGE_PART = "image"
"""The type of a message's part that stands for an image."""


IMAGE_PLACE = "$$<image>$$"
"""What stands for an image in the text of a prompt that has some; the marker is FastChat's."""


class TextPrompt(msgspec.Struct, frozen=True, tag="text", omit_defaults=True):
    """Text that is tokenised as is.

    `add_special_tokens` lets the tokenizer add its own (BOS); it is off for prompts that a chat
    template has rendered already. `truncate` is the number of tokens to keep, or `WHOLE`, or
    `TO_CONTEXT`. `images` are digests, one for each `IMAGE_PLACE` in the text, as in `ChatPrompt`;
    without any, the text has no places.
    """

    text: str
    add_special_tokens: bool = True
    truncate: int = WHOLE
    images: tuple[str, ...] = ()


class TokenPrompt(msgspec.Struct, frozen=True, tag="tokens", omit_defaults=True):
    """Token ids as the client sent them; `truncate` as in `TextPrompt`."""

    token_ids: tuple[int, ...]
    truncate: int = WHOLE


class PairPrompt(msgspec.Struct, frozen=True, tag="pair", omit_defaults=True):
    """Two texts that a cross-encoder scores together; `truncate` as in `TextPrompt`."""

    first: str
    second: str
    truncate: int = WHOLE


class FillPrompt(msgspec.Struct, frozen=True, tag="fill"):
    """The texts before and after a gap that is to be filled in."""

    before: str
    after: str


class ChatPrompt(msgspec.Struct, frozen=True, tag="chat"):
    """Messages in OpenAI's format; the worker renders them with the model's chat template.

    A part of type `image` in a message's content names its bytes by `digest`; they are in Redis
    beside the job. `template_kwargs` are passed to the template unchanged (`enable_thinking`,
    ...).
    """

    messages: tuple[dict[str, Any], ...]
    tools: tuple[dict[str, Any], ...] = ()
    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template_kwargs: dict[str, Any] = {}

    @property
    def images(self) -> list[str]:
        """The digests of its images, in the order of the messages."""
        digests: list[str] = []
        for message in self.messages:
            content: Any = message.get("content")
            parts = cast("list[Any]", content) if isinstance(content, list) else []
            for part in parts:
                fields = cast("dict[str, Any]", part) if isinstance(part, dict) else {}
                if fields.get("type") == IMAGE_PART and "digest" in fields:
                    digests.append(str(fields["digest"]))
        return digests


Prompt = TextPrompt | TokenPrompt | ChatPrompt | PairPrompt | FillPrompt


class Sampling(msgspec.Struct, frozen=True, omit_defaults=True):
    """How tokens are chosen and when to stop.

    `seed` is always set (the API draws one if the client gave none), so that another worker can
    continue a sampled text exactly. `temperature` 0 is greedy. `top_k` 0 is off.
    `max_tokens` None means as many as fit into the context.
    `logprobs` None is off; k asks for the log probabilities of the chosen token and the k best.
    `structure` is the form that the whole answer must have.
    """

    seed: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: dict[int, float] = {}
    max_tokens: int | None = None
    min_tokens: int = 0
    ignore_eos: bool = False
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    logprobs: int | None = None
    structure: Structure | None = None


class Generate(msgspec.Struct, frozen=True, tag="generate"):
    """Decode text after a prompt. `echo` puts the prompt's text before the first token's.

    `fit_context` reduces `max_tokens` to the room left in the context, for clients that mean "as
    many as possible"; without it, such a job fails with `ContextOverflow`. `embed` asks for the
    prompt's embedding, with `max_tokens` 0; for a pair, for its score.
    """

    prompt: Prompt
    sampling: Sampling
    echo: bool = False
    fit_context: bool = False
    embed: bool = False


Work = Generate


class Head(msgspec.Struct, frozen=True, array_like=True):
    """A beginning of a prompt, as the API knows it: some of its messages, or a part of its text.

    Equal `digest`s (hexadecimal) mean equal beginnings. `tokens` is an estimate. `kept` heads are
    those by which the worker that computes the prompt is found again.
    """

    digest: str
    tokens: int
    kept: bool = False


class Job(msgspec.Struct, frozen=True):
    """One unit of queueing: one sequence of one request (`n=3` makes three jobs).

    `queue` is `<model>-<device>`. `reply` is the pub/sub channel of the API process that serves the
    client. `deadline_ms` is Unix time by Redis's clock. `priority` goes from 0 (first) to 9 (last);
    5 is the default. `cost_tokens` is the job's weight in its tenant's fair share and in the
    queue's limit (prompt estimate + max_tokens). `digest` identifies the request's contents if the
    client named the request: the same name with another digest is an error. `trace` is the
    request's W3C `traceparent`, if it is traced. `heads` are beginnings of its prompt, the shortest
    first. `adapter` changes the queue's model for this job.
    """

    id: str
    queue: str
    model: str
    work: Work
    reply: str
    deadline_ms: int
    created_ms: int
    tenant: str = "anonymous"
    priority: int = 5
    cost_tokens: int = 1
    request_id: str = ""
    digest: str = ""
    trace: str = ""
    heads: tuple[Head, ...] = ()
    adapter: AdapterCard | None = None
