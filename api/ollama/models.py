"""GET /api/version, /api/tags and /api/ps; POST /api/show."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from starlette.requests import Request  # noqa: TC002  FastAPI reads the annotation
from starlette.responses import Response  # noqa: TC002  FastAPI reads the annotation

from api.access.dependencies import services_of
from api.endpoint import Router
from api.http.errors import json_response
from api.http.json_body import read_json
from api.http.record import record_of
from api.jobs.catalogue import catalogue
from api.jobs.routing import look_up
from api.ollama.names import plain_name
from api.ollama.schema import ShowRequest
from penstock.errors import InvalidParameter

if TYPE_CHECKING:
    from collections.abc import Sequence

    from penstock.contract.worker import ModelCard, WorkerCard

Json = dict[str, Any]

router = Router()

VERSION: Final = "0.13.0"
"""Of Ollama's API as it is spoken here; clients compare it with what they need."""
FOR_EVER: Final = "2999-01-01T00:00:00Z"
"""When a model is unloaded that a worker holds until it ends, or until another one needs its place."""
BILLION: Final = 1_000_000_000
MILLION: Final = 1_000_000


@router.endpoint("/api/version", method="GET")
async def version() -> Response:
    """Return the version of the API."""
    return json_response({"version": VERSION})


@router.endpoint("/api/tags", method="GET")
async def tags(request: Request) -> Response:
    """List what live workers serve.

    :raises StoreUnavailable: Redis has been away for too long to know.
    """
    return json_response({"models": [_entry(*served) for served in _served(request)]})


@router.endpoint("/api/ps", method="GET")
async def ps(request: Request) -> Response:
    """List what is in memory.

    :raises StoreUnavailable: Redis has been away for too long to know.
    """
    registry = services_of(request).registry
    listed = [
        {
            **_entry(name, card),
            "expires_at": _expiry(registry.workers(), card),
            "size_vram": 0 if card.device == "cpu" else card.weights_bytes,
            "context_length": card.context_length,
        }
        for name, card in _served(request)
        if registry.status_of(card) in {"loaded", "unloading"}
    ]
    return json_response({"models": listed})


def _expiry(workers: Sequence[WorkerCard], card: ModelCard) -> str:
    """Return when the last worker unloads a model that nobody uses until then."""
    states = [
        worker.states.get(card.queue)
        for worker in workers
        if any(model.queue == card.queue for model in worker.models)
    ]
    times_ms = [0 if state is None else state.unload_ms for state in states]
    return _time(max(times_ms) // 1000) if times_ms and all(times_ms) else FOR_EVER


@router.endpoint("/api/show", ShowRequest)
async def show(request: Request) -> Response:
    """Show one model.

    :raises UnknownModel, NotPermitted, NoWorker, StoreUnavailable: as a chat would.
    """
    services = services_of(request)
    asked = await read_json(request, ShowRequest, services.settings.max_body_bytes)
    if (named := asked.model or asked.name) is None:
        raise InvalidParameter("model: is missing", param="model")
    name = plain_name(request, services, named)
    card = look_up(services, name)
    record_of(request).caller.check_model(name, card)
    family = _family(card)
    return json_response(
        {
            "modelfile": f"FROM {name}",
            "parameters": "\n".join(
                f"{key} {value}" for key, value in sorted(card.generation_defaults.items())
            ),
            "template": "",
            "details": _details(card),
            "model_info": {
                "general.architecture": family,
                "general.parameter_count": card.parameters,
                f"{family}.context_length": card.context_length,
                f"{family}.vocab_size": card.vocab_size,
                **(
                    {f"{family}.embedding_length": card.embedding.dimensions}
                    if card.embedding
                    else {}
                ),
            },
            "capabilities": _capabilities(card),
            "modified_at": _time(card.created_s),
        }
    )


def _served(request: Request) -> list[tuple[str, ModelCard]]:
    services = services_of(request)
    services.registry.known()  # raises while Redis is away: an empty list would be a lie
    return list(catalogue(services, record_of(request).caller).items())


def _entry(name: str, card: ModelCard) -> Json:
    own = card.adapter.digest if card.adapter else ""
    return {
        "name": name,
        "model": name,
        "modified_at": _time(card.created_s),
        "size": card.weights_bytes,
        "digest": hashlib.sha256(f"{card.queue}:{card.format}:{own}".encode()).hexdigest(),
        "details": _details(card),
    }


def _details(card: ModelCard) -> Json:
    family = _family(card)
    return {
        "parent_model": card.parent,
        "format": card.backend,
        "family": family,
        "families": [family],
        "parameter_size": _parameters(card.parameters),
        "quantization_level": card.format,
    }


def _family(card: ModelCard) -> str:
    """Return the architecture as Ollama writes it: `LlamaForCausalLM` is `llama`."""
    name = card.architecture
    for end in ("ForCausalLM", "ForConditionalGeneration", "ForSequenceClassification", "Model"):
        name = name.removesuffix(end)
    return name.lower() or "unknown"


def _parameters(count: int) -> str:
    return f"{count / BILLION:.1f}B" if count >= BILLION else f"{count / MILLION:.2f}M"


def _capabilities(card: ModelCard) -> list[str]:
    """Return Ollama's words for what a model can do."""
    can = card.capabilities
    return [
        *(["completion"] if "generate" in can else []),
        *(["tools"] if "generate" in can and card.tool_parser else []),
        *(["insert"] if "fim" in can else []),
        *(["thinking"] if card.reasoning else []),
        *(["embedding"] if "embed" in can else []),
    ]


def _time(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")
