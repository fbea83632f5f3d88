"""LangChain's standard tests for chat models and embeddings, pointed at a running fleet.

Run in an environment of its own (scripts/foreign/setup.sh langchain):
    PENSTOCK_TEST_URL=http://127.0.0.1:8000 python -m pytest scripts/foreign/langchain_suite.py
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import httpx
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI, OpenAIEmbeddings
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests.chat_models import ChatModelTests

URL = os.environ["PENSTOCK_TEST_URL"]
MODEL = "demo"
COMMON: dict[str, Any] = {"model": MODEL, "api_key": "none", "temperature": 0}

SEEING: dict[str, Any] = {
    "model": "tiny-llava",
    "api_key": "none",
    "temperature": 0,
    "max_tokens": 8,
}
PICTURE = Path(__file__).parents[2] / "docs" / "images" / "web-chat-phone.png"


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


class _Images(ChatModelTests):
    """Their test of images in messages, asked of the model that takes some, which calls no tools."""

    chat_model_class = _Chat.chat_model_class
    supports_image_inputs = True
    test_image_inputs = ChatModelIntegrationTests.test_image_inputs

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**SEEING, "base_url": f"{URL}/v1"}

    @pytest.fixture(autouse=True)
    def _picture(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Give them a picture of ours in place of the one that they fetch from the internet."""

        def get(url: str, **_: Any) -> httpx.Response:
            assert url.endswith(".png")
            return httpx.Response(200, content=PICTURE.read_bytes())

        monkeypatch.setattr(httpx, "get", get)


class TestChatImages(_Images):
    """Over /v1/chat/completions."""


class TestResponsesImages(_Images):
    """Over /v1/responses."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "use_responses_api": True}


class TestAnthropicImages(_Images):
    """Over /v1/messages."""

    chat_model_class = TestAnthropic.chat_model_class

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**SEEING, "base_url": URL}


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
