"""The parts of a decoder-only model, as a backend that computes it itself must know them.

Names are those of the checkpoint's tensors, without `.weight`; a bias is there if the checkpoint
has `<name>.bias`. Sizes are counted in elements. Everything is frozen and says what is computed,
never which model it is.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

Activation = Literal["silu", "gelu", "gelu_tanh", "relu", "relu2"]
"""`gelu` is the exact one, `gelu_tanh` its usual approximation, `relu2` the square of ReLU."""


@dataclass(frozen=True, slots=True)
class Norm:
    """Of `rms` the weight is applied to x / rms(x), of `layer` to (x - mean) / deviation.

    `offset` is added to the weight. `name` None: the weight is 1, and there is no bias.
    """

    name: str | None
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0


@dataclass(frozen=True, slots=True)
class HeadNorms:
    """Norms of queries and keys, before their rotation.

    `query` and `key` name one weight each, or one a head. Of a single weight that is as long as
    all heads together each head has its own part. `together`: the mean is taken over all heads of
    a token, else over each head.
    """

    query: tuple[str, ...]
    key: tuple[str, ...]
    epsilon: float
    kind: Literal["rms", "layer"] = "rms"
    offset: float = 0.0
    together: bool = False


@dataclass(frozen=True, slots=True)
class Rows:
    """`rows` rows of the matrix `name` from row `first` on; `total` is how many it has, 0: these."""

    name: str
    rows: int
    first: int = 0
    total: int = 0

    @property
    def tensor_rows(self) -> int:
        """How many rows the checkpoint's matrix has."""
        return self.total or self.rows


@dataclass(frozen=True, slots=True)
class Rotation:
    """Rotary embeddings of the first `size` elements of a head.

    `interleaved`: neighbours are turned together, else each element with the one half of `size`
    further on. `kind` and `scaling` are Transformers' `rope_type` with its parameters. `context`
    is what the model was made for, in positions.
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

    `rotation` None: positions are not seen. `window` counts the keys that a query sees, 0 for all.
    Scores are multiplied by `scale`; a `soft_cap` c above 0 makes of them c tanh(score / c).
    `sinks` names a logit a head that takes part in the softmax and stands for no value.
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


@dataclass(frozen=True, slots=True)
class Dense:
    """down(activation(gate(x)) * up(x)), or without a gate down(activation(up(x)))."""

    size: int
    activation: Activation
    gate: Rows | None
    up: Rows
    down: Rows


@dataclass(frozen=True, slots=True)
class Routing:
    """How each token chooses `chosen` of `experts`, and what each counts.

    `router` is a matrix with a row an expert. Scores are what `scoring` makes of its products:
    `softmax_of_chosen` chooses first. `correction` names what is added to scores as they choose,
    not as they count. Only the best `chosen_groups` of `groups` of neighbours may be chosen from;
    a group's score is the sum of its `group_best` best. Chosen scores are divided by their sum if
    `normalise`, which is at least `least_sum`, plus `added_sum`; then multiplied by `scale`.
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
    groups: int = 1
    chosen_groups: int = 1
    group_best: int = 1


@dataclass(frozen=True, slots=True)
class ExpertMatrices:
    """Where the experts' matrices lie.

    Each by itself: `gate`, `up` and `down` with the expert's number in place of `{}`. Or all in
    one tensor of three dimensions, `together` and `down_together`, gates before ups; `transposed`
    tensors have a column an output, of `interleaved` ones gates and ups take turns. Biases of the
    latter have `_bias` at their names.
    """

    gate: str
    up: str
    down: str
    together: str
    down_together: str
    transposed: bool = False
    interleaved: bool = False


@dataclass(frozen=True, slots=True)
class ClampedGate:
    """(u + 1) g sigmoid(`alpha` g) of gate g and up u, g at most `limit`, u within both limits."""

    alpha: float
    limit: float


@dataclass(frozen=True, slots=True)
class Experts:
    """A mixture of experts, each a gated MLP of `size`; `shared` has every token beside them.

    `shared_gate` names a matrix of one row: `shared` counts the sigmoid of its product.
    """

    size: int
    activation: Activation | ClampedGate
    routing: Routing
    matrices: ExpertMatrices
    shared: Dense | None = None
    shared_gate: str | None = None


Mlp: TypeAlias = Dense | Experts
"""What follows attention in a layer. A new kind joins this union, with its own dataclass."""


def dense_part(mlp: Mlp) -> Dense | None:
    """What every token goes through: the MLP itself, or what stands beside experts."""
    return mlp if isinstance(mlp, Dense) else mlp.shared


@dataclass(frozen=True, slots=True)
class Layer:
    """h += r out(attention(in(h))), then the same with the MLP; a norm that is None is not there.

    `parallel`: the MLP reads what attention reads, h as it was before both. If it has no norm
    `mlp_in` of its own then, it takes what `attention_in` made. r is `residual_scale`.
    """

    attention: Attention
    mlp: Mlp
    attention_in: Norm | None
    mlp_in: Norm | None
    attention_out: Norm | None = None
    mlp_out: Norm | None = None
    parallel: bool = False
    residual_scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Architecture:
    """A whole model. Logits are head(norm(h)) times `logit_scale`, then capped like scores.

    `head` is not read where `tied` says that it is the embeddings and the checkpoint lacks it.
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
