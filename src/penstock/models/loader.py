"""Loads a spec into a model that is ready to serve: backend, tokenizer, KV cache, card."""

from __future__ import annotations

import importlib
import logging
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.engine.drafting.head_drafts import has_head
from penstock.engine.model import can_take_images
from penstock.errors import ModelNotLoadable
from penstock.models import devices
from penstock.models.adapters.adapter import AdapterModel
from penstock.models.adapters.folder import Bounds
from penstock.models.adapters.loaded import AdapterRules, LoadedAdapters
from penstock.models.loading import (
    cards,
    checkpoint,
    draft_heads,
    drafts,
    engine_options,
    kv_budget,
)
from penstock.models.loading.kv_store import open_store
from penstock.models.text import tokenizer_files
from penstock.models.vision import loading as vision_loading
from penstock.models.vision.prompts import Vision

if TYPE_CHECKING:
    from penstock.contract.worker import ModelCard
    from penstock.engine.drafting.draft_model import DraftModel
    from penstock.engine.model import Model
    from penstock.engine.options import EngineOptions
    from penstock.engine.reuse.kv_store import KVStore
    from penstock.models.loading.assembled import Assembled, Progress
    from penstock.models.spec import ModelSpec
    from penstock.models.text.tokenizer import Tokenizer
    from penstock.settings import Settings

logger = logging.getLogger(__name__)

DEFAULT_SLOTS = 16
GPU_SLOTS = 64
MOST_SPARE_SLOTS = 64
CHUNK_TOKENS = 256
GPU_CHUNK_TOKENS = 2048

_BACKENDS = {
    "transformers": "penstock.models.backends.transformers.model",
    "bigdl": "penstock.models.backends.bigdl",
    "openvino": "penstock.models.backends.openvino",
    "native": "penstock.models.backends.native.loading",
}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its KV cache allocated, its tokenizer, its card and its engine options."""

    model: Model
    tokenizer: Tokenizer
    card: ModelCard
    options: EngineOptions
    vision: Vision | None = None
    store: KVStore | None = None
    draft_model: DraftModel | None = None
    adapters: LoadedAdapters | None = None


def check_device(spec: ModelSpec) -> None:
    """Check that the spec's device is available.

    :raises DeviceNotFound: with one line about what is missing.
    """
    devices.check(spec)


def load(
    spec: ModelSpec, settings: Settings, *, slots: int | None, progress: Progress
) -> LoadedModel:
    """Load a model that generates text and allocate its KV cache.

    Precedence of the number of slots: the settings (`PENSTOCK_SLOTS`, or Celery's `-c`), the
    model's entry, `slots`, 16 on a CPU or 64 on a GPU. The KV cache holds what the slots can fill
    at full context, within its budget.

    :raises DeviceNotFound: the device is not available.
    :raises ModelNotLoadable: with one line about the reason.
    """
    devices.check(spec)
    devices.set_threads(settings.threads)
    progress(0.0, f"loading {spec.name} with {spec.backend}")
    assembled = draft_heads.with_head(spec, settings, _backend(spec).load(spec, progress))
    words = tokenizer_files.load(spec, assembled.model.vocab_size)
    vision = _vision(spec, assembled.model, words)
    adapters = _adapters(spec, assembled.model, settings)
    device = devices.device_of(spec)
    on_gpu = device.kind != "cpu"
    count = slots_of(spec, settings, slots)
    chunk = settings.prefill_chunk_tokens or (GPU_CHUNK_TOKENS if on_gpu else CHUNK_TOKENS)
    lone = engine_options.lone_chunk_tokens(assembled, device, settings)
    spare = _spare_slots(assembled, count, settings)
    draft = _draft(spec, settings, words, sequences=count + spare, progress=progress)
    progress(0.9, "allocating the KV cache")
    room = kv_budget.allocate(
        assembled.model,
        device,
        slots=count,
        spare_slots=spare,
        step_tokens=max(chunk, lone),
        budget_bytes=settings.kv_cache_bytes or spec.kv_cache_bytes or 0,
        where=f"queue {spec.queue!r}",
    )
    kv_tokens = room.blocks * assembled.model.kv_layout.block_size
    if kv_tokens < assembled.model.context_length:
        logger.warning(
            "%s: the KV cache has room for %d tokens: the context is reduced from %d to that",
            spec.queue,
            kv_tokens,
            assembled.model.context_length,
        )
        assembled.model.context_length = kv_tokens
    words.most_tokens = assembled.model.context_length
    progress(1.0, "ready")
    card = cards.loaded_card(spec, assembled, words, slots=count, kv_tokens=kv_tokens)
    card = msgspec.structs.replace(
        card,
        spare_slots=spare,
        adapters=adapters.named if adapters else (),
        most_adapters=adapters.most if adapters else 0,
    )
    options = engine_options.engine_options(
        spec,
        settings,
        card,
        room,
        chunk_tokens=chunk,
        lone_tokens=lone,
        headed=has_head(assembled.model),
    )
    store = open_store(spec, assembled, settings)
    return LoadedModel(assembled.model, words, card, options, vision, store, draft, adapters)


def slots_of(spec: ModelSpec, settings: Settings, slots: int | None = None) -> int:
    """Return how many sequences a model that generates text decodes at once; see `load`."""
    default = DEFAULT_SLOTS if spec.device == "cpu" else GPU_SLOTS
    return settings.slots or spec.slots or slots or default


def adapter_rules(spec: ModelSpec, settings: Settings) -> AdapterRules | None:
    """Return which adapters a worker loads for a model; None if it may take none."""
    if spec.tensor_parallel > 1 or not settings.max_adapters:
        return None
    bounds = Bounds(settings.max_adapter_rank, settings.max_adapter_bytes)
    return AdapterRules(bounds, settings.max_adapters, settings.adapters_dir, spec.adapters)


def _adapters(spec: ModelSpec, model: Model, settings: Settings) -> LoadedAdapters | None:
    """Return the model's adapters; None if it takes none.

    :raises ModelNotLoadable: the models file names adapters that cannot be used.
    """
    rules = adapter_rules(spec, settings)
    if rules is None or not isinstance(model, AdapterModel):
        if spec.adapters:
            raise ModelNotLoadable(
                f"queue {spec.queue!r}: backend {spec.backend!r} takes no adapters here, "
                f"or PENSTOCK_MAX_ADAPTERS is 0"
            )
        return None
    return LoadedAdapters(model, rules)


def _vision(spec: ModelSpec, model: Model, words: Tokenizer) -> Vision | None:
    """Load the part of the checkpoint that reads images, if the model can take what it gives."""
    if not spec.images or not can_take_images(model):
        return None
    tower = vision_loading.load(spec)
    if tower is None:
        return None
    if not model.take_images(tower.rotary, mutual=tower.mutual):
        logger.warning(
            "%s: images are not taken: the backend %s cannot compute them for this model",
            spec.queue,
            spec.backend,
        )
        return None
    words.image_token = tower.image_token
    return Vision(words, tower)


def _draft(
    spec: ModelSpec, settings: Settings, words: Tokenizer, *, sequences: int, progress: Progress
) -> DraftModel | None:
    """Load the model that drafts for this one, if there is one."""
    small = spec.draft
    if small is None or (spec.speculation or settings.speculation) == "off":
        return None

    def show(_share: float, what: str) -> None:
        progress(0.9, f"{small.name}: {what}")

    assembled = _backend(small).load(small, show)
    device = devices.device_of(spec)
    return drafts.prepare(spec, assembled, words, device, sequences=sequences)


def _spare_slots(assembled: Assembled, slots: int, settings: Settings) -> int:
    """Return the extra slots for jobs of dead workers; 0 if each sequence has its own memory."""
    return spare_slots(slots, settings) if assembled.batching == "continuous" else 0


def spare_slots(slots: int, settings: Settings) -> int:
    """Return the extra slots of a model that batches continuously."""
    return min(math.ceil(slots * settings.spare_slots), MOST_SPARE_SLOTS)


def _backend(spec: ModelSpec) -> Any:
    try:
        if spec.tensor_parallel > 1:
            return importlib.import_module("penstock.models.backends.tensor_parallel.loading")
        return importlib.import_module(_BACKENDS[spec.backend])
    except ImportError as error:
        raise ModelNotLoadable(
            f"queue {spec.queue!r}: backend {spec.backend!r} is not installed: "
            f"{checkpoint.first_line(error)}"
        ) from error
