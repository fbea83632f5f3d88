"""What Ollama's clients send and this server does not run: left out of the request, and reported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeVar, cast

from api.access.dependencies import services_of
from api.http.json_body import read_object, validated
from api.http.record import record_of
from api.ollama.as_chat import MOST_TEMPERATURE
from api.ollama.schema import (
    Asked,
    EmbeddingsRequest,
    EmbedRequest,
    GenerateRequest,
    OllamaOptions,
)
from api.openai.unsupported import NOTHING, Rule

if TYPE_CHECKING:
    from starlette.requests import Request

    from api.http.warnings import Warnings

Schema = TypeVar("Schema", bound=Asked | EmbedRequest | EmbeddingsRequest)

BODY: Final = Rule(
    left_out={
        "context": NOTHING,
        "logprobs": NOTHING,
        "top_logprobs": (None, 0),
        "shift": (None, False),
        "truncate": (None, False),
    },
    without_effect=frozenset({"options"}),
)
"""A prompt that is too long is refused, as `truncate` and `shift` false ask for."""

OPTIONS: Final = Rule(
    left_out={
        "mirostat": (None, 0),
        "mirostat_eta": (None,),
        "mirostat_tau": (None,),
        "repeat_last_n": (None,),
        "tfs_z": (None, 1, 1.0),
        "typical_p": (None, 1, 1.0),
    },
    without_effect=frozenset(
        {
            "draft_num_predict", "embedding_only", "f16_kv", "logits_all", "low_vram", "main_gpu",
            "num_batch", "num_ctx", "num_gpu", "num_gqa", "num_keep", "num_thread", "numa",
            "penalize_newline", "rope_frequency_base", "rope_frequency_scale", "use_mlock",
            "use_mmap", "vocab_only",
        }
    ),
    within="options",
)  # fmt: skip
"""Those without effect set up a runner, which is the operator's part here."""


async def read_request(request: Request, schema: type[Schema]) -> Schema:
    """Return the body as `schema`; what is left out of it is reported in the answer's header.

    :raises PenstockError: as `api.http.json_body.read_json`.
    """
    body = await read_object(request, services_of(request).settings.max_body_bytes)
    asked = validated(body, schema)
    warnings = record_of(request).warnings
    BODY.apply(body, schema.model_fields, warnings)
    options = body.get("options")
    if isinstance(options, dict):
        chosen = cast("dict[str, Any]", options)
        OPTIONS.apply(chosen, OllamaOptions.model_fields, warnings)
    if isinstance(asked, Asked):
        _report_changes(asked, warnings)
    return asked


def _report_changes(asked: Asked, warnings: Warnings) -> None:
    """Report what is served in another way than it is written."""
    temperature = asked.options.temperature if asked.options else None
    if temperature is not None and temperature > MOST_TEMPERATURE:
        warnings.add(f"options.temperature: taken as {MOST_TEMPERATURE}, the highest")
    if isinstance(asked, GenerateRequest) and asked.think and (asked.raw or asked.suffix):
        warnings.add("think: no effect on a prompt that goes past the chat template")
