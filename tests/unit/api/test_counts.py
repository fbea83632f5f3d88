"""Counts and lengths of what clients send, each at its bound and just past it."""

from __future__ import annotations

from typing import Any

import pytest

from api.anthropic.schema import MOST_MESSAGES, MessagesRequest
from api.http.json_body import validated
from api.http.middleware import LONGEST_REQUEST_ID, REQUEST_ID
from api.ollama import schema as ollama
from api.ollama.schema import EmbedRequest, OllamaChatRequest
from api.openai.chat import structure_schema
from api.openai.rerank import MAX_DOCUMENTS, RerankRequest
from api.openai.responses.schema import MOST_ITEMS, MOST_METADATA, ResponseRequest
from api.openai.schema import (
    LONGEST_MODEL,
    LONGEST_STOP,
    MAX_BEST_OF,
    MAX_CHOICES,
    MAX_LOGIT_BIAS,
    MAX_LOGPROBS,
    MAX_MESSAGES,
    MAX_STOPS,
    ChatRequest,
    CompletionRequest,
)
from penstock.errors import InvalidParameter

USER = {"role": "user", "content": ""}
CHAT = {"model": "m", "messages": [USER]}
COMPLETION = {"model": "m", "prompt": "p"}
RERANK = {"model": "m", "query": "q", "documents": ["d"]}
RESPONSE = {"model": "m", "input": "i"}
MESSAGES = {"model": "m", "max_tokens": 1, "messages": [USER]}


def tools(count: int) -> list[Any]:
    return [{"type": "function", "function": {"name": f"f{n}"}} for n in range(count)]


@pytest.mark.parametrize(
    ("schema", "body", "field", "bound", "of"),
    [
        (ChatRequest, CHAT, "model", LONGEST_MODEL, lambda n: "m" * n),
        (ChatRequest, CHAT, "messages", MAX_MESSAGES, lambda n: [USER] * n),
        (ChatRequest, CHAT, "n", MAX_CHOICES, int),
        (ChatRequest, CHAT, "stop", MAX_STOPS, lambda n: ["s"] * n),
        (ChatRequest, CHAT, "stop", LONGEST_STOP, lambda n: "s" * n),
        (ChatRequest, CHAT, "stop_token_ids", MAX_STOPS, lambda n: [1] * n),
        (ChatRequest, CHAT, "logit_bias", MAX_LOGIT_BIAS, lambda n: dict.fromkeys(map(str, range(n)), 1)),
        (ChatRequest, {**CHAT, "logprobs": True}, "top_logprobs", MAX_LOGPROBS, int),
        (ChatRequest, CHAT, "tools", structure_schema.MAX_TOOLS, tools),
        (ChatRequest, CHAT, "guided_choice", structure_schema.MAX_CHOICES, lambda n: ["c"] * n),
        (ChatRequest, CHAT, "guided_regex", structure_schema.MAX_PATTERN, lambda n: "r" * n),
        (ChatRequest, CHAT, "guided_grammar", structure_schema.MAX_PATTERN, lambda n: "g" * n),
        (CompletionRequest, COMPLETION, "best_of", MAX_BEST_OF, int),
        (RerankRequest, RERANK, "documents", MAX_DOCUMENTS, lambda n: ["d"] * n),
        (ResponseRequest, RESPONSE, "input", MOST_ITEMS, lambda n: [{}] * n),
        (ResponseRequest, RESPONSE, "metadata", MOST_METADATA, lambda n: dict.fromkeys(map(str, range(n)), "")),
        (OllamaChatRequest, CHAT, "messages", ollama.MAX_MESSAGES, lambda n: [USER] * n),
        (OllamaChatRequest, CHAT, "tools", ollama.MAX_TOOLS, lambda n: [{}] * n),
        (EmbedRequest, {"model": "m", "input": "i"}, "input", ollama.MAX_INPUTS, lambda n: ["t"] * n),
        (MessagesRequest, MESSAGES, "messages", MOST_MESSAGES, lambda n: [USER] * n),
    ],
)  # fmt: skip
def test_a_field_at_its_bound_and_past_it(
    schema: Any, body: dict[str, Any], field: str, bound: int, of: Any
) -> None:
    validated({**body, field: of(bound)}, schema)
    with pytest.raises(InvalidParameter) as caught:
        validated({**body, field: of(bound + 1)}, schema)
    assert (caught.value.param or "").startswith(field)


def test_a_request_id_at_its_bound() -> None:
    assert REQUEST_ID.fullmatch("r" * LONGEST_REQUEST_ID)
    assert not REQUEST_ID.fullmatch("r" * (LONGEST_REQUEST_ID + 1))
    assert not REQUEST_ID.fullmatch("")
