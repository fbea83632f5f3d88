"""Attention over torch's cache by the native library: against torch's own, and its promises."""

from __future__ import annotations

import random
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn import functional

from penstock.models.backends.native import attention
from penstock.models.backends.native.attention import Attention, Layer, Rotation

if TYPE_CHECKING:
    from penstock.models.backends.native.library import Isa

pytestmark = pytest.mark.timeout(300)  # the first one compiles: see `avx_vnni_by_evex`

if not attention.is_available():
    pytest.skip("no native library, or no kernels for this CPU", allow_module_level=True)

BLOCK = 16
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


@dataclass
class Part:
    """What a step computes of a sequence: tokens `start .. start + count - 1`."""

    key: int
    start: int
    count: int


class Store:
    """The cache of one layer, with whole sequences in it; all else is NaN.

    `by_token` has the heads of a token side by side, as `models.attention.PagedAttention` keeps
    them.
    """

    def __init__(
        self,
        lengths: list[int],
        *,
        heads: int = 4,
        kv_heads: int = 2,
        size: int = 32,
        window: int = 0,
        dtype: torch.dtype = torch.float32,
        by_token: bool = False,
    ) -> None:
        generator = torch.Generator().manual_seed(len(lengths) + size)
        self.heads, self.window, self.dtype = heads, window, dtype
        self.queries, self.keys, self.values = (
            [
                torch.randn((length, count, size), generator=generator).mul(scale).to(dtype)
                for length in lengths
            ]
            for count, scale in ((heads, 2), (kv_heads, 1), (kv_heads, 1))
        )
        counts = [-(-length // BLOCK) for length in lengths]
        order = list(range(sum(counts) + 2))
        random.Random(1).shuffle(order)
        self.tables = [[order.pop() for _ in range(count)] for count in counts]
        inner = (BLOCK, kv_heads) if by_token else (kv_heads, BLOCK)
        caches = [
            torch.full((sum(counts) + 2, *inner, size), torch.nan, dtype=dtype) for _ in range(2)
        ]
        if by_token:
            caches = [cache.transpose(1, 2) for cache in caches]
        keys, values = caches
        self.layer = Layer(keys, values, heads, window, size**-0.5)
        for key, length in enumerate(lengths):
            for position in range(length):
                place = self.tables[key][position // BLOCK], slice(None), position % BLOCK
                caches[0][place] = self.keys[key][position]
                caches[1][place] = self.values[key][position]

    def begin(self, ours: Attention, parts: list[Part]) -> None:
        begins = np.cumsum([0, *(part.count for part in parts)]).astype(np.int32)
        tables = [self.tables[part.key] for part in parts]
        ours.begin(
            past_lens=np.array([part.start for part in parts], np.int32),
            subsequence_begins=begins,
            block_indices=np.array([block for table in tables for block in table], np.int32),
            block_indices_begins=np.cumsum([0, *map(len, tables)]).astype(np.int32),
            block_size=BLOCK,
        )

    def attend(self, ours: Attention, parts: list[Part]) -> list[torch.Tensor]:
        """Of each part, (count, heads, size)."""
        self.begin(ours, parts)
        queries = [self.queries[one.key][one.start : one.start + one.count] for one in parts]
        out = ours.attend(torch.cat(queries), self.layer)
        return list(out.split([part.count for part in parts]))

    def expected(self, part: Part) -> torch.Tensor:
        end = part.start + part.count
        query = self.queries[part.key][part.start : end].float().transpose(0, 1)
        keys, values = (
            one[part.key][:end].float().transpose(0, 1) for one in (self.keys, self.values)
        )
        places, positions = torch.arange(end)[None], torch.arange(part.start, end)[:, None]
        seen = places <= positions
        if self.window:
            seen &= places > positions - self.window
        return functional.scaled_dot_product_attention(
            query[None], keys[None], values[None], attn_mask=seen, enable_gqa=True
        )[0].transpose(0, 1)

    def check(self, ours: Attention, parts: list[Part]) -> None:
        for part, found in zip(parts, self.attend(ours, parts), strict=True):
            assert found.dtype == self.dtype
            error = (found.float() - self.expected(part)).abs().max()
            assert error < TOLERANCE[self.dtype], (part, float(error))


PARTS = [
    Part(0, 700, 1),
    Part(1, 16, 1),
    Part(2, 1535, 1),
    Part(3, 0, 1),
    Part(4, 0, 37),
    Part(5, 5, 130),
    Part(6, 511, 70),
    Part(7, 1023, 2),
]
LENGTHS = [part.start + part.count for part in PARTS]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("window", [0, 1, 24, 513])
def test_it_is_torchs_attention(isa: Isa, dtype: torch.dtype, window: int) -> None:
    Store(LENGTHS, window=window, dtype=dtype).check(Attention(isa), PARTS)


@pytest.mark.parametrize(
    ("heads", "size"),
    [
        *(((4, 4), size) for size in (16, 48, 80, 128, 256)),
        *(((8, 1), size) for size in (48, 128, 256)),
        *(((6, 2), size) for size in (16, 80, 128)),
        *(((7, 1), size) for size in (16, 48, 80)),
        *(((24, 8), size) for size in (16, 80, 128)),
        *(((71, 1), size) for size in (48, 80)),  # Falcon's number, which costs the most
    ],
)
def test_heads_of_any_number_and_size(isa: Isa, heads: tuple[int, int], size: int) -> None:
    store = Store(LENGTHS, heads=heads[0], kv_heads=heads[1], size=size)
    store.check(Attention(isa), PARTS)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_cache_whose_heads_lie_side_by_side(isa: Isa, dtype: torch.dtype) -> None:
    Store(LENGTHS, window=40, dtype=dtype, by_token=True).check(Attention(isa), PARTS)


def test_neighbours_chunks_and_threads_change_no_bit(isa: Isa) -> None:
    lengths = [1100, 3, 33, 600]
    for dtype, window in ((torch.float32, 0), (torch.bfloat16, 70)):
        store = Store(lengths, heads=6, kv_heads=2, window=window, dtype=dtype)
        ours = Attention(isa)
        alone = [store.attend(ours, [Part(key, 0, end)])[0] for key, end in enumerate(lengths)]
        chance = random.Random(3)
        done = [0] * len(lengths)
        before = torch.get_num_threads()
        try:
            while any(left < end for left, end in zip(done, lengths, strict=True)):
                torch.set_num_threads(chance.choice((1, 2, 3)))
                parts = [
                    Part(key, done[key], min(end - done[key], chance.choice((1, 1, 2, 70, 300))))
                    for key, end in enumerate(lengths)
                    if done[key] < end and chance.random() < 0.8
                ]
                for part, found in (
                    zip(parts, store.attend(ours, parts), strict=True) if parts else ()
                ):
                    wanted = alone[part.key][part.start : part.start + part.count]
                    assert torch.equal(found, wanted)
                    done[part.key] += part.count
        finally:
            torch.set_num_threads(before)


def test_every_instruction_set_gives_the_same_bits(isa: Isa) -> None:
    for dtype in TOLERANCE:
        store = Store(LENGTHS, heads=7, kv_heads=1, size=80, dtype=dtype)
        best = store.attend(Attention(), PARTS)
        found = store.attend(Attention(isa), PARTS)
        assert all(map(torch.equal, found, best))


def test_queries_of_any_strides() -> None:
    store = Store([50])
    parts = [Part(0, 0, 50)]
    ours = Attention()
    (wanted,) = store.attend(ours, parts)
    store.begin(ours, parts)
    by_head = store.queries[0].transpose(0, 1).contiguous().transpose(0, 1)
    assert torch.equal(ours.attend(by_head, store.layer), wanted)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("normed", [False, True])
def test_rotation_is_torchs(isa: Isa, dtype: torch.dtype, *, normed: bool) -> None:
    from penstock.models.architecture.reading import describe
    from penstock.models.backends.lean.graphs.step_rows import Step
    from penstock.models.backends.lean.operations.ops import AttentionLayer, LayerCache
    from penstock.models.backends.lean.operations.torch_attention import TorchAttention
    from penstock.models.backends.lean.shape import Shape, Sizes, Turning
    from penstock.models.backends.lean.weights import HeadNorms

    heads, kv_heads, size, lengths = 5, 5, 48, [40, 7, 300]
    angles = torch.rand(300, size // 2) * 6
    norms = [torch.rand(size).add(0.5).to(dtype) for _ in range(2)]
    store = Store(lengths, heads=heads, kv_heads=kv_heads, size=size, dtype=dtype)
    parts = [Part(0, 39, 1), Part(1, 6, 1), Part(2, 250, 50)]
    qkv = torch.randn(52, heads + 2 * kv_heads, size).to(dtype)
    qkv[0, 0, 0] = torch.nan
    ours = Attention(isa)
    store.begin(ours, parts)
    found = qkv.clone()
    cosines, sines = angles.cos(), angles.sin()
    rotation = Rotation(cosines, sines, *(norms if normed else (None, None)), epsilon=1e-6)
    ours.rotate(found, store.layer, rotation)

    model = describe(
        {
            "model_type": "llama", "hidden_size": heads * size, "num_attention_heads": heads,
            "num_key_value_heads": kv_heads, "num_hidden_layers": 1, "intermediate_size": 8,
        }
    )  # fmt: skip
    shape = Shape(Sizes(1, heads * size, 8, heads, kv_heads, size, 8), 300, model)
    cache = LayerCache(*(torch.zeros_like(one) for one in (store.layer.keys, store.layer.values)))
    head_norms = HeadNorms(*norms, epsilon=1e-6) if normed else None
    layer = AttentionLayer(shape, Turning(cosines, sines, size), head_norms, 0, cache, size**-0.5)
    tables = torch.zeros((3, 20), dtype=torch.int32)
    for row, table in enumerate(store.tables):
        tables[row, : len(table)] = torch.tensor(table)
    positions = [39, 6, *range(250, 300)]
    fields = torch.zeros((5, 52), dtype=torch.int32)
    fields[1], fields[2] = torch.tensor(positions), torch.tensor([0, 1] + [2] * 50)
    chunks = torch.tensor([[2, 50, 250, 2]], dtype=torch.int32)
    step = Step(fields, torch.zeros(3, dtype=torch.int32), tables, 2, chunks, 50)
    wanted = qkv.clone().view(52, -1)
    TorchAttention().rotate(wanted, step, layer)
    error = 0 if not normed else TOLERANCE[dtype]
    torch.testing.assert_close(found.view(52, -1), wanted, rtol=0, atol=4 * error, equal_nan=True)
    for mine, theirs in ((store.layer.keys, cache.keys), (store.layer.values, cache.values)):
        for part in parts:
            for position in range(part.start, part.start + part.count):
                place = store.tables[part.key][position // BLOCK], slice(None), position % BLOCK
                torch.testing.assert_close(
                    mine[place], theirs[place], rtol=0, atol=4 * error, equal_nan=True
                )


def test_it_computes_by_torchs_own_threads() -> None:
    store = Store([2000], heads=8)
    counts: list[int] = []

    def count() -> None:
        counts.append(len(list(Path("/proc/self/task").iterdir())))

    def work() -> None:  # OpenMP's threads belong to the one that asks for them
        torch.set_num_threads(3)
        count()
        store.attend(Attention(), [Part(0, 1900, 100)])
        count()
        torch.ones(1 << 22).exp_()
        count()

    before = torch.get_num_threads()
    asking = threading.Thread(target=work)
    asking.start()
    asking.join()
    torch.set_num_threads(before)
    assert counts == [counts[0], counts[0] + 2, counts[0] + 2]


def test_what_cannot_be_is_refused_with_a_line() -> None:
    store = Store([40])
    ours = Attention()
    queries = store.queries[0]
    with pytest.raises(ValueError, match="for 0 tokens"):
        ours.attend(queries, store.layer)
    with pytest.raises(ValueError, match="fewer blocks"):
        store.begin(ours, [Part(0, 48, 1)])
    store.begin(ours, [Part(0, 0, 40)])
    layer = store.layer
    for changed, message in (
        (Layer(layer.keys[:1], layer.values[:1], 4, 0, 1.0), "outside the cache"),
        (Layer(layer.keys, layer.values[:, :1].expand(-1, 2, -1, -1), 4, 0, 1.0), "strides"),
        (Layer(layer.keys.double(), layer.values, 4, 0, 1.0), "queries of"),
        (Layer(layer.keys[:, :, :8], layer.values[:, :, :8], 4, 0, 1.0), "another size"),
    ):
        with pytest.raises(ValueError, match=message):
            ours.attend(queries, changed)
    for few in (queries[:39], queries[:, :3], queries[..., :16]):
        with pytest.raises(ValueError, match="for 40 tokens"):
            ours.attend(few, layer)
    narrow = Layer(layer.keys[..., :24], layer.values[..., :24], 4, 0, 1.0)
    with pytest.raises(ValueError, match="multiple of 16"):
        ours.attend(queries[..., :24], narrow)
    with pytest.raises(ValueError, match="do not divide"):
        ours.attend(queries[:, :3], Layer(layer.keys, layer.values, 3, 0, 1.0))
    short = Rotation(torch.zeros(39, 16), torch.zeros(39, 16))
    with pytest.raises(ValueError, match="past the rotary tables"):
        ours.rotate(torch.zeros(40, 8, 32), layer, short)
    with pytest.raises(ValueError, match="40 tokens of 8 heads"):
        ours.rotate(torch.zeros(39, 8, 32), layer, short)
    with pytest.raises(ValueError, match="rotary tables"):
        ours.rotate(torch.zeros(40, 8, 32), layer, Rotation(torch.zeros(40, 8), torch.zeros(40, 8)))
    assert not attention.fits(24)
    assert attention.fits(512)
    assert not attention.fits(528)
