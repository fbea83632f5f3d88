"""LangChain's standard tests for chat models and embeddings, pointed at a running fleet.

Run in an environment of its own (scripts/foreign/setup.sh langchain):
    PENSTOCK_TEST_URL=http://127.0.0.1:8000 python -m pytest scripts/foreign/langchain_suite.py
"""

from __future__ import annotations

import os
from typing import Any

from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests

URL = os.environ["PENSTOCK_TEST_URL"]
MODEL = "demo"
COMMON: dict[str, Any] = {"model": MODEL, "api_key": "none", "temperature": 0}


class _Chat(ChatModelIntegrationTests):
    @property
    def chat_model_class(self) -> type[Any]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**COMMON, "base_url": f"{URL}/v1", "max_tokens": 300, "stream_usage": True}

    @property
    def has_tool_choice(self) -> bool:
        return True

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "tiny-llama"


class TestChat(_Chat):
    """Over /v1/chat/completions."""


class TestResponses(_Chat):
    """Over /v1/responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestAnthropic(_Chat):
    """Over /v1/messages."""

    @property
    def chat_model_class(self) -> type[Any]:
        return ChatAnthropic

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**COMMON, "base_url": URL, "max_tokens": 300, "stream_usage": True}


class TestEmbeddings(EmbeddingsIntegrationTests):
    """Over /v1/embeddings, with tiktoken's splitting into token ids left out."""

    @property
    def embeddings_class(self) -> type[Any]:
        return OpenAIEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {
            "model": MODEL,
            "api_key": "none",
            "base_url": f"{URL}/v1",
            "check_embedding_ctx_length": False,
        }
