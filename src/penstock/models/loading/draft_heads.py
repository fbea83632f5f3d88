"""Heads that draft: the one in a model's checkpoint, or one that its entry names."""

from __future__ import annotations

import importlib
import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from penstock.errors import ModelNotLoadable
from penstock.models.catalogue.model_folder import read_config, states_mtp
from penstock.models.loading import engine_options

if TYPE_CHECKING:
    from penstock.models.loading.assembled import Assembled
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

logger = logging.getLogger(__name__)


def with_head(spec: ModelSpec, settings: Settings, assembled: Assembled) -> Assembled:
    """Have a head draft for a model, if there is one and drafts are on.

    A head in the checkpoint that cannot be used is left out with a line that has the reason.

    :raises ModelNotLoadable: the model's entry names a head that cannot be used.
    """
    if not engine_options.speculates(
        spec,
        settings,
        backend=assembled.backend,
        device=spec.device,
        parameters=assembled.parameters,
    ):
        return assembled
    if spec.eagle3 is None and (spec.draft is not None or not states_mtp(read_config(spec.path))):
        return assembled
    try:
        held = _take(spec, assembled)
    except ModelNotLoadable as reason:
        if spec.eagle3 is not None:
            raise
        logger.warning(
            "%s: the head in the checkpoint drafts nothing: %s", spec.queue, reason.message
        )
        return assembled
    if held is None:
        return assembled
    logger.info("%s: a head drafts for it, of %d MiB", spec.queue, held >> 20)
    return replace(assembled, weights_bytes=assembled.weights_bytes + held)


def _take(spec: ModelSpec, assembled: Assembled) -> int | None:
    """Have the head draft; return its bytes, None if the checkpoint has none after all.

    :raises ModelNotLoadable: it cannot be used.
    """
    where = f"queue {spec.queue!r}"
    if assembled.backend != "native":
        raise ModelNotLoadable(f"{where}: the backend {assembled.backend!r} computes no such heads")
    loading: Any = importlib.import_module("penstock.models.backends.native.drafting.loading")
    held: int | None
    if spec.eagle3 is not None:
        held = loading.take_eagle3(spec, assembled.model, spec.eagle3)
    else:
        held = loading.take_mtp(spec, assembled.model)
    return held
