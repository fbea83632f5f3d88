"""bigdl-llm's sym_int4 in the lean decoder: the same blocks, from a checkpoint or from its folder."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import numpy as np
import pytest
import torch

from penstock.errors import ModelNotLoadable
from penstock.models.backends import bigdl, low_bit_folders
from penstock.models.backends.lean.products import linear, low_bit
from penstock.models.backends.lean.weights import widen_if_room
from penstock.models.devices import Cpu
from penstock.models.loading import checkpoint
from penstock.models.spec import ModelSpec
from penstock.models.weights import q4_0
from tests.fixtures.lean import weights_of

if TYPE_CHECKING:
    from penstock.models.devices.device import Device


def spec_of(path, *, low_bit_folder: bool = False) -> ModelSpec:
    return ModelSpec("m", "m-cuda", "cuda", None, path, "bigdl", low_bit_folder=low_bit_folder)


def quiet(share: float, what: str) -> None:
    del share, what


def test_blocks_keep_every_value_and_scale():
    generator = np.random.default_rng(0)
    rows, columns = 6, 192
    blocks = generator.integers(0, 256, rows * columns // 64 * q4_0.BLOCK_BYTES, dtype=np.uint8)
    scaled = blocks.reshape(-1, q4_0.BLOCK_BYTES)
    scaled[:, :2] = generator.normal(size=len(scaled)).astype(np.float16)[:, None].view(np.uint8)
    packed, scales = linear.from_blocks(torch.as_tensor(blocks), rows, columns)
    values = linear.Int4(packed, scales, None).widen(torch.float32)
    wanted = q4_0.dequantize(*q4_0.unpack(blocks, rows, columns))
    assert torch.equal(values, torch.as_tensor(wanted))


def test_a_checkpoint_is_quantised_as_bigdl_does_it(tiny_llama):
    found = low_bit.load(spec_of(tiny_llama), Cpu(), quiet)
    assert (found.backend, found.format, found.batching) == ("bigdl", "sym_int4", "continuous")
    module = checkpoint.load_module(
        spec_of(tiny_llama), checkpoint.load_config(spec_of(tiny_llama)), torch.float32
    )
    down = module.model.layers[1].mlp.down_proj.weight.data
    wanted = q4_0.dequantize(*q4_0.quantize(down))
    held = weights_of(found).layers[1].down
    assert torch.equal(held.widen(torch.float32), torch.as_tensor(wanted))


@pytest.mark.parametrize(("free", "wide"), [(1, False), (1 << 40, True)])
def test_a_gpu_with_room_holds_the_blocks_in_its_own_type_too(tiny_llama, free, wide):
    weights = weights_of(low_bit.load(spec_of(tiny_llama), Cpu(), quiet))
    held = weights.layers[0].gate_up
    before = weights.nbytes
    gpu = cast("Device", SimpleNamespace(kind="cuda", free_bytes=lambda: free))
    widen_if_room(weights, gpu, torch.float32)
    found = weights.layers[0].gate_up
    assert isinstance(found, linear.Int4)
    assert found.packed is held.packed
    if not wide:
        assert found.wide is None
        return
    assert found.wide is not None
    assert torch.equal(found.wide, held.widen(torch.float32))
    assert weights.head.wide is not None
    assert weights.nbytes > before + sum(8 * 4 * one.down.packed.numel() for one in weights.layers)


def test_a_low_bit_folder_keeps_its_blocks(tiny_llama, tmp_path):
    spec = spec_of(tiny_llama)
    module = checkpoint.load_module(spec, checkpoint.load_config(spec), torch.float32)
    try:
        quantiser = bigdl.Quantiser(bigdl.import_library(), "sym_int4")
    except ModelNotLoadable as error:
        pytest.skip(str(error))
    quantiser.convert(module, quiet)
    blocks = module.model.layers[0].self_attn.o_proj.weight.detach().as_subclass(torch.Tensor)
    low_bit_folders.save(module, tmp_path / "low", "sym_int4")
    found = low_bit.load(spec_of(tmp_path / "low", low_bit_folder=True), Cpu(), quiet)
    packed, scales = linear.from_blocks(blocks, 64, 64)
    held = weights_of(found).layers[0].out
    assert torch.equal(held.packed, packed)
    assert torch.equal(held.scales, scales)


def test_other_formats_and_families_are_refused_in_words(tiny_llama, tmp_path):
    with pytest.raises(ModelNotLoadable, match="a GPU holds sym_int4"):
        low_bit.load(replace(spec_of(tiny_llama), format="asym_int4"), Cpu(), quiet)
