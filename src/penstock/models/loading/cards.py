"""Cards of models that generate text: of a loaded one, and of one that is not loaded yet."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from penstock.clock import clock
from penstock.contract.worker import IMAGES, ModelCard
from penstock.engine.model import shows_hidden
from penstock.models.catalogue import footprint
from penstock.models.catalogue.model_folder import read_config, stored_format
from penstock.models.loading.checkpoint import DEFAULT_CONTEXT

if TYPE_CHECKING:
    from penstock.engine.model import Model
    from penstock.models.loading.assembled import Assembled
    from penstock.models.spec import ModelSpec
    from penstock.models.text.tokenizer import Tokenizer

_GENERATION_KEYS: Final = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def loaded_card(
    spec: ModelSpec, assembled: Assembled, words: Tokenizer, *, slots: int, kv_tokens: int
) -> ModelCard:
    """Return the card of a model that is loaded, without what it takes beside its slots."""
    model = assembled.model
    return ModelCard(
        name=spec.name,
        queue=spec.queue,
        device=spec.device,
        backend=assembled.backend,
        format=assembled.format,
        stored=assembled.kept.label,
        weight_error=assembled.kept.error,
        architecture=assembled.architecture,
        parameters=assembled.parameters,
        weights_bytes=assembled.weights_bytes,
        context_length=model.context_length,
        vocab_size=model.vocab_size,
        slots=slots,
        kv_cache_tokens=kv_tokens,
        capabilities=_capabilities(model, words),
        batching=assembled.batching,
        running=assembled.running,
        same_text=assembled.backend == "native",
        **_stated(spec, words),
    )


def expected_card(spec: ModelSpec, words: Tokenizer, *, slots: int) -> ModelCard:
    """Return the card of a model as its files have it; loading it may give it less context."""
    config = read_config(spec.path)
    size = footprint.measure(spec)
    architectures: list[str] = config.get("architectures") or []
    fim = ("fim",) if words.fill_in is not None else ()
    return ModelCard(
        name=spec.name,
        queue=spec.queue,
        device=spec.device,
        backend=spec.backend,
        format=spec.format or stored_format(config),
        architecture=next(iter(architectures), ""),
        parameters=size.parameters,
        weights_bytes=size.weights_bytes,
        context_length=size.context_length or DEFAULT_CONTEXT,
        vocab_size=vocab_size(spec, config),
        slots=slots,
        kv_cache_tokens=0,
        capabilities=("generate", "structure", "embed", *fim),
        **_stated(spec, words),
    )


def vocab_size(spec: ModelSpec, config: dict[str, Any] | None = None) -> int:
    """Return the size of a model's vocabulary, as its configuration has it; 0 if it does not."""
    config = read_config(spec.path) if config is None else config
    parts: list[dict[str, Any]] = [config, config.get("text_config") or {}]
    sizes = (part.get(name) for part in parts for name in ("vocab_size", "padded_vocab_size"))
    return next((size for size in sizes if isinstance(size, int) and size > 0), 0)


def _stated(spec: ModelSpec, words: Tokenizer) -> dict[str, Any]:
    """Return the fields of a card that the model's files and its entry decide."""
    stated = read_config(spec.path, "generation_config.json")
    defaults = {key: stated[key] for key in _GENERATION_KEYS if stated.get(key) is not None}
    if stated.get("do_sample") is False:
        defaults = {}
    return {
        "aliases": spec.aliases,
        "has_chat_template": words.has_chat_template,
        "tool_parser": words.dialect.tool_parser,
        "reasoning": words.dialect.card_markers,
        "generation_defaults": {**defaults, **spec.generation_defaults},
        "stop_strings": (*words.stop_strings, *_stops(spec.generation_defaults)),
        "stop_token_ids": tuple(sorted(words.eos_token_ids)),
        "created_s": int(clock.now_s()),
        "longest_token_chars": words.longest_token_chars,
    }


def _stops(defaults: dict[str, Any]) -> tuple[str, ...]:
    """Return the strings that the models file ends every answer at, whether it gives one or more."""
    stop: str | list[str] = defaults.get("stop") or []
    return (stop,) if isinstance(stop, str) else tuple(stop)


def _capabilities(model: Model, words: Tokenizer) -> tuple[str, ...]:
    optional = {
        "embed": shows_hidden(model),
        "fim": words.fill_in is not None,
        IMAGES: words.image_token is not None,
    }
    return ("generate", "structure", *(name for name, has in optional.items() if has))
