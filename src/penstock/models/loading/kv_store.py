"""The store of a model's KV blocks, if the operator has named a folder for it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import penstock
from penstock.engine.model import stateful, storable
from penstock.engine.reuse.block_files import BlockFiles
from penstock.engine.reuse.kv_store import KVStore
from penstock.models.catalogue.model_folder import read_config
from penstock.models.weights import conversion

if TYPE_CHECKING:
    from penstock.models.loading.assembled import Assembled
    from penstock.models.spec import ModelSpec
    from penstock.settings import Settings

logger = logging.getLogger(__name__)

_CONFIGURATIONS: Final = ("config.json", "preprocessor_config.json", "processor_config.json")


def open_store(spec: ModelSpec, assembled: Assembled, settings: Settings) -> KVStore | None:
    """Return the store of a model's blocks; None if there is none, or the model has no such blocks."""
    if settings.kv_store is None:
        return None
    model = storable(assembled.model)
    if model is None or assembled.batching != "continuous":
        logger.warning(
            "%s: PENSTOCK_KV_STORE is not used: how it runs has no blocks to keep", spec.queue
        )
        return None
    # Whatever decides a block's bytes: weights, their form, the configuration, how images are read,
    # the code.
    configurations = [read_config(spec.path, name) for name in _CONFIGURATIONS]
    keeping = stateful(assembled.model)
    state_bytes = 0 if keeping is None else keeping.state_bytes
    states = f"{state_bytes} " if state_bytes else ""
    form = (
        f"{penstock.__version__} {assembled.backend} {assembled.format} {model.block_format} "
        f"{states}{configurations!r}"
    )
    identity = bytes.fromhex(conversion.digest_of(spec.path, form))
    files = BlockFiles(settings.kv_store.expanduser(), identity, settings.kv_store_bytes)
    return KVStore(files, max(model.kv_layout.bytes_per_block, state_bytes))
