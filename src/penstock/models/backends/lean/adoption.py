"""Takes a decoder's weights from a module of Transformers, by its description."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from penstock.models.architecture.description import Experts
from penstock.models.backends.lean import joined
from penstock.models.backends.lean.products.linear import Dense, join
from penstock.models.backends.lean.shape import NotLean
from penstock.models.backends.lean.weights import (
    ExpertWeights,
    HeadNorms,
    LayerWeights,
    Norm,
    Weights,
)

if TYPE_CHECKING:
    from penstock.models.architecture import description, elements
    from penstock.models.backends.lean.shape import Shape


def untie(module: Any) -> None:
    """Give the head weights of its own: it is quantised, as bigdl-llm does it, the table is not."""
    if module.lm_head.weight is module.model.embed_tokens.weight:
        own = module.lm_head.weight.data.clone()
        module.lm_head.weight = torch.nn.Parameter(own, requires_grad=False)


def adopt(module: Any, shape: Shape) -> Weights:
    """Return a module's weights, joined if they have the same input; the module keeps views of them.

    :raises NotLean: its products are not plain ones (bigdl-llm's hold blocks).
    """
    for name, linear in module.named_modules():
        if isinstance(linear, torch.nn.Linear) and type(linear) is not torch.nn.Linear:
            raise NotLean(f"{name} is a {type(linear).__name__}")
    return Weights(
        embeddings=module.model.embed_tokens.weight.data,
        layers=[adopt_layer(module, shape, index) for index in range(shape.sizes.layers)],
        norm=adopt_norm(module, shape),
        head=join([module.lm_head]),
    )


def adopt_norm(module: Any, shape: Shape) -> Norm:
    """The last norm, as `adopt` takes it."""
    norm = _norm(module, shape.model.norm, shape.sizes.hidden_size)
    assert norm is not None  # noqa: S101 - there is one
    return norm


def adopt_layer(module: Any, shape: Shape, index: int) -> LayerWeights:
    """One layer's weights, as `adopt` takes them."""
    layer, hidden = shape.model.layers[index], shape.sizes.hidden_size
    held: dict[joined.Which, Dense] = {}
    for one in joined.of_layer(layer, hidden):
        held[one.which] = join([module.get_submodule(name) for name, _ in one.matrices])
    sinks, missing = layer.attention.sinks, shape.sizes.head_size - layer.attention.head_size
    return LayerWeights(
        qkv=held["qkv"],
        out=held["out"],
        gate_up=held.get("gate_up"),
        down=held.get("down"),
        norm=_norm(module, layer.attention_in, hidden),
        second_norm=_norm(module, layer.mlp_in, hidden),
        head_norms=_head_norms(module, layer.attention, missing),
        out_norm=_norm(module, layer.attention_out, hidden),
        mlp_out_norm=_norm(module, layer.mlp_out, hidden),
        sinks=None if sinks is None else module.get_parameter(sinks).data.float(),
        experts=_experts(module, index, layer.mlp) if isinstance(layer.mlp, Experts) else None,
    )


def _norm(module: Any, norm: elements.Norm | None, size: int) -> Norm | None:
    if norm is None:
        return None
    centred = norm.kind == "layer"
    if norm.name is None:
        embeddings = module.model.embed_tokens.weight
        return Norm(embeddings.new_ones(size), norm.epsilon, centred=centred)
    own = module.get_submodule(norm.name)
    bias = getattr(own, "bias", None)
    return Norm(
        _shifted(own.weight.data, norm.offset),
        norm.epsilon,
        None if bias is None else bias.data,
        centred,
        widened=norm.offset != 0,
    )


def _shifted(weight: torch.Tensor, offset: float) -> torch.Tensor:
    return weight.float() + offset if offset else weight


def _head_norms(module: Any, attention: description.Attention, missing: int) -> HeadNorms | None:
    """Over heads that end in `missing` zeros, weights and epsilon give the same for a smaller mean."""
    norms = attention.head_norms
    if norms is None:
        return None
    query, key = (
        _head_weights(module, names, heads, attention.head_size)
        for names, heads in ((norms.query, attention.heads), (norms.key, attention.kv_heads))
    )
    query, key = _shifted(query, norms.offset), _shifted(key, norms.offset)
    share = attention.head_size / (attention.head_size + missing)
    if missing:
        query, key = (
            functional.pad(one.float() * share**0.5, (0, missing)) for one in (query, key)
        )
    return HeadNorms(
        query,
        key,
        norms.epsilon * share,
        norms.kind == "layer",
        norms.together,
        widened=norms.offset != 0 or missing > 0,
    )


def _head_weights(module: Any, names: tuple[str, ...], heads: int, size: int) -> torch.Tensor:
    """(head_size,), or (heads, head_size) if each head has its own."""
    parts = [module.get_submodule(name).weight.data for name in names]
    weight = parts[0] if len(parts) == 1 else torch.stack(parts)
    return weight if weight.numel() == size else weight.reshape(heads, size)


def _experts(module: Any, index: int, form: Experts) -> ExpertWeights:
    """:raises NotLean: the layer's experts are held in another way than Transformers' interface has."""
    layer = module.model.layers[index]
    blocks = [part for part in layer.modules() if hasattr(part, "experts")]
    if len(blocks) != 1 or not hasattr(blocks[0].experts, "is_transposed"):
        raise NotLean("experts are not held together")
    (block,) = blocks
    held, router = block.experts, getattr(block, "gate", None) or block.router
    gate_up, down = held.gate_up_proj.data, held.down_proj.data
    if held.is_transposed:
        gate_up, down = gate_up.transpose(1, 2), down.transpose(1, 2)
    has_bias = bool(held.has_bias)
    routing = form.routing
    weight, bias = router.weight.data, getattr(router, "bias", None)
    weight = weight.float() if routing.is_exact else weight
    return ExpertWeights(
        form=form,
        router=Dense(weight, None if bias is None else bias.data),
        gate_up=gate_up,
        down=down,
        gate_up_bias=held.gate_up_proj_bias.data if has_bias else None,
        down_bias=held.down_proj_bias.data if has_bias else None,
        interleaved=not held.is_concatenated,
        correction=_correction(layer, routing.correction),
        shared_gate=None
        if form.shared_gate is None
        else module.get_submodule(form.shared_gate).weight.data,
    )


def _correction(layer: Any, name: str | None) -> torch.Tensor | None:
    """:raises NotLean: the layer has no such values."""
    if name is None:
        return None
    last = name.rpartition(".")[2]
    for own, tensor in (*layer.named_buffers(), *layer.named_parameters()):
        if own.rpartition(".")[2] == last:
            return tensor.data.float().reshape(-1)
    raise NotLean(f"no {last}")
