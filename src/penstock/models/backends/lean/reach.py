"""Which descriptions the lean decoder can compute."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from penstock.models.architecture.description import Experts, dense_part

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.models.architecture.description import Architecture, Attention, Dense, Layer, Mlp
    from penstock.models.architecture.rows import Rows

_LARGEST_PADDED: Final = 256
_MOST_EXPERTS: Final = 1024
_MOST_CHOSEN: Final = 32


def padded_size(head_size: int) -> int:
    """Return the elements of a head as the kernels take it: a power of two."""
    return max(16, 1 << (head_size - 1).bit_length())


def beyond(model: Architecture) -> str | None:
    """Return the first feature of a description that is not computed here, in words; None if none."""
    return next(_beyond(model), None)


def _beyond(model: Architecture) -> Iterator[str]:
    if (model.embeddings, model.head.name) != ("model.embed_tokens", "lm_head"):
        yield f"the tensors of {model.family!r} have other names"
    if model.inputs is not None or any(one.scale or one.own_input for one in model.layers):
        yield "layers have inputs or scales of their own"
    if any(layer.mixer is not None or not layer.attends for layer in model.layers):
        yield "layers keep a state"
        return
    sizes = {
        (layer.attention.heads, layer.attention.kv_heads, layer.attention.head_size)
        for layer in model.layers
    }
    if len(sizes) > 1:
        yield "layers have heads of several sizes"
    for layer in model.layers:
        yield from _beyond_attention(layer.attention)
        yield from _beyond_mlp(layer.mlp)
        yield from _beyond_residuals(layer)


def _beyond_residuals(layer: Layer) -> Iterator[str]:
    if layer.parallel and (layer.mlp_in or layer.attention_out or layer.mlp_out):
        yield "norms beside a parallel residual"
    if layer.parallel and isinstance(layer.mlp, Experts):
        yield "experts beside attention"


def _beyond_attention(own: Attention) -> Iterator[str]:
    if own.latent is not None or own.keys_of is not None or own.value_norm is not None:
        yield "keys and values are compressed, shared or normed"
        return
    size, norms = own.head_size, own.head_norms
    if padded_size(size) != size and (
        size > _LARGEST_PADDED or (norms is not None and norms.kind != "rms")
    ):
        yield f"heads of {size} elements{'' if norms is None else ' with such norms'}"
    if own.gate is not None or own.result_scale != 1:
        yield "attention is gated or scaled"
    if not _is_joined(own.query, own.key, own.value) or not _is_joined(own.output):
        yield "projections are parts of a matrix in another order"


def _beyond_mlp(mlp: Mlp) -> Iterator[str]:
    dense = dense_part(mlp)
    if dense is not None:
        yield from _beyond_dense(dense)
    if isinstance(mlp, Experts):
        yield from _beyond_experts(mlp)
    elif not mlp.size:
        yield "layers without an MLP"


def _beyond_dense(mlp: Dense) -> Iterator[str]:
    if (mlp.gate_scale, mlp.result_scale) != (1, 1):
        yield "the MLP is scaled"
    first = (mlp.up,) if mlp.gate is None else (mlp.gate, mlp.up)
    if not _is_joined(*first) or not _is_joined(mlp.down):
        yield "the MLP's projections are parts of a matrix in another order"


def _beyond_experts(mlp: Experts) -> Iterator[str]:
    routing = mlp.routing
    if mlp.apart is not None or routing.weights is not None:
        yield "experts stand apart from an MLP"
    if routing.groups > 1:
        yield "experts are chosen by groups"
    if routing.experts > _MOST_EXPERTS or routing.chosen > _MOST_CHOSEN:
        yield f"{routing.chosen} of {routing.experts} experts"
    if not mlp.matrices.gated:
        yield "experts without gates"


def _is_joined(*parts: Rows) -> bool:
    """Whether parts are whole matrices, or one after another all that a matrix has."""
    taken: dict[str, int] = {}
    last = ""
    for part in parts:
        returns = part.name in taken and part.name != last
        if part.run or returns or part.first != taken.get(part.name, 0):
            return False
        taken[part.name], last = part.first + part.rows, part.name
    return taken == {part.name: part.tensor_rows for part in parts}
