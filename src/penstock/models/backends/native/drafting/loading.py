"""Loads a head that drafts into the native library, beside the model that it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.errors import ModelNotLoadable
from penstock.models.architecture import draft_heads
from penstock.models.architecture.facts import NotDescribed
from penstock.models.backends.native import loading, packing, reach
from penstock.models.backends.native.decoder import Decoder
from penstock.models.backends.native.drafting.head import HeadWeights, NativeHead
from penstock.models.backends.native.layout import Which
from penstock.models.backends.native.matrix import Layout
from penstock.models.backends.native.packing import Plan, Source
from penstock.models.catalogue.model_folder import read_config
from penstock.models.loading import checkpoint
from penstock.models.weights.checkpoint import Checkpoint

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from penstock.models.architecture.draft_heads import DraftHead
    from penstock.models.architecture.elements import Norm
    from penstock.models.backends.native.model import NativeModel
    from penstock.models.spec import ModelSpec


def take_mtp(spec: ModelSpec, model: NativeModel) -> int | None:
    """Have the head in a model's checkpoint draft; return its bytes, None if there is none.

    :raises ModelNotLoadable: it is there but cannot be used, in one line.
    """
    config = checkpoint.load_config(spec).to_dict()
    described = loading.described(spec, checkpoint.load_config(spec))
    weights = Checkpoint(spec.path)
    try:
        head = draft_heads.mtp(config, described, weights.has)
    except NotDescribed as reason:
        raise ModelNotLoadable(f"{spec.path}: {reason}") from reason
    if head is None:
        return None
    return _take(spec, model, head, weights)


def take_eagle3(spec: ModelSpec, model: NativeModel, path: Path) -> int:
    """Have the head of EAGLE-3 in a folder draft for a model; return its bytes.

    :raises ModelNotLoadable: with one line about the reason.
    """
    described = loading.described(spec, checkpoint.load_config(spec))
    weights = Checkpoint(path)
    try:
        head = draft_heads.eagle3(read_config(path), described, weights.has)
    except NotDescribed as reason:
        raise ModelNotLoadable(f"{path}: {reason}") from reason
    return _take(spec, model, head, weights)


def _take(spec: ModelSpec, model: NativeModel, head: DraftHead, weights: Checkpoint) -> int:
    layout = model.kv_layout
    if layout.window and not layout.has_full_layers:
        raise ModelNotLoadable(f"{weights.path}: all layers of the model release their blocks")
    reason = reach.beyond(head.body)
    if reason is not None or head.embedding_norm.kind != "rms":
        raise ModelNotLoadable(f"{weights.path}: {reason or 'norms of another kind'}")
    body, form = head.body, loading.format_of(spec, head.body)
    native = Decoder(
        loading.shape_of(body, small_cache=spec.kv_cache_type == "u8"), 1, beside=model.decoder
    )
    loading.set_traits(native, body, model.context_length, slides=frozenset())
    held = loading.set_unpacked(native, body, weights, form)
    table = model.decoder.embeddings
    if not head.shares_embeddings:
        own = weights.embeddings(f"{body.embeddings}.weight")
        table, held = own.values, held + own.nbytes
        if table.shape != model.decoder.embeddings.shape:
            raise ModelNotLoadable(f"{weights.path}: its embeddings are {table.shape}")
    shape = (body.vocab_size, body.hidden_size)
    # It is never read, since all rows are given: without a table of this shape zeros take no memory.
    native.set_embeddings(table if table.shape == shape else np.zeros(shape, np.uint16))
    plans = [
        plan
        for plan in packing.plans(body, weights)
        if plan.which is not Which.HEAD or not head.shares_head
    ]
    held += loading.set_matrices(
        native, plans, weights, form=form, spec=spec, progress=_report_nothing
    )
    if head.shares_head:
        native.share_head(model.decoder)
    plan = Plan(
        Which.HEAD, 0, Layout.STACKED, head.inputs * body.hidden_size, (Source(head.projection),)
    )
    packed, projection, order = packing.packed(plan, weights, form)
    if order is not None:
        raise ModelNotLoadable(f"{weights.path}: {head.projection.name} is stored in another order")
    norms = (
        _norm(head.embedding_norm, weights),
        None if head.hidden_norm is None else _norm(head.hidden_norm, weights),
    )
    targets = _targets(head, weights, model.vocab_size)
    model.take_head(
        NativeHead(head, native, HeadWeights(packed, projection, norms, table, targets))
    )
    return held + projection.nbytes


def _report_nothing(_share: float, _what: str) -> None:
    """A head is one layer: its load needs no progress of its own."""


def _norm(norm: Norm, weights: Checkpoint) -> NDArray[np.float32]:
    return weights.vector(f"{norm.name}.weight") + np.float32(norm.offset)


def _targets(head: DraftHead, weights: Checkpoint, vocab_size: int) -> NDArray[np.int64] | None:
    """Return the head's tokens in the model's vocabulary.

    :raises ModelNotLoadable: some are not in it.
    """
    count = head.body.vocab_size
    offsets: Any = np.zeros(count, np.int64)
    if head.target_ids is not None:
        offsets = weights.tensor(head.target_ids).long().numpy()
    elif count == vocab_size:
        return None
    if offsets.shape != (count,):
        raise ModelNotLoadable(f"{weights.path}: {head.target_ids} is {offsets.shape}")
    targets: NDArray[np.int64] = np.arange(count, dtype=np.int64) + offsets
    if targets.min() < 0 or targets.max() >= vocab_size:
        raise ModelNotLoadable(f"{weights.path}: it drafts tokens that the model does not have")
    return targets
