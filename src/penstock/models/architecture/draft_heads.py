"""Heads that draft a model's next tokens from its hidden states: in its checkpoint, or beside it.

A head is one layer. Its row i sees the embedding of token i + 1 and what the model has of token i;
it predicts token i + 2.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar, cast

from penstock.models.architecture.facts import Facts, NotDescribed
from penstock.models.architecture.reading import describe
from penstock.models.architecture.rows import Rows
from penstock.models.catalogue.text_part import as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from penstock.models.architecture.description import Architecture, Layer
    from penstock.models.architecture.elements import Norm

Kind = Literal["mtp", "eagle3"]
_TAPS: Final = 3
_BY_LAYER: Final = ("layer_types", "mlp_layer_types", "no_rope_layers")
_Part = TypeVar("_Part")


@dataclass(frozen=True, slots=True)
class DraftHead:
    """A head of one layer, `body`, with its norm and its head.

    With `mtp` the layer's input is `projection` of both inputs, each normed, one after the other,
    the hidden state first if `hidden_first`. With `eagle3` the hidden states before the layers
    `taps` are projected to one; the layer is wide, and sees the normed embedding beside it.
    `hidden_norm` is None if the layer itself norms what it reads. The layer's output stands for the
    model's hidden state when the next token is drafted: behind the body's norm if `feeds_normed`.
    `shares_head`: it has the model's head, and likewise `shares_embeddings`. `target_ids` names a
    tensor with what to add to a drafted token, to have it in the model's vocabulary.
    """

    kind: Kind
    body: Architecture
    projection: Rows
    embedding_norm: Norm
    hidden_norm: Norm | None
    hidden_first: bool = False
    feeds_normed: bool = False
    shares_head: bool = True
    shares_embeddings: bool = True
    taps: tuple[int, ...] = ()
    target_ids: str | None = None

    @property
    def inputs(self) -> int:
        """The number of hidden states that are projected together."""
        return len(self.taps) if self.kind == "eagle3" else 2


def mtp(
    config: Mapping[str, Any], model: Architecture, has: Callable[[str], bool]
) -> DraftHead | None:
    """Return the first head for further tokens in a checkpoint with these tensors; None without one.

    `config` is that of the described `model`.

    :raises NotDescribed: its layer is not like any of the model's.
    """
    count = len(model.layers)
    last = f"model.layers.{count}"
    if has("mtp.fc.weight"):
        return _qwen(config, model)
    if has(f"{last}.eh_proj.weight"):
        return _deepseek(config, model, last, has)
    if has("model.mtp_layers.0.input_proj.weight"):
        return _mimo(model)
    return None


def _qwen(config: Mapping[str, Any], model: Architecture) -> DraftHead:
    """Qwen3-Next, Qwen3.5: a layer with full attention; its normed output is what it goes on with."""
    text = as_text(config)
    text |= {
        "num_hidden_layers": 1,
        "layer_types": ["full_attention"],
        "mlp_only_layers": [],
        "decoder_sparse_step": 1,
    }
    layer = renamed(describe(text).layers[0], "model.layers.0.", "mtp.layers.0.")
    return DraftHead(
        kind="mtp",
        body=_body(model, layer, "mtp.norm"),
        projection=Rows("mtp.fc", model.hidden_size),
        embedding_norm=replace(model.norm, name="mtp.pre_fc_norm_embedding"),
        hidden_norm=replace(model.norm, name="mtp.pre_fc_norm_hidden"),
        feeds_normed=True,
    )


def _deepseek(
    config: Mapping[str, Any], model: Architecture, name: str, has: Callable[[str], bool]
) -> DraftHead:
    """DeepSeek V3, GLM-4.5 and others: one layer more, like the last one."""
    text = as_text(config)
    text["num_hidden_layers"] = len(model.layers) + 1
    for key in _BY_LAYER:
        stated = text.get(key)
        if isinstance(stated, list):
            kinds = cast("list[Any]", stated)
            text[key] = [*kinds, *kinds[-1:]] if len(kinds) == len(model.layers) else kinds
    body = _body(model, describe(text).layers[-1], f"{name}.shared_head.norm")
    own = f"{name}.shared_head.head"
    shares = not has(f"{own}.weight")
    table = f"{name}.embed_tokens"
    return DraftHead(
        kind="mtp",
        body=replace(
            body,
            head=body.head if shares else replace(body.head, name=own),
            embeddings=table if has(f"{table}.weight") else body.embeddings,
        ),
        projection=Rows(f"{name}.eh_proj", model.hidden_size),
        embedding_norm=replace(model.norm, name=f"{name}.enorm"),
        hidden_norm=replace(model.norm, name=f"{name}.hnorm"),
        shares_head=shares,
        shares_embeddings=not has(f"{table}.weight"),
    )


def _mimo(model: Architecture) -> DraftHead:
    """MiMo: a layer like the model's first; the hidden state comes before the embedding."""
    name = "model.mtp_layers.0"
    layer = renamed(model.layers[0], "model.layers.0.", f"{name}.")
    return DraftHead(
        kind="mtp",
        body=_body(model, layer, f"{name}.final_layernorm"),
        projection=Rows(f"{name}.input_proj", model.hidden_size),
        embedding_norm=replace(model.norm, name=f"{name}.token_layernorm"),
        hidden_norm=replace(model.norm, name=f"{name}.hidden_layernorm"),
        hidden_first=True,
        feeds_normed=True,
    )


def eagle3(config: Mapping[str, Any], model: Architecture, has: Callable[[str], bool]) -> DraftHead:
    """Return EAGLE-3's head of this configuration, for a described model.

    `has` is whether it has a tensor. These are named as SafeAILab's, or vLLM's speculators.

    :raises NotDescribed: it is for another model, or has more than one layer.
    """
    inner = config.get("transformer_layer_config")
    text = dict(cast("Mapping[str, Any]", inner) if isinstance(inner, dict) else config)
    facts = Facts({**text, **config}, {})
    if facts.size("num_hidden_layers", 1) != 1:
        raise NotDescribed(f"{facts.raw('num_hidden_layers')} layers in a head of EAGLE-3")
    text |= {"model_type": "llama", "num_hidden_layers": 1, "vocab_size": model.vocab_size}
    plain = describe(text)
    if plain.hidden_size != model.hidden_size:
        raise NotDescribed(f"hidden states of {plain.hidden_size}, the model's {model.hidden_size}")
    name = "midlayer" if has("midlayer.self_attn.q_proj.weight") else "layers.0"
    layer = renamed(plain.layers[0], "model.layers.0.", f"{name}.")
    before = replace(plain.norm, name=f"{name}.hidden_norm")
    normed_first = facts.flag("norm_before_residual")
    layer = replace(layer, attention_in=None if normed_first else before, wide=True)
    vocabulary = facts.size("draft_vocab_size", model.vocab_size)
    shares_head = not has("lm_head.weight")
    if shares_head and vocabulary != model.vocab_size:
        raise NotDescribed("a vocabulary of its own without a head")
    body = replace(
        plain,
        vocab_size=vocabulary,
        layers=(layer,),
        norm=replace(plain.norm, name="norm"),
        embeddings="embed_tokens",
        head=Rows("lm_head", vocabulary),
        tied=False,
    )
    return DraftHead(
        kind="eagle3",
        body=body,
        projection=Rows("fc", model.hidden_size),
        embedding_norm=replace(plain.norm, name=f"{name}.input_layernorm"),
        hidden_norm=before if normed_first else None,
        shares_head=shares_head,
        shares_embeddings=not has("embed_tokens.weight"),
        taps=_taps(facts, len(model.layers)),
        target_ids="d2t" if has("d2t") else None,
    )


def _taps(facts: Facts, layers: int) -> tuple[int, ...]:
    """Return the layers before which hidden states are taken, three unless the head states others.

    :raises NotDescribed: there are no such layers.
    """
    name = "eagle_aux_hidden_state_layer_ids"
    nested = Facts(facts.mapping("eagle_config"), {})
    if facts.has(name):
        taps = _numbers(facts, name)
    elif nested.has(name):  # in this place it names the layers behind which they are taken
        taps = [layer + 1 for layer in _numbers(nested, name)]
    else:
        taps = [2, layers // 2, layers - _TAPS]
    if any(not 0 <= layer < layers for layer in taps) or sorted({*taps}) != taps:
        raise NotDescribed(f"hidden states before the layers {taps} of {layers}")
    return tuple(taps)


def _numbers(facts: Facts, name: str) -> list[int]:
    stated = facts.raw(name)
    if not isinstance(stated, list) or not all(
        isinstance(number, int) for number in cast("list[Any]", stated)
    ):
        raise NotDescribed(f"{name} is {stated!r}")
    return cast("list[int]", stated)


def _body(model: Architecture, layer: Layer, norm: str) -> Architecture:
    """Return a model of one layer with the tables of another."""
    return replace(
        model, layers=(layer,), norm=replace(model.norm, name=norm), inputs=None, logit_scale=1.0
    )


def renamed(part: _Part, prefix: str, other: str) -> _Part:
    """Return a description with tensors below `prefix` named below `other`."""
    if isinstance(part, str):
        begins = part.startswith(prefix)
        return cast("_Part", other + part.removeprefix(prefix)) if begins else part
    if isinstance(part, tuple):
        items = cast("tuple[Any, ...]", part)
        return cast("_Part", tuple(renamed(item, prefix, other) for item in items))
    if is_dataclass(part) and not isinstance(part, type):
        values = {field.name: getattr(part, field.name) for field in fields(part)}
        changed = {name: renamed(value, prefix, other) for name, value in values.items()}
        return cast("_Part", replace(cast("Any", part), **changed))
    return part
