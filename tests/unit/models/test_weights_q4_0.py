"""bigdl-llm's blocks: our unpacking and our rounding against its own native library."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from penstock.models.weights import q4_0

bigdl = pytest.importorskip("bigdl.llm.transformers.low_bit_linear")

SYM_INT4 = 2


def awkward_weights(seed: int) -> torch.Tensor:
    """(rows, 256): ordinary rows, and such that end in ties, zeros, denormals and infinities."""
    generator = torch.Generator().manual_seed(seed)

    def normal(rows: int) -> torch.Tensor:
        return torch.randn(rows, 256, generator=generator)

    ramp = torch.arange(64) - 31.5
    special = normal(8)
    special[0, :64] = 0.0
    special[1, :64] = 1e-8
    special[2, :64] = ramp
    special[3, :64] = -ramp
    special[4] = 1e-42
    special[5, 0] = 6e5  # its scale is past fp16's largest
    return torch.cat(
        (
            special,
            normal(300),
            normal(64) * torch.logspace(-6, 3, 64)[:, None],
            normal(300).half().float(),
            normal(300).bfloat16().float(),
            torch.randint(-30, 30, (300, 256), generator=generator).float(),
        )
    )


def rounded_twice(weights: torch.Tensor) -> np.ndarray:
    """As `q4_0.quantize` returns them, with a product and a sum in place of a fused one."""
    blocks = weights.reshape(-1, q4_0.BLOCK)
    scale = blocks.gather(1, blocks.abs().argmax(dim=1, keepdim=True)) / -8
    inverse = torch.where(scale != 0, 1 / scale, 0)
    steps = torch.clamp(torch.floor(blocks * inverse + 8.5), 0, 15).to(torch.uint8)
    pairs = steps.view(weights.shape[0], -1, 2)
    return ((pairs[..., 0] | (pairs[..., 1] << 4)) ^ 0x88).numpy()


@pytest.mark.parametrize("seed", range(4))
def test_rounding_is_bigdl_llms_bit_for_bit(seed: int) -> None:
    weights = awkward_weights(seed)
    theirs = bigdl.ggml_convert_qtype(weights, SYM_INT4)

    values, scales = q4_0.quantize(weights)
    their_values, their_scales = q4_0.unpack(theirs.numpy(), *weights.shape)

    # Its library has one build with and one without fused multiply-add, and picks by the CPU.
    fused = np.array_equal(values, their_values)
    assert fused or np.array_equal(rounded_twice(weights), their_values)
    assert np.array_equal(scales.view(np.uint16), their_scales.view(np.uint16))


def test_blocks_mean_what_they_do_in_bigdl_llm() -> None:
    weights = awkward_weights(0)[8:]
    theirs = bigdl.ggml_convert_qtype(weights, SYM_INT4)

    ours = q4_0.dequantize(*q4_0.unpack(theirs.numpy(), *weights.shape))

    assert np.array_equal(
        ours, bigdl.ggml_int4_convert_fp32(theirs, weights.shape, weights.numel()).numpy()
    )


def test_the_block_size_is_the_native_librarys() -> None:
    assert bigdl.ggml.ggml_qk_size(SYM_INT4) == q4_0.BLOCK
    assert bigdl.ggml.ggml_type_size(SYM_INT4) == q4_0.BLOCK_BYTES


@pytest.mark.parametrize("group", [32, 128])
def test_other_groups_stay_within_half_a_step(group: int) -> None:
    weights = torch.randn(40, 256, generator=torch.Generator().manual_seed(1))
    values, scales = q4_0.quantize(weights, group)

    assert scales.shape == (40, 256 // group)
    error = np.abs(q4_0.dequantize(values, scales) - weights.numpy()).reshape(40, -1, group)
    step = np.abs(scales.astype(np.float32))[..., None]
    # The level +8 is missing: the value opposite to the largest may be a whole step away.
    assert (error <= step * 1.01 + 1e-6).all()
    assert np.mean(error <= step * 0.51) > 0.97
