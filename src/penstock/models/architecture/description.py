"""The parts of a decoder-only model, as needed by a backend that computes it itself.

Names are those of the checkpoint's tensors, without `.weight`; a bias exists if the checkpoint has
`<name>.bias`. Sizes are numbers of elements. Everything is frozen and describes what is computed,
not which model it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from penstock.models.architecture.rows import Rows

if TYPE_CHECKING:
    from penstock.models.architecture.elements import Activation, Norm
    from penstock.models.architecture.latent import Latent
    from penstock.models.architecture.mixers import Mixer
    from penstock.models.architecture.side_paths import Apart, Detour, LayerInputs, OwnInput


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of queries and keys, before their rotation.

    `query` and `key` name one weight each, or one a head. If a single weight is as long as all
    heads together, each head has its own part. `together`: the mean is taken over all heads of a
    token, otherwise over each head.
    """

    query: tuple[str, ...]
    key: tuple[str, ...]
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary embeddings of the first `size` elements of a head.

    `interleaved`: neighbouring elements are rotated together; otherwise each element with the one
    half of `size` after it. `kind` and `scaling` are Transformers' `rope_type` and its parameters.
    `context` is the length that the model was made for, in positions.
    """

    size: int
    theta: float
    kind: str = "default"
    interleaved: bool = False
    context: int = 0
    scaling: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)


@dataclass(frozen=True, slots=True)
class QueryGrowth:
    """Queries grow by 1 + `beta` ln(1 + floor(position / `length`))."""

    beta: float
    length: int


@dataclass(frozen=True, slots=True)
class Attention:
    """Causal attention of grouped heads.

    If `rotation` is None, there are no positions. `window` is the number of keys that a query sees,
    0 for all. Scores are multiplied by `scale`; a `soft_cap` c above 0 turns them into c tanh(score
    / c). `sinks` names a logit for each head that takes part in the softmax without a value. The
    results are multiplied by the sigmoid of `gate`, if there is one; the last product by
    `result_scale`. An attention with no heads means that there is none. Values are normed by head
    with `value_norm`. `keys_of`: it has the keys and values of that earlier layer. With a `latent`
    part, `head_size` and `kv_heads` are those of expanded keys, `key` and `value` are not read.
    """

    heads: int
    kv_heads: int
    head_size: int
    query: Rows
    key: Rows
    value: Rows
    output: Rows
    rotation: Rotation | None
    scale: float
    window: int = 0
    soft_cap: float = 0.0
    head_norms: HeadNorms | None = None
    growth: QueryGrowth | None = None
    sinks: str | None = None
    gate: Rows | None = None
    result_scale: float = 1.0
    value_norm: Norm | None = None
    keys_of: int | None = None
    latent: Latent | None = None


NO_ROWS = Rows("", 0)
NO_ATTENTION = Attention(0, 0, 0, NO_ROWS, NO_ROWS, NO_ROWS, NO_ROWS, None, 1.0)
"""Of a layer that sees earlier tokens by its mixer alone, or not at all."""


@dataclass(frozen=True, slots=True)
class Dense:
    """down(activation(gate(x)) * up(x)), or without a gate, down(activation(up(x))).

    gate(x) is multiplied by `gate_scale`, the whole by `result_scale`. A `size` of 0: there is none.
    """

    size: int
    activation: Activation
    gate: Rows | None
    up: Rows
    down: Rows
    gate_scale: float = 1.0
    result_scale: float = 1.0


NO_MLP = Dense(0, "silu", None, NO_ROWS, NO_ROWS)
"""Of a layer that ends with attention, or a mixer."""


@dataclass(frozen=True, slots=True)
class Routing:
    """How each token chooses `chosen` of `experts`, and the weight of each.

    `router` is a matrix with a row an expert. `scoring` turns its products into scores;
    `softmax_of_chosen` chooses first. `correction` names values added to the scores for choosing,
    but not for weights. Only the best `chosen_groups` of `groups` (of neighbours) take part; a
    group's
    score is the sum of its `group_best` best. If `normalise`, chosen scores are divided by their sum,
    which is at least `least_sum`, plus `added_sum`; then they are multiplied by `scale`, and by what
    the tensor `weights` has of each expert.
    """

    router: str
    experts: int
    chosen: int
    scoring: Literal["softmax", "softmax_of_chosen", "sigmoid"] = "softmax"
    correction: str | None = None
    normalise: bool = True
    least_sum: float = 0.0
    added_sum: float = 0.0
    scale: float = 1.0
    weights: str | None = None
    groups: int = 1
    chosen_groups: int = 1
    group_best: int = 1

    @property
    def is_exact(self) -> bool:
        """Whether models compute the router's products in float32, whatever their type."""
        return self.scoring == "sigmoid" or self.correction is not None


@dataclass(frozen=True, slots=True)
class ExpertMatrices:
    """The experts' matrices in the checkpoint.

    Either one by one: `gate`, `up` and `down`, with the expert's number in place of `{}`. Or all in
    one tensor of three dimensions, `together` and `down_together`, gates before ups. `transposed`
    tensors have a column an output; in `interleaved` ones gates and ups alternate. The latter's
    biases have the suffix `_bias`. Experts that are not `gated` have ups alone.
    """

    gate: str
    up: str
    down: str
    together: str
    down_together: str
    transposed: bool = False
    interleaved: bool = False
    gated: bool = True


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """(u + 1) g sigmoid(`alpha` g) for gate g and up u; g is at most `limit`, |u| too."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts, each an MLP of `size`; every token also passes through `shared`.

    `shared_gate` names a matrix of one row: the sigmoid of its product is the weight of `shared`.
    Or the experts stand `apart` from it.
    """

    size: int
    activation: Activation | ClampedGate
    routing: Routing
    matrices: ExpertMatrices
    shared: Dense | None = None
    shared_gate: str | None = None
    apart: Apart | None = None


Mlp: TypeAlias = Dense | Experts
"""What follows attention in a layer. A new kind gets its own dataclass and joins this union."""


def dense_part(mlp: Mlp) -> Dense | None:
    """Return the MLP that every token passes through: the MLP itself, or the one beside experts."""
    return mlp if isinstance(mlp, Dense) else mlp.shared


@dataclass(frozen=True, slots=True)
class Layer:
    """h += r out(attention(in(h))), then the same with the MLP; norms that are None are absent.

    `parallel`: the MLP reads the same h as attention. Without its own norm `mlp_in`, it then takes
    the output of `attention_in`. r is `residual_scale`. A `mixer` reads what attention reads, and
    its result is added in the same way; with a `detour` it alone changes h. Last comes an input of
    the layer's own, and h is multiplied by the number that the tensor `scale` holds. The attention of
    a `wide` layer reads what stands beside h, of the same size, and then in(h); only heads that draft
    have such layers.
    """

    attention: Attention
    mlp: Mlp
    attention_in: Norm | None
    mlp_in: Norm | None
    attention_out: Norm | None = None
    mlp_out: Norm | None = None
    parallel: bool = False
    residual_scale: float = 1.0
    mixer: Mixer | None = None
    own_input: OwnInput | None = None
    scale: str | None = None
    detour: Detour | None = None
    wide: bool = False

    @property
    def attends(self) -> bool:
        """Whether it has attention."""
        return self.attention.heads > 0


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole model. Logits are head(norm(h)) times `logit_scale`, then capped like scores.

    `head` is not read if it is `tied` to the embeddings and missing in the checkpoint.
    """

    family: str
    hidden_size: int
    vocab_size: int
    context_length: int
    layers: tuple[Layer, ...]
    embeddings: str
    norm: Norm
    head: Rows
    tied: bool
    embedding_scale: float = 1.0
    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    inputs: LayerInputs | None = None

    @property
    def attending(self) -> tuple[Layer, ...]:
        """The layers that have attention."""
        return tuple(layer for layer in self.layers if layer.attends)
