"""Opens the queues of a worker that loads its models on demand."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import msgspec

from penstock.errors import BadSettings
from penstock.models import devices, loader
from penstock.models.adapters.loaded import named_cards
from penstock.models.catalogue import footprint
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import cards
from penstock.models.spec import KEPT
from penstock.models.text import tokenizer_files
from workers.serving.loading import load, one_line, open_queue
from workers.serving.on_demand.absent_engine import AbsentEngine
from workers.serving.on_demand.model import OnDemand
from workers.serving.served_queue import ServedQueue, Sink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from penstock.contract.worker import ModelCard
    from penstock.models.backends.encoders import LoadedEncoder
    from penstock.models.loader import LoadedModel
    from penstock.models.spec import ModelSpec
    from penstock.models.text.tokenizer import Tokenizer
    from penstock.settings import Settings

    Publish = Callable[..., None]

_ADAPTED = frozenset({"native", "transformers"})
"""Backends that take adapters."""


def open_on_demand(
    specs: Sequence[ModelSpec], settings: Settings
) -> Callable[[Publish], list[ServedQueue]]:
    """Return what opens the queues of these models: most are in memory once they are asked for.

    Those that are never unloaded are loaded now. So is, once, a model that its files do not describe
    well enough for the API; it stays if there is room.

    :raises StartupError: one of them cannot be loaded now, or has no tokenizer.
    """
    _check(specs, settings)
    pinned = sum(spec.keep_alive_s == KEPT for spec in specs)
    room = settings.resident_models - pinned
    opened: list[Callable[[Publish], ServedQueue]] = []
    for spec in specs:
        is_pinned = spec.keep_alive_s == KEPT
        if _is_described(spec) and not is_pinned:
            opened.append(partial(_expected, spec, settings, *_first_look(spec, settings)))
            continue
        loaded = load(spec, settings)
        stays = is_pinned or room > 0
        room -= stays and not is_pinned
        if stays:
            opened.append(partial(_loaded, spec, settings, loaded))
        else:
            opened.append(partial(_expected, spec, settings, loaded.card, loaded.tokenizer))
    return lambda publish: [one(publish) for one in opened]


def _check(specs: Sequence[ModelSpec], settings: Settings) -> None:
    for spec in specs:
        if spec.tensor_parallel > 1:
            raise BadSettings(
                f"PENSTOCK_RESIDENT_MODELS: {spec.queue} is shared by several GPUs: "
                f"it is not loaded on demand; give it a worker of its own"
            )
    pinned = [spec.queue for spec in specs if spec.keep_alive_s == KEPT]
    if len(pinned) > settings.resident_models or len(pinned) == settings.resident_models < len(
        specs
    ):
        raise BadSettings(
            f"PENSTOCK_RESIDENT_MODELS = {settings.resident_models}: {', '.join(pinned)} stay in "
            f"memory (keep_alive_s = {KEPT}) and leave no room for another model"
        )


def _is_described(spec: ModelSpec) -> bool:
    """Whether a model's files alone make its card: a text model whose vocabulary is stated."""
    config = read_config(spec.path)
    sees = spec.images and "vision_config" in config
    return spec.task == "generate" and not sees and cards.vocab_size(spec, config) > 0


def _first_look(spec: ModelSpec, settings: Settings) -> tuple[ModelCard, Tokenizer]:
    """Return the card and the tokenizer of a model that is not loaded.

    :raises StartupError: it has no tokenizer, or names adapters that cannot be used.
    """
    with one_line(spec.queue, str(spec.path)):
        words = tokenizer_files.load(spec, cards.vocab_size(spec))
        slots = loader.slots_of(spec, settings)
        card = cards.expected_card(spec, words, slots=slots)
        words.most_tokens = card.context_length
        rules = loader.adapter_rules(spec, settings) if spec.backend in _ADAPTED else None
        card = msgspec.structs.replace(
            card,
            spare_slots=loader.spare_slots(slots, settings),
            adapters=() if rules is None else named_cards(rules),
            most_adapters=0 if rules is None else rules.most,
        )
    return card, words


def _expected(
    spec: ModelSpec, settings: Settings, card: ModelCard, words: Tokenizer, publish: Publish
) -> ServedQueue:
    """Return the queue of a model that is not in memory."""
    served = ServedQueue(
        card=card, tokenizer=words, engine=AbsentEngine(), sink=Sink(publish), open=False
    )
    served.on_demand = _on_demand(spec, settings, publish)
    return served


def _loaded(
    spec: ModelSpec, settings: Settings, loaded: LoadedModel | LoadedEncoder, publish: Publish
) -> ServedQueue:
    served = open_queue(loaded, publish)
    served.on_demand = _on_demand(spec, settings, publish)
    served.on_demand.loaded(0.0)
    return served


def _on_demand(spec: ModelSpec, settings: Settings, publish: Publish) -> OnDemand:
    size = footprint.measure(spec)
    kv_bytes = min(size.kv_bytes, settings.kv_cache_bytes or spec.kv_cache_bytes or size.kv_bytes)
    device = devices.torch_device(spec)
    is_pinned = spec.keep_alive_s == KEPT
    return OnDemand(
        load=partial(_load, spec, settings, publish),
        needed_bytes=size.weights_bytes + kv_bytes,
        free_bytes=lambda: devices.free_bytes(device),
        keep_alive_s=None if is_pinned else spec.keep_alive_s,
        is_pinned=is_pinned,
    )


def _load(spec: ModelSpec, settings: Settings, publish: Publish, served: ServedQueue) -> None:
    """Load a model into its queue.

    :raises StartupError: it cannot be loaded.
    """
    fresh = open_queue(load(spec, settings), publish, served.answers)
    served.card, served.tokenizer, served.sink = fresh.card, fresh.tokenizer, fresh.sink
    served.vision, served.adapters, served.answers = fresh.vision, fresh.adapters, fresh.answers
    served.engine, served.store = fresh.engine, fresh.store
