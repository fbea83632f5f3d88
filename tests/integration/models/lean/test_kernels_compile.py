"""Every Triton kernel compiles as the steps launch it; none runs, and no GPU is wanted.

Triton's interpreter takes code that its compiler refuses: see `make test-kernels`. For NVIDIA's
GPUs, and for one of AMD's: Intel's compiler is not part of Triton, but what two vendors' take is
of no one's alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import pytest
import torch
import transformers

from penstock.engine.model import Batch, SequenceSlice
from penstock.models.backends.lean import adoption, shape
from penstock.models.backends.lean import weights as all_weights
from penstock.models.backends.lean.body import Body
from penstock.models.backends.lean.model import LeanModel
from penstock.models.backends.lean.products import fp8
from penstock.models.backends.lean.products.linear import (
    Dense,
    Fp8Blocks,
    Int4,
    Linear,
    Matrices,
    pack,
    pack_experts,
)
from penstock.models.backends.lean.products.weight_formats import FP8, SYM_INT4, Holding
from penstock.models.backends.tensor_parallel.exchange import Exchange, Layout
from penstock.models.devices import Cpu
from tests.fixtures.lean import COMMON, CONTEXT, LOCAL, SIX
from tests.integration.models.lean.test_triton_attention import chunks_of

pytestmark = pytest.mark.gpu

STEPS = {"one": [1], "three": [1, 1, 1], "a chunk beside": [1, 20], "many": [140, 1]}
"""Tokens of the sequences of a step."""

_MOST_BY_OURS = 64
"""Rows of a product with FP8 that are not the GPU library's."""

HOPPER = ("cuda", 90, 32)
AMPERE = ("cuda", 80, 32)
MI300 = ("hip", "gfx942", 64)
"""GPUs as Triton names them: backend, architecture, threads of a warp."""

KERNELS = {
    "place_kernel",
    "rms_norm_kernel",
    "rotate_kernel",
    "prefill_kernel",
    "gated_kernel",
    "combine_kernel",
}
SUMS = {"exchange_norm_kernel", "exchange_norm_few_kernel"}


@dataclass(frozen=True)
class Case:
    """A GPU, a model's type, family and format, and some kernel that these bring."""

    gpu: tuple[str, int | str, int]
    kind: torch.dtype
    family: str
    holding: Holding | None
    own: str
    more: dict[str, Any] = field(default_factory=dict[str, Any])


def in_groups(dense: Dense, device: torch.device, kind: torch.dtype) -> Linear:
    """Some codes in groups of 128 with zeros; matrices of fewer rows have an order."""
    rows, columns = dense.weight.shape
    codes = torch.zeros((rows, columns), dtype=torch.uint8, device=device)
    scales = torch.ones((rows, columns // 128), dtype=torch.bfloat16, device=device)
    order = torch.arange(columns, dtype=torch.int32) if rows == columns else None
    zeros = scales.to(torch.int8)
    return Int4(pack(codes, 64), scales, None, group=128, zeros=zeros, order=order)


def in_blocks(dense: Dense, device: torch.device, kind: torch.dtype) -> Linear:
    blocks = fp8.hold_experts(dense.weight[None], device, kind)
    assert isinstance(blocks, Fp8Blocks)
    return blocks.expert(0)


def in_mxfp4(weights: torch.Tensor, device: torch.device, kind: torch.dtype) -> Matrices:
    codes = torch.zeros(weights.shape, dtype=torch.uint8, device=device)
    scales = torch.ones((*weights.shape[:2], weights.shape[2] // 32), dtype=torch.bfloat16)
    return Int4(pack_experts(codes), scales, None, group=32, floats=True)


GROUPS = Holding("groups", in_groups, SYM_INT4.hold_experts, head=True, block=64, of_whole_rows=False)  # fmt: skip
BLOCKS = Holding("blocks", in_blocks, FP8.hold_experts, head=False, block=128, of_whole_rows=False)
MXFP4 = Holding("mxfp4", SYM_INT4.hold, in_mxfp4, head=True, block=64, of_whole_rows=False)

CAPPED = LOCAL | {"attn_logit_softcapping": 50.0}
CASES = [
    Case(HOPPER, torch.bfloat16, "Llama", None, "vector_product_kernel"),
    Case(HOPPER, torch.bfloat16, "Qwen3", SYM_INT4, "int4_vector_kernel"),
    Case(HOPPER, torch.float16, "Mistral", FP8, "round_rows_kernel"),
    Case(HOPPER, torch.float32, "Qwen3", SYM_INT4, "int4_product_kernel"),
    Case(AMPERE, torch.float16, "Llama", SYM_INT4, "int4_widen_kernel"),
    Case(MI300, torch.bfloat16, "Qwen3", SYM_INT4, "decode_kernel"),
    Case(HOPPER, torch.bfloat16, "Gemma2", None, "merge_kernel", CAPPED),
    Case(HOPPER, torch.float16, "Glm4", FP8, "merge_kernel"),
    Case(HOPPER, torch.bfloat16, "GptOss", None, "expert_gate_up_kernel", SIX | LOCAL),
    Case(HOPPER, torch.bfloat16, "Qwen3", GROUPS, "int4_sort_kernel"),
    Case(AMPERE, torch.float16, "Glm4", GROUPS, "int4_widen_kernel"),
    Case(HOPPER, torch.bfloat16, "Llama", BLOCKS, "widen_kernel"),
    Case(HOPPER, torch.bfloat16, "Mixtral", FP8, "expert_down_kernel", SIX),
    Case(HOPPER, torch.float16, "Mixtral", SYM_INT4, "expert_down_kernel", SIX),
    Case(HOPPER, torch.bfloat16, "GptOss", MXFP4, "expert_down_kernel", SIX | LOCAL),
    Case(MI300, torch.bfloat16, "MiniMaxM2", None, "head_norm_kernel", SIX | {"rotary_dim": 16}),
]


def name_of(case: Case) -> str:
    held = case.holding.format if case.holding else "plain"
    return f"{case.gpu[1]} {case.family} {case.kind} {held}".replace("torch.", "")


@dataclass(frozen=True)
class Target:
    """What Triton asks of a driver if it only compiles."""

    gpu: tuple[str, int | str, int]

    def get_current_device(self) -> int:
        return [HOPPER, AMPERE, MI300].index(self.gpu)  # what is compiled is kept by device

    def get_current_stream(self, device: int) -> int:
        return device

    def get_current_target(self) -> Any:
        return import_module("triton.backends.compiler").GPUTarget(*self.gpu)


@pytest.fixture(params=CASES, ids=name_of)
def case(request) -> Case:
    return request.param


@pytest.fixture
def compiled(case, monkeypatch, tmp_path) -> dict[str, str]:
    """What each kernel has become; a launch compiles, and leaves its results as they were."""
    return compile_for(case.gpu, monkeypatch, tmp_path)


def compile_for(gpu: Any, monkeypatch: Any, tmp_path: Any) -> dict[str, str]:
    if find_spec("triton") is None or os.environ.get("TRITON_INTERPRET") == "1":
        pytest.skip("Triton's compiler is not here, or its interpreter is on")
    jit: Any = import_module("triton.runtime.jit")
    found: dict[str, str] = {}
    run = jit.JITFunction.run

    def compile_only(kernel: Any, *arguments: Any, **options: Any) -> Any:
        built = run(kernel, *arguments, **options | {"warmup": True})
        found[kernel.__name__] = built.asm.get("ptx", "")
        return built

    monkeypatch.setattr(jit.JITFunction, "run", compile_only)
    monkeypatch.setattr(jit.driver, "_active", Target(gpu))
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    return found


def model_of(case: Case, overlap: dict[str, Any]) -> LeanModel:
    triton_ops = import_module("penstock.models.backends.lean.operations.triton_ops")
    sizes = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32}
    heads = {"num_key_value_heads": 4 if case.family == "Llama" else 2}
    config = getattr(transformers, f"{case.family}Config")(**COMMON | sizes | heads | case.more)
    module = transformers.AutoModelForCausalLM.from_config(config).to(case.kind)
    found = shape.read(module, CONTEXT)
    weights = adoption.adopt(module, found)
    if case.holding is not None:
        place = torch.device("cpu")
        weights = all_weights.quantized(
            weights, place, case.kind, case.holding, lambda share, what: None
        )
    turnings = shape.turnings(module, found, torch.device("cpu"))
    return LeanModel(Body(found, weights, turnings, triton_ops.TritonOps(overlap), Cpu()))


@pytest.mark.timeout(600)
def test_all_kernels_of_a_model_compile(case, compiled):
    overlaps = case.gpu == HOPPER
    overlap = {"OVERLAPS": True, "launch_pdl": True} if overlaps else {"OVERLAPS": False}
    model = model_of(case, overlap)
    model.max_sequences = 4
    model.allocate(40)
    with torch.inference_mode():
        for counts in STEPS.values():
            if case.holding is FP8 and sum(counts) > _MOST_BY_OURS:
                continue
            model.forward(
                Batch(
                    [
                        SequenceSlice(key, [1] * count, 0, list(range(9 * key, 9 * key + 9)), 0)
                        for key, count in enumerate(counts)
                    ]
                )
            )
        logits = torch.zeros(3, 256)
        chosen = torch.zeros(3, dtype=torch.int32)
        model.body.ops.choose(logits, torch.zeros((5, 3), dtype=torch.int32), chosen)
        exchange = Exchange(0, Layout(2, 8, 128, case.kind, few=2), [0, 0], chosen.device, overlap)
        for count in (2, 3):
            x = torch.zeros(count, 128, dtype=case.kind)
            exchange.add_norm(x, x.clone(), x[0], 1e-5)
    kernels = KERNELS - ({"gated_kernel"} if "num_local_experts" in case.more else set())
    assert kernels | SUMS | {case.own, "choose_kernel"} <= set(compiled)
    assert ("decode_kernel" in compiled) != ("decode_alone_kernel" in compiled)
    waits = {name for name, ptx in compiled.items() if "griddepcontrol.wait" in ptx}
    assert (kernels - {"prefill_kernel"} <= waits) if overlaps else not waits


def test_the_kernel_of_long_chunks_compiles_for_hopper(monkeypatch, tmp_path):
    compiled = compile_for(HOPPER, monkeypatch, tmp_path)
    own = import_module("penstock.models.backends.lean.operations.hopper_attention")
    kernels = import_module("penstock.models.backends.lean.kernels.prefill_hopper")
    monkeypatch.setattr(own, "kernel_of", lambda _: kernels.prefill_kernel)
    chunks = chunks_of(((64, 512),), torch.bfloat16, 128, 0, place=torch.device("cpu"))
    own.prefill(chunks.qkv, chunks.step, chunks.layer, chunks.qkv.new_empty(512, 256))
    ptx = compiled["prefill_kernel"]
    assert "wgmma.mma_async" in ptx
    assert "setmaxnreg" in ptx
