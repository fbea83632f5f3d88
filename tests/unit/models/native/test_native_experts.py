"""Layers with experts in the native kernels, against a plain computation of the same weights."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from penstock.errors import ModelNotLoadable
from penstock.models.backends.native import library
from penstock.models.backends.native.decoder import Decoder
from penstock.models.backends.native.layout import Vector, Which
from penstock.models.backends.native.matrix import Kind, Layout, Packing, Part, pack, packed_bytes
from penstock.models.backends.native.mixtures.experts import Experts, Gate, Scoring
from penstock.models.backends.native.mixtures.mixture import Mixture
from penstock.models.weights import q4_0
from tests.fixtures.rounded import RoundedActivations
from tests.unit.models.native.test_native_library import (
    Native,
    Sequence,
    aligned,
    error_of,
    some_ids,
)

if TYPE_CHECKING:
    from penstock.models.backends.native.library import Isa

pytestmark = pytest.mark.timeout(300)

try:
    library.library()
except ModelNotLoadable as missing:
    pytest.skip(str(missing), allow_module_level=True)

HIDDEN, INNER, SHARED, GROUP = 192, 128, 320, 64
SIZES: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": HIDDEN,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}
KINDS: dict[str, Experts] = {
    "softmax-normalised": Experts(8, 2, INNER),
    "softmax-as-it-is": Experts(19, 4, INNER, normalise=False),
    "softmax-of-chosen-biases-clamped": Experts(
        6, 3, INNER, scoring=Scoring.SOFTMAX_OF_CHOSEN, gate=Gate.CLAMPED_SILU,
        gate_alpha=1.702, gate_limit=0.4,
    ),
    "sigmoid-groups-correction-shared": Experts(
        16, 4, INNER, shared=SHARED, scoring=Scoring.SIGMOID, added_sum=1e-20, scale=1.5,
        groups=4, chosen_groups=2, group_best=2,
    ),
    "softmax-correction-floor-shared-gate": Experts(
        10, 2, INNER, shared=SHARED, least_sum=0.6, shared_scale=0.5,
    ),
    "one-expert-of-one": Experts(1, 1, INNER),
}  # fmt: skip
SHARPNESS = {"sigmoid-groups-correction-shared": 6.0}
"""Of routers: so much that rounding seldom turns a choice, so little that weights differ."""
CORRECTED = ("sigmoid-groups-correction-shared", "softmax-correction-floor-shared-gate")
ELEMENTS = {"softmax-as-it-is": torch.bfloat16, "one-expert-of-one": torch.float16}


class Plain(torch.nn.Module):
    """What a layer with experts computes, expert by expert, in fp32."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.shape = shape = KINDS[kind]
        count = shape.experts

        def drawn(*sizes: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(torch.randn(sizes))

        element = ELEMENTS.get(kind, torch.float32)
        self.router = torch.nn.Parameter(drawn(count, HIDDEN).detach().to(element).float())
        self.element = element
        self.gate_up = drawn(count, 2 * shape.intermediate, HIDDEN)
        self.down = drawn(count, HIDDEN, shape.intermediate)
        biased = shape.gate is Gate.CLAMPED_SILU
        self.router_bias = drawn(count) if biased else None
        self.gate_up_bias = drawn(count, 2 * shape.intermediate) if biased else None
        self.down_bias = drawn(count, HIDDEN) if biased else None
        self.correction = drawn(count) if kind in CORRECTED else None
        if shape.shared:
            self.shared_gate_up = drawn(2 * shape.shared, HIDDEN)
            self.shared_down = drawn(HIDDEN, shape.shared)
        self.shared_gate = drawn(HIDDEN) if kind == CORRECTED[1] else None

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        rows = hidden.reshape(-1, HIDDEN)
        out = torch.zeros_like(rows)
        weights = self.weights(rows)
        for expert in range(self.shape.experts):
            where = weights[:, expert].nonzero()[:, 0]
            if len(where):
                one = self.expert(rows[where], expert)
                out[where] += weights[where, expert, None] * one
        if self.shape.shared:
            linear = torch.nn.functional.linear
            gate, up = linear(rows, self.shared_gate_up).chunk(2, dim=-1)
            shared = linear(torch.nn.functional.silu(gate) * up, self.shared_down)
            if self.shared_gate is not None:
                shared = shared * torch.sigmoid(rows @ self.shared_gate)[:, None]
            out += shared * self.shape.shared_scale
        return out.reshape(hidden.shape)

    def expert(self, rows: torch.Tensor, expert: int) -> torch.Tensor:
        linear = torch.nn.functional.linear
        first = None if self.gate_up_bias is None else self.gate_up_bias[expert]
        second = None if self.down_bias is None else self.down_bias[expert]
        gate, up = linear(rows, self.gate_up[expert], first).chunk(2, dim=-1)
        if self.shape.gate is Gate.CLAMPED_SILU:
            limit = self.shape.gate_limit
            gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
            inner = (up + 1) * gate * torch.sigmoid(gate * self.shape.gate_alpha)
        else:
            inner = torch.nn.functional.silu(gate) * up
        return linear(inner, self.down[expert], second)

    def weights(self, rows: torch.Tensor) -> torch.Tensor:
        """(rows, experts), 0 where an expert was not chosen."""
        shape = self.shape
        logits = rows @ self.router.T
        if self.router_bias is not None:
            logits = logits + self.router_bias
        scores = {
            Scoring.SOFTMAX: logits.softmax(-1),
            Scoring.SIGMOID: logits.sigmoid(),
            Scoring.SOFTMAX_OF_CHOSEN: logits,
        }[shape.scoring]
        choice = scores if self.correction is None else scores + self.correction
        if shape.groups > 1:
            groups = choice.unflatten(-1, (shape.groups, -1))
            best = groups.topk(shape.group_best).values.sum(-1)
            kept = best.topk(shape.chosen_groups).indices
            mask = torch.full_like(best, -torch.inf).scatter(-1, kept, 0.0)
            choice = (groups + mask[..., None]).flatten(-2)
        chosen = choice.topk(shape.chosen).indices
        weights = scores.gather(-1, chosen)
        if shape.scoring is Scoring.SOFTMAX_OF_CHOSEN:
            weights = weights.softmax(-1)
        elif shape.normalise:
            total = weights.sum(-1, keepdim=True)
            weights = weights / (total.clamp(min=shape.least_sum) + shape.added_sum)
        return torch.zeros_like(logits).scatter(-1, chosen, weights * shape.scale)


def packed_of(which: Which, weights: torch.Tensor) -> tuple[Packing, Any]:
    """Matrices one after another, quantised; what they stand for goes into `weights`."""
    paired = which in {Which.GATE_UP, Which.EXPERTS_GATE_UP}
    count, rows, columns = weights.shape
    layout = Layout.PAIRED if paired else Layout.STACKED
    packing = Packing(Kind.I4, layout, rows, columns, GROUP)
    packed = aligned(count * packed_bytes(packing))
    for own, weight in zip(packed.reshape(count, -1), weights.detach(), strict=True):
        values, scales = q4_0.quantize(weight.contiguous(), GROUP)
        halves = np.split(values, 2), np.split(scales, 2)
        parts = list(map(Part, *halves)) if paired else [Part(values, scales)]
        pack(packing, parts, own)
        weight.copy_(torch.from_numpy(q4_0.dequantize(values, scales)))
    return packing, packed


class WithExperts(Native):
    """A Llama whose layers after the first have experts, and its twin in the library."""

    def __init__(self, kind: str, group: int = GROUP, **how: Any) -> None:
        torch.manual_seed(5)
        model = LlamaForCausalLM(LlamaConfig(**SIZES))
        for layer in model.model.layers[1:]:
            layer.mlp = Plain(kind)
        super().__init__(model, group, **how)

    def _set_weights(self) -> None:
        for index, layer in enumerate(self.model.model.layers):
            if isinstance(layer.mlp, Plain):
                with torch.no_grad():  # neither all alike nor one alone
                    router = layer.mlp.router
                    router.copy_(
                        (router * SHARPNESS.get(layer.mlp.kind, 1.5)).to(layer.mlp.element).float()
                    )
                self._set_experts(index, layer.mlp)
        super()._set_weights()

    def _mlp(self, index: int, mlp: Any) -> None:
        if not isinstance(mlp, Plain):
            super()._mlp(index, mlp)

    def _set_experts(self, index: int, mlp: Plain) -> None:
        decoder = self.decoder
        decoder.set_experts(index, mlp.shape)
        router = mlp.router.detach().to(mlp.element)
        decoder.set_router(
            index, (router.view(torch.int16) if mlp.element == torch.bfloat16 else router).numpy()
        )
        matrices = {Which.EXPERTS_GATE_UP: mlp.gate_up, Which.EXPERTS_DOWN: mlp.down}
        if mlp.shape.shared:
            matrices |= {
                Which.GATE_UP: mlp.shared_gate_up[None],
                Which.DOWN: mlp.shared_down[None],
            }
        for which, weights in matrices.items():
            decoder.set_matrix(which, index, *packed_of(which, weights))
        for which, vector in {
            Vector.ROUTER_BIAS: mlp.router_bias,
            Vector.ROUTER_CORRECTION: mlp.correction,
            Vector.EXPERTS_GATE_UP_BIAS: mlp.gate_up_bias,
            Vector.EXPERTS_DOWN_BIAS: mlp.down_bias,
            Vector.SHARED_GATE: mlp.shared_gate,
        }.items():
            if vector is not None:
                decoder.set_vector(which, index, vector.detach().numpy())


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_those_of_a_plain_mixture(kind: str) -> None:
    native = WithExperts(kind)
    ids = some_ids(75)
    found = native.step([Sequence(ids, 0, len(ids), [5, 3, 9])])
    errors = [error_of(*pair) for pair in zip(found, native.expected(ids), strict=True)]
    assert np.median(errors) < 0.055  # activations of 8 bits; some choices of experts are close


@pytest.mark.parametrize("rows", [1, 60])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_alone_are_those_of_plain_products(isa: Isa, kind: str, rows: int) -> None:
    torch.manual_seed(rows)
    plain = Plain(kind)
    shape = replace(plain.shape, shared=0)
    mixture = Mixture(HIDDEN, shape, isa)
    mixture.set_matrix(Which.EXPERTS_GATE_UP, *packed_of(Which.EXPERTS_GATE_UP, plain.gate_up))
    mixture.set_matrix(Which.EXPERTS_DOWN, *packed_of(Which.EXPERTS_DOWN, plain.down))
    if plain.gate_up_bias is not None and plain.down_bias is not None:
        mixture.set_vector(Vector.EXPERTS_GATE_UP_BIAS, plain.gate_up_bias.detach().numpy())
        mixture.set_vector(Vector.EXPERTS_DOWN_BIAS, plain.down_bias.detach().numpy())
    inputs = torch.randn(rows, HIDDEN)
    chosen = torch.stack([torch.randperm(shape.experts)[: shape.chosen] for _ in range(rows)])
    weights = torch.rand(rows, shape.chosen)
    found = mixture.compute(inputs, chosen, weights)

    expected = torch.zeros(rows, HIDDEN)
    with RoundedActivations(GROUP), torch.no_grad():
        for row, rank in np.ndindex(rows, shape.chosen):
            one = plain.expert(inputs[row, None], int(chosen[row, rank]))[0]
            expected[row] += weights[row, rank] * one
    assert error_of(found.numpy(), expected.numpy()) < 2e-3  # a rounding here or there
    parts = [
        mixture.compute(*one)
        for one in zip(inputs.split(3), chosen.split(3), weights.split(3), strict=False)
    ]
    assert torch.equal(torch.cat(parts), found)
    assert mixture.compute(inputs.bfloat16(), chosen, weights).dtype == torch.bfloat16


def test_experts_alone_refuse_what_cannot_be() -> None:
    mixture = Mixture(HIDDEN, Experts(2, 1, INNER))
    rows = (torch.zeros(1, HIDDEN), torch.zeros(1, 1, dtype=torch.long), torch.ones(1, 1))
    with pytest.raises(RuntimeError, match="lack a matrix"):
        mixture.compute(*rows)
    for which, weights in (
        (Which.EXPERTS_GATE_UP, torch.ones(2, 2 * INNER, HIDDEN)),
        (Which.EXPERTS_DOWN, torch.ones(2, HIDDEN, INNER)),
    ):
        mixture.set_matrix(which, *packed_of(which, weights))
    with pytest.raises(ValueError, match="no such expert"):
        mixture.compute(rows[0], rows[1] + 2, rows[2])
    with pytest.raises(ValueError, match="with experts"):
        mixture.compute(rows[0], rows[1][:, :0], rows[2])
    with pytest.raises(ValueError, match="no such matrix"):
        mixture.set_matrix(Which.DOWN, *packed_of(Which.DOWN, torch.ones(2, HIDDEN, INNER)))
    with pytest.raises(ValueError, match="not the shape's"):
        mixture.set_vector(Vector.EXPERTS_DOWN_BIAS, np.zeros(3, np.float32))
    assert mixture.compute(rows[0][:0], rows[1][:0], rows[2][:0]).shape == (0, HIDDEN)


@pytest.mark.parametrize("kind", KINDS)
def test_every_instruction_set_gives_the_same_bits(isa: Isa, kind: str) -> None:
    ids = some_ids(40)
    step = [Sequence(ids, 0, len(ids), [1, 2])]
    found = WithExperts(kind, isa=isa).step(step)
    assert np.array_equal(found, WithExperts(kind).step(step))


@pytest.mark.parametrize("kind", KINDS)
def test_neighbours_chunks_and_threads_change_no_bit(kind: str) -> None:
    native = WithExperts(kind)
    texts = [some_ids(count, seed) for seed, count in enumerate((150, 3, 33))]
    tables = [list(range(first, first + 5)) for first in (0, 10, 20)]
    alone = [
        native.step([Sequence(ids, 0, len(ids), table)])
        for ids, table in zip(texts, tables, strict=True)
    ]
    for threads in (1, 2, 3):
        native = WithExperts(kind, threads=threads)
        done = [0] * len(texts)
        for counts in ((70, 0, 0), (1, 2, 20), (50, 1, 12), (28, 0, 0), (1, 0, 1)):
            step = [
                Sequence(ids, start, count, table)
                for ids, start, count, table in zip(texts, done, counts, tables, strict=True)
                if count
            ]
            logits = np.split(native.step(step), np.cumsum([one.count for one in step])[:-1])
            which = [index for index, count in enumerate(counts) if count]
            for index, found in zip(which, logits, strict=True):
                first = done[index]
                assert np.array_equal(found, alone[index][first : first + len(found)])
                done[index] += len(found)


def test_which_logits_are_wanted_changes_no_bit() -> None:
    native = WithExperts("sigmoid-groups-correction-shared")
    texts = [some_ids(count, count) for count in (70, 1, 9)]
    step = [
        Sequence(ids, 0, len(ids), [3 * at, 3 * at + 1, 3 * at + 2]) for at, ids in enumerate(texts)
    ]
    every = native.step(step)
    assert np.array_equal(native.step(step, every=False), every[[69, 70, 79]])
    assert native.compute(step, []).shape == (0, SIZES["vocab_size"])


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"chosen": 9}, "out of range"),
        ({"experts": 0}, "out of range"),
        ({"intermediate": 0}, "size is out of range"),
        ({"groups": 3}, "divide"),
        ({"groups": 4, "chosen": 5, "chosen_groups": 2}, "fewer experts"),
        ({"groups": 4, "group_best": 3}, "best experts"),
        ({"experts": 1 << 16, "intermediate": 1 << 20}, "out of range together"),
        ({"scoring": 7}, "scoring is"),
        ({"gate": 7}, "a gate is"),
    ],
    ids=str,
)
def test_what_cannot_be_is_refused_with_a_line(changed: dict[str, Any], says: str) -> None:
    decoder = Decoder(WithExperts("softmax-normalised").shape, 1)
    sizes: dict[str, Any] = {"experts": 8, "chosen": 2, "intermediate": 64}
    with pytest.raises(ValueError, match=says):
        decoder.set_experts(0, Experts(**{**sizes, **changed}))


def test_shared_and_routed_experts_have_one_input_and_one_packing() -> None:
    native = WithExperts("sigmoid-groups-correction-shared")
    rows = 2 * SHARED
    packing = Packing(Kind.I8, Layout.PAIRED, rows, HIDDEN, GROUP)
    native.decoder.set_matrix(Which.GATE_UP, 1, packing, aligned(packed_bytes(packing)))
    with pytest.raises(RuntimeError, match="packed otherwise"):
        native.step([Sequence(some_ids(3), 0, 3, [0])])


def test_a_step_before_all_is_set_names_what_is_missing() -> None:
    native = WithExperts("softmax-normalised")
    step = [Sequence(some_ids(3), 0, 3, [0])]
    native.step(step)
    native.decoder.set_experts(1, Experts(8, 2, INNER))
    with pytest.raises(RuntimeError, match="experts lack a matrix"):
        native.step(step)
    with pytest.raises(ValueError, match="no such layer"):
        native.decoder.set_experts(3, Experts(8, 2, INNER))
    with pytest.raises(ValueError, match="not the shape's"):
        native.decoder.set_router(0, np.zeros((8, HIDDEN), np.float32))
    with pytest.raises(ValueError, match="no such vector"):
        native.decoder.set_vector(Vector.ROUTER_BIAS, 0, np.zeros(8, np.float32))
