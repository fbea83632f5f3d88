"""A Llama-family decoder as an OpenVINO graph, written so that the CPU plugin fuses it.

The plugin's fusions are matched by pattern: the RMS norm as power, mean, sqrt, divide; the rotation
as multiply, slice, concat, add over (tokens, heads, 1, size); a compressed weight as constant,
convert, multiply, reshape, convert, product. tests/integration/models/openvino/test_openvino_model.py looks at the
compiled graph, so that a release which no longer recognises them is noticed.

Inputs, N tokens of S sequences: `input_ids` (N), `cos` and `sin` (N, 1, 1, head size), `past_lens`
(S), `subsequence_begins` (S + 1), `block_indices`, `block_indices_begins` (S + 1),
`max_context_len` (), `window_indices` if some layers slide and others do not, `rows` (R) the tokens
whose logits are wanted, and `key_cache.<layer>`, `value_cache.<layer>` in the shapes that the plugin
chooses; with images, those of `images.py`. Outputs: `logits` (R, vocabulary) and
`hidden` (R, hidden size), the states that the head gets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from penstock.models.backends.openvino import images
from penstock.models.backends.openvino.runtime_library import (
    constant_class,
    openvino,
    opset,
    paged_attention_class,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from penstock.models.backends.llama_family import Decoder
    from penstock.models.weights.matrices import Format, Matrix
    from penstock.models.weights.source import Weights

_ROTATION = ("cos", "sin")
_PAGING = (
    "past_lens",
    "subsequence_begins",
    "block_indices",
    "block_indices_begins",
    "max_context_len",
)
_WINDOWS = "window_indices"
"""As `block_indices`, of layers that slide and have blocks of their own."""
_KEEP = 0
"""In a reshape's target: keep this dimension."""


class DecoderGraph:
    """Builds one model. Constants share the arrays' memory, which `arrays` keeps alive.

    `weights_bytes` counts the matrices and the embedding table. `image_layers` is how many of the
    first layers add features of images; None if the graph takes no images.
    Layers that are `apart` have blocks of their own.
    """

    def __init__(
        self,
        decoder: Decoder,
        checkpoint: Weights,
        form: Format,
        *,
        apart: frozenset[int] = frozenset(),
        image_layers: int | None = None,
    ) -> None:
        self.decoder = decoder
        self.image_layers = image_layers
        self._apart = apart
        self.checkpoint = checkpoint
        self.form: Format = form
        self.weights_bytes = 0
        self.arrays: list[NDArray[Any]] = []
        self._ops = opset()
        self._parameters: list[Any] = []
        self._window_indices: Any = None

    def build(self, progress: Callable[[float], None]) -> Any:
        """Return the `openvino.Model`; `progress` gets the share of finished layers.

        :raises ModelNotLoadable: the checkpoint lacks a tensor, or has one with a wrong shape.
        """
        ops, decoder = self._ops, self.decoder
        tokens = self._input("input_ids", [-1], "i64")
        rotation = [self._input(name, [-1, 1, 1, decoder.head_size], "f32") for name in _ROTATION]
        paging = [
            self._input(name, [] if name == "max_context_len" else [-1], "i32") for name in _PAGING
        ]
        if self._apart:
            self._window_indices = self._input(_WINDOWS, [-1], "i32")
        rows = self._input("rows", [-1], "i32")
        table = self.checkpoint.embeddings("model.embed_tokens.weight")
        hidden = ops.gather(self._constant_of(table), tokens, self._constant(0, np.int64))
        self.weights_bytes += table.nbytes
        if table.kind != "f32":
            hidden = ops.convert(hidden, "f32")
        image_rows = None if self.image_layers is None else self._input(images.ROWS, [-1], "i64")
        if image_rows is not None:
            is_image = ops.greater(image_rows, self._constant(0, np.int64))
            own = self._of_images(images.EMBEDDINGS, image_rows)
            hidden = ops.select(ops.unsqueeze(is_image, self._constant(1, np.int64)), own, hidden)
        for layer in range(decoder.layers):
            hidden = self._layer(layer, hidden, rotation, paging)
            if layer < (self.image_layers or 0):
                own = self._of_images(images.features_of(layer), image_rows)
                hidden = ops.add(hidden, own)
            progress((layer + 1) / decoder.layers)
        hidden = ops.gather(hidden, rows, self._constant(0, np.int64))
        normed = self._norm(hidden, "model.norm")
        logits = self._linear(normed, self._head_name(), decoder.vocab_size, decoder.hidden_size)
        logits.output(0).get_tensor().set_names({"logits"})
        normed.output(0).get_tensor().set_names({"hidden"})
        results = [ops.result(logits), ops.result(normed)]
        return openvino().Model(results, self._parameters, "decoder")

    def _of_images(self, name: str, rows: Any) -> Any:
        """Each token's row of an input, (N, hidden)."""
        values = self._input(name, [-1, self.decoder.hidden_size], "f32")
        return self._ops.gather(values, rows, self._constant(0, np.int64))

    def _head_name(self) -> str:
        tied = self.decoder.tied_embeddings and not self.checkpoint.has("lm_head.weight")
        return "model.embed_tokens" if tied else "lm_head"

    def _layer(self, layer: int, hidden: Any, rotation: list[Any], paging: list[Any]) -> Any:
        ops, decoder = self._ops, self.decoder
        name = f"model.layers.{layer}"
        normed = self._norm(hidden, f"{name}.input_layernorm")
        attended = self._attention(layer, normed, rotation, paging)
        width, inner = decoder.hidden_size, decoder.intermediate_size
        across = decoder.heads * decoder.head_size
        hidden = ops.add(hidden, self._linear(attended, f"{name}.self_attn.o_proj", width, across))
        normed = self._norm(hidden, f"{name}.post_attention_layernorm")
        gate = ops.swish(self._linear(normed, f"{name}.mlp.gate_proj", inner, width))
        up = self._linear(normed, f"{name}.mlp.up_proj", inner, width)
        down = self._linear(ops.multiply(gate, up), f"{name}.mlp.down_proj", width, inner)
        return ops.add(hidden, down)

    def _attention(self, layer: int, normed: Any, rotation: list[Any], paging: list[Any]) -> Any:
        """Attention's output before its projection, (N, heads x head size)."""
        decoder = self.decoder
        name = f"model.layers.{layer}.self_attn"
        size = decoder.head_size
        width, narrow = decoder.hidden_size, decoder.kv_heads * size
        query = self._linear(normed, f"{name}.q_proj", decoder.heads * size, width)
        key = self._linear(normed, f"{name}.k_proj", narrow, width)
        value = self._linear(normed, f"{name}.v_proj", narrow, width)
        query = self._rotate(query, decoder.heads, rotation, f"{name}.q_norm")
        key = self._rotate(key, decoder.kv_heads, rotation, f"{name}.k_norm")
        caches = [self._cache(f"{kind}_cache.{layer}") for kind in ("key", "value")]
        if layer in self._apart:
            past_lens, begins, _, *rest = paging
            paging = [past_lens, begins, self._window_indices, *rest]
        node = paged_attention_class()(
            [
                argument.output(0)
                for argument in (
                    *(query, key, value),
                    *caches,
                    *paging[:-1],
                    self._constant(size**-0.5, np.float32),  # scale
                    self._constant(decoder.sliding_windows[layer], np.int32),
                    self._none(np.float32),  # alibi slopes
                    paging[-1],
                    *self._unused(),
                )
            ]
        )
        # From these the plugin derives the shapes of its caches.
        facts = node.get_rt_info()
        facts["num_k_heads"] = facts["num_v_heads"] = decoder.kv_heads
        facts["k_head_size"] = facts["v_head_size"] = size
        return node.output(0)

    def _unused(self) -> list[Any]:
        """Inputs 13 to 27 of the operation: scores, rotation, sparse attention, eviction, trees."""
        none, integer = self._none, np.int32
        return [
            none(integer),  # score aggregation window
            none(integer),  # rotated block indices
            none(integer, 2),  # rotation deltas
            none(np.float32, 2),  # rotation table
            none(np.float32),  # sparse attention: threshold
            self._constant(0, integer),  # its block size
            self._constant(0, integer),  # its stride
            none(np.float32),  # sinks
            self._constant(0, integer),  # eviction: start
            *(none(integer) for _ in range(3)),
            none(integer),  # token types
            none(np.uint8),  # tree mask
            none(integer),  # its begins
        ]

    def _rotate(self, projected: Any, heads: int, rotation: list[Any], norm: str) -> Any:
        """Rotary embedding of (N, heads x size), after the per-head norm if there is one."""
        ops, size = self._ops, self.decoder.head_size
        split = ops.reshape(projected, self._shape(_KEEP, 1, heads, size), special_zero=True)
        if self.decoder.qk_norm:
            split = self._norm(split, norm)
        split = ops.transpose(split, self._shape(0, 2, 1, 3))
        first = self._slice(split, 0, size // 2)
        second = self._slice(split, size // 2, size)
        turned = ops.concat([ops.multiply(second, self._constant(-1, np.float32)), first], -1)
        rotated = ops.add(ops.multiply(split, rotation[0]), ops.multiply(turned, rotation[1]))
        merged = ops.transpose(rotated, self._shape(0, 2, 1, 3))
        return ops.reshape(merged, self._shape(_KEEP, heads * size), special_zero=True)

    def _slice(self, whole: Any, start: int, stop: int) -> Any:
        shape = self._shape
        return self._ops.slice(whole, shape(start), shape(stop), shape(1), shape(3))

    def _norm(self, hidden: Any, name: str) -> Any:
        ops = self._ops
        squares = ops.power(hidden, self._constant(2, np.float32))
        mean = ops.reduce_mean(squares, self._shape(-1), keep_dims=True)
        root = ops.sqrt(ops.add(mean, self._constant(self.decoder.norm_epsilon, np.float32)))
        scaled = ops.multiply(hidden, ops.divide(self._constant(1, np.float32), root))
        return ops.multiply(scaled, ops.constant(self.checkpoint.vector(f"{name}.weight")))

    def _linear(self, hidden: Any, name: str, rows: int, columns: int) -> Any:
        """Return the product with a weight, plus its bias if there is one."""
        matrix = self.checkpoint.matrix(f"{name}.weight", (rows, columns), self.form)
        self.weights_bytes += matrix.nbytes
        product = self._ops.matmul(
            hidden, self._decompressed(matrix), transpose_a=False, transpose_b=True
        )
        if not self.checkpoint.has(f"{name}.bias"):
            return product
        bias = self.checkpoint.vector(f"{name}.bias")
        return self._ops.add(product, self._ops.constant(bias.reshape(1, -1)))

    def _decompressed(self, matrix: Matrix) -> Any:
        """The matrix in fp32 as the graph sees it; the plugin keeps it compressed."""
        ops = self._ops
        values = self._constant_of(matrix)
        if matrix.kind == "f32":
            return values
        if matrix.scales is None:
            return ops.convert(values, "f32")
        if matrix.kind == "i8":
            scales = self._shared(matrix.scales, matrix.scales.shape, "f32")
            return ops.multiply(ops.convert(values, "f32"), scales)
        groups = matrix.scales.shape[1]
        scales = self._shared(matrix.scales, (matrix.rows, groups, 1), "f16")
        whole = ops.multiply(ops.convert(values, "f16"), scales)
        whole = ops.reshape(whole, self._shape(matrix.rows, matrix.columns), special_zero=False)
        return ops.convert(whole, "f32")

    def _constant_of(self, matrix: Matrix) -> Any:
        shape: tuple[int, ...] = (matrix.rows, matrix.columns)
        if matrix.kind == "i4" and matrix.scales is not None:
            groups = matrix.scales.shape[1]
            shape = (matrix.rows, groups, matrix.columns // groups)
        return self._shared(matrix.values, shape, matrix.kind)

    def _shared(self, array: NDArray[Any], shape: tuple[int, ...], kind: str) -> Any:
        library = openvino()
        array = np.ascontiguousarray(array)
        self.arrays.append(array)
        tensor = library.Tensor(array, library.Shape(list(shape)), getattr(library.Type, kind))
        return constant_class()(tensor, shared_memory=True)

    def _input(self, name: str, shape: list[int], kind: str) -> Any:
        library = openvino()
        return self._named(library.PartialShape(shape), getattr(library.Type, kind), name)

    def _cache(self, name: str) -> Any:
        """An input whose shape and type the plugin chooses."""
        library = openvino()
        return self._named(library.PartialShape.dynamic(4), library.Type.dynamic, name)

    def _named(self, shape: Any, kind: Any, name: str) -> Any:
        parameter = self._ops.parameter(shape, kind)
        parameter.set_friendly_name(name)
        parameter.output(0).get_tensor().set_names({name})
        self._parameters.append(parameter)
        return parameter

    def _constant(self, value: float, kind: type[np.generic]) -> Any:
        return self._ops.constant(np.asarray(value, dtype=kind))

    def _none(self, kind: type[np.generic], rank: int = 1) -> Any:
        return self._ops.constant(np.zeros((0,) * rank, dtype=kind))

    def _shape(self, *sizes: int) -> Any:
        return self._ops.constant(np.asarray(sizes, dtype=np.int64))
