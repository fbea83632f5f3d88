# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Paged flash attention of long chunks on NVIDIA's Hopper, in Gluon, Triton's lower level.

The order of work is FlashAttention-3's (Shah et al., 2024). One warpgroup copies keys and values, tile
by tile, into shared memory. Two more have 64 queries each: while the matrix units multiply one tile's
weights by its values, these exponentiate the next tile's scores, and the other warpgroup's products
run meanwhile. Tiles are taken from the last to the first, so that the masked ones come first.
"""

from __future__ import annotations

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    warpgroup_mma,
    warpgroup_mma_wait,
)

QUERIES: gl.constexpr = gl.constexpr(64)
"""Of one warpgroup; a program has twice as many."""


@gluon.jit
def _blocks(table_ptr, tile, end, BLOCK: gl.constexpr, TILE: gl.constexpr):
    """Where the blocks of a tile are in a layer's cache; the first for those from `end` on."""
    blocks = ()
    for part in gl.static_range(TILE // BLOCK):
        at = tile * (TILE // BLOCK) + part
        blocks += (gl.load(table_ptr + at, mask=at * BLOCK < end, other=0),)
    return blocks


@gluon.jit
def _copy(
    copied_ptr,
    blocks,
    into,
    filled,
    rows,
    BLOCK_STRIDE: gl.constexpr,
    HEAD_SIZE: gl.constexpr,
    BLOCK: gl.constexpr,
    TILE: gl.constexpr,
):
    """Begin to copy a tile's `rows`, zeros from there on; `filled` counts the threads that are done."""
    layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    row = gl.arange(0, BLOCK, layout=gl.SliceLayout(1, layout))
    column = gl.arange(0, HEAD_SIZE, layout=gl.SliceLayout(0, layout))
    within = row[:, None] * HEAD_SIZE + column[None, :]
    for part in gl.static_range(TILE // BLOCK):
        start = copied_ptr + blocks[part].to(gl.int64) * BLOCK_STRIDE
        async_copy.async_copy_global_to_shared(
            into.slice(part * BLOCK, BLOCK),
            start + within,
            mask=(row < rows - part * BLOCK)[:, None],
        )
    async_copy.mbarrier_arrive(filled, increment_count=False)


@gluon.jit
def _copying(
    keys_ptr,
    values_ptr,
    table_ptr,
    both,
    end,
    BLOCK_STRIDE: gl.constexpr,
    BLOCK: gl.constexpr,
    FORM: gl.constexpr,
):
    """The warpgroup that copies a program's tiles of keys and values, the last first."""
    keys, values, barriers, tiles = both
    head_size: gl.constexpr = FORM[0]
    tile_size: gl.constexpr = FORM[1]
    stages: gl.constexpr = FORM[2]
    keys_filled, keys_read, values_filled, values_read, _ = barriers
    for turn in range(tiles):
        stage = turn % stages
        phase = ((turn // stages) & 1) ^ 1
        tile = tiles - 1 - turn
        rows = end - tile * tile_size
        blocks = _blocks(table_ptr, tile, end, BLOCK, tile_size)
        mbarrier.wait(keys_read.index(stage), phase)
        into, filled = keys.index(stage), keys_filled.index(stage)
        _copy(keys_ptr, blocks, into, filled, rows, BLOCK_STRIDE, head_size, BLOCK, tile_size)
        mbarrier.wait(values_read.index(stage), phase)
        into, filled = values.index(stage), values_filled.index(stage)
        _copy(values_ptr, blocks, into, filled, rows, BLOCK_STRIDE, head_size, BLOCK, tile_size)


@gluon.jit
def _begin_scores(query, keys, TILE: gl.constexpr, SCORES: gl.constexpr):
    """Begin the products of queries (QUERIES, size) and a tile's keys (TILE, size)."""
    zeros = gl.zeros([QUERIES, TILE], gl.float32, layout=SCORES)
    return warpgroup_mma(query, keys.permute((1, 0)), zeros, use_acc=False, is_async=True)


@gluon.jit
def _weigh(
    scores,
    m_i,
    l_i,
    position,
    first,
    scale_log2,
    MASKED: gl.constexpr,
    TILE: gl.constexpr,
    SCORES: gl.constexpr,
):
    """A tile's weights, the maxima and sums with it, and the factor of what was summed before."""
    if MASKED:
        key_position = first + gl.arange(0, TILE, layout=gl.SliceLayout(0, SCORES))
        seen = key_position[None, :] <= position[:, None]
        scores = gl.where(seen, scores, float("-inf"))
    m_new = gl.maximum(m_i, gl.max(scores, 1) * scale_log2)
    base = m_new
    if MASKED:  # a query may see nothing of its first tile
        base = gl.where(m_new > float("-inf"), m_new, 0.0)
    alpha = gl.exp2(m_i - base)
    weights = gl.exp2(scores * scale_log2 - base[:, None])
    return weights, m_new, l_i * alpha + gl.sum(weights, 1), alpha


@gluon.jit
def _turn(
    turn,
    query,
    weights,
    acc,
    m_i,
    l_i,
    position,
    both,
    scale_log2,
    PART: gl.constexpr,
    MASKED: gl.constexpr,
    FORM: gl.constexpr,
    SCORES: gl.constexpr,
    SUMS: gl.constexpr,
):
    """Weigh a tile, whose keys are there, while the weights of the last meet their values."""
    keys, values, barriers, tiles = both
    keys_filled, keys_read, values_filled, values_read, turns = barriers
    tile_size: gl.constexpr = FORM[1]
    stages: gl.constexpr = FORM[2]
    stage = turn % stages
    before = (turn - 1) % stages
    mbarrier.wait(turns.index(PART), ((turn - 1) & 1) ^ (1 - PART))
    scores = _begin_scores(query, keys.index(stage), tile_size, SCORES)
    mbarrier.wait(values_filled.index(before), ((turn - 1) // stages) & 1)
    summed = warpgroup_mma(weights, values.index(before), acc, is_async=True)
    mbarrier.arrive(turns.index(1 - PART), count=1)
    scores = warpgroup_mma_wait(1, deps=[scores])
    mbarrier.arrive(keys_read.index(stage), count=1)
    first = (tiles - 1 - turn) * tile_size
    wide, m_i, l_i, alpha = _weigh(
        scores, m_i, l_i, position, first, scale_log2, MASKED, tile_size, SCORES
    )
    narrow = wide.to(weights.dtype)
    # This wait stands before that for the sums: the compiler moves no exponentials behind its branch.
    after = turn + 1
    mbarrier.wait(keys_filled.index(after % stages), (after // stages) & 1, pred=after < tiles)
    acc, weights, narrow, alpha, l_i = warpgroup_mma_wait(
        0, deps=[summed, weights, narrow, alpha, l_i]
    )
    mbarrier.arrive(values_read.index(before), count=1)
    acc = acc * gl.convert_layout(alpha, gl.SliceLayout(1, SUMS))[:, None]
    return gl.convert_layout(narrow, gl.DotOperandLayout(0, SUMS, 2)), acc, m_i, l_i


@gluon.jit
def _attending(
    query_ptr,
    out_ptr,
    query,
    both,
    place,
    scaling,
    PART: gl.constexpr,
    FORM: gl.constexpr,
):
    """A warpgroup with QUERIES of a program's queries; `query_ptr` and `out_ptr` are its head's."""
    keys, values, barriers, tiles = both
    first, begin, count = place
    query_stride, out_stride, scale_log2 = scaling
    head_size: gl.constexpr = FORM[0]
    tile_size: gl.constexpr = FORM[1]
    stages: gl.constexpr = FORM[2]
    scores_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, tile_size, 16])
    sums_layout: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [4, 1], [16, head_size, 16])
    rows_layout: gl.constexpr = gl.BlockedLayout([1, 8], [2, 16], [4, 1], [1, 0])
    kind: gl.constexpr = out_ptr.dtype.element_ty
    own = first + PART * QUERIES
    index = own + gl.arange(0, QUERIES, layout=gl.SliceLayout(1, rows_layout))
    column = gl.arange(0, head_size, layout=gl.SliceLayout(0, rows_layout))
    real = (index < count)[:, None]
    rows = index.to(gl.int64)[:, None]
    query.store(gl.load(query_ptr + rows * query_stride + column[None, :], mask=real, other=0.0))
    fence_async_shared()

    position = begin + own + gl.arange(0, QUERIES, layout=gl.SliceLayout(1, scores_layout))
    m_i = gl.full([QUERIES], float("-inf"), gl.float32, layout=gl.SliceLayout(1, scores_layout))
    l_i = gl.zeros([QUERIES], gl.float32, layout=gl.SliceLayout(1, scores_layout))
    acc = gl.zeros([QUERIES, head_size], gl.float32, layout=sums_layout)
    mbarrier.wait(barriers[0].index(0), 0)
    scores = _begin_scores(query, keys.index(0), tile_size, scores_layout)
    scores = warpgroup_mma_wait(0, deps=[scores])
    mbarrier.arrive(barriers[1].index(0), count=1)
    wide, m_i, l_i, _ = _weigh(
        scores,
        m_i,
        l_i,
        position,
        (tiles - 1) * tile_size,
        scale_log2,
        True,
        tile_size,
        scores_layout,
    )
    weights = gl.convert_layout(wide.to(kind), gl.DotOperandLayout(0, sums_layout, 2))
    mbarrier.wait(barriers[0].index(1 % stages), (1 // stages) & 1, pred=tiles > 1)
    # The tiles that every query sees are the first of the sequence, and the last to be taken.
    unmasked_from = tiles - gl.minimum((begin + own + 1) // tile_size, tiles - 1)
    for turn in range(1, unmasked_from):
        weights, acc, m_i, l_i = _turn(
            turn,
            query,
            weights,
            acc,
            m_i,
            l_i,
            position,
            both,
            scale_log2,
            PART,
            True,
            FORM,
            scores_layout,
            sums_layout,
        )
    for turn in range(unmasked_from, tiles):
        weights, acc, m_i, l_i = _turn(
            turn,
            query,
            weights,
            acc,
            m_i,
            l_i,
            position,
            both,
            scale_log2,
            PART,
            False,
            FORM,
            scores_layout,
            sums_layout,
        )
    last = tiles - 1
    mbarrier.wait(barriers[2].index(last % stages), (last // stages) & 1)
    summed = warpgroup_mma(weights, values.index(last % stages), acc, is_async=True)
    acc, weights = warpgroup_mma_wait(0, deps=[summed, weights])
    divisor = gl.convert_layout(gl.where(l_i > 0, l_i, 1.0), gl.SliceLayout(1, sums_layout))
    out = gl.convert_layout((acc / divisor[:, None]).to(kind), rows_layout)
    gl.store(out_ptr + rows * out_stride + column[None, :], out, mask=real)


@gluon.jit(do_not_specialize=["together"], do_not_specialize_on_alignment=["chunks_ptr"])
def prefill_kernel(
    query_ptr,
    keys_ptr,
    values_ptr,
    chunks_ptr,
    tables_ptr,
    out_ptr,
    query_stride,
    out_stride,
    table_stride,
    scale_log2,
    together,
    HEADS: gl.constexpr,
    KV_HEADS: gl.constexpr,
    HEAD_SIZE: gl.constexpr,
    BLOCK: gl.constexpr,
    TILE: gl.constexpr,
    STAGES: gl.constexpr,
    REGISTERS: gl.constexpr,
):
    """As `kernels.prefill.prefill_kernel`, without windows, caps and sinks.

    The grid is (heads * tiles of 2 QUERIES queries, chunks): all tiles of `together` heads, then those
    of the next, so that programs that run at once read the same keys; of each, the tiles with the most
    keys start first.
    """
    chunk = gl.program_id(1)
    queries_tiles = gl.num_programs(0) // HEADS
    group = gl.program_id(0) // (together * queries_tiles)
    within = gl.program_id(0) % (together * queries_tiles)
    heads = gl.minimum(HEADS - group * together, together)
    head = group * together + within % heads
    first = (queries_tiles - 1 - within // heads) * (2 * QUERIES)
    kv_head = head // (HEADS // KV_HEADS)

    begin_row = gl.load(chunks_ptr + chunk * 4).to(gl.int64)
    count = gl.load(chunks_ptr + chunk * 4 + 1)
    begin = gl.load(chunks_ptr + chunk * 4 + 2)
    table_ptr = tables_ptr + gl.load(chunks_ptr + chunk * 4 + 3).to(gl.int64) * table_stride
    end = begin + gl.minimum(first + 2 * QUERIES, count)
    tiles = gl.where(first < count, gl.cdiv(end, TILE), 1)
    query_ptr += begin_row * query_stride + head * HEAD_SIZE
    out_ptr += begin_row * out_stride + head * HEAD_SIZE
    keys_ptr += kv_head * (BLOCK * HEAD_SIZE)
    values_ptr += kv_head * (BLOCK * HEAD_SIZE)
    block_stride: gl.constexpr = KV_HEADS * BLOCK * HEAD_SIZE

    kind: gl.constexpr = keys_ptr.dtype.element_ty
    shared: gl.constexpr = gl.NVMMASharedLayout.get_default_for([TILE, HEAD_SIZE], kind)
    query = gl.allocate_shared_memory(kind, [2, QUERIES, HEAD_SIZE], shared)
    keys = gl.allocate_shared_memory(kind, [STAGES, TILE, HEAD_SIZE], shared)
    values = gl.allocate_shared_memory(kind, [STAGES, TILE, HEAD_SIZE], shared)
    one: gl.constexpr = mbarrier.MBarrierLayout()
    keys_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], one)
    keys_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], one)
    values_filled = gl.allocate_shared_memory(gl.int64, [STAGES, 1], one)
    values_read = gl.allocate_shared_memory(gl.int64, [STAGES, 1], one)
    for stage in gl.static_range(STAGES):
        mbarrier.init(keys_filled.index(stage), count=128)  # every thread that copies
        mbarrier.init(keys_read.index(stage), count=2)
        mbarrier.init(values_filled.index(stage), count=128)
        mbarrier.init(values_read.index(stage), count=2)
    turns = gl.allocate_shared_memory(gl.int64, [2, 1], one)
    for part in gl.static_range(2):
        mbarrier.init(turns.index(part), count=1)
    barriers = (keys_filled, keys_read, values_filled, values_read, turns)
    both = (keys, values, barriers, tiles)
    place = (first, begin, count)
    scaling = (query_stride, out_stride, scale_log2)
    form: gl.constexpr = (HEAD_SIZE, TILE, STAGES)
    gl.warp_specialize(
        [
            (_attending, (query_ptr, out_ptr, query.index(0), both, place, scaling, 0, form)),
            (_attending, (query_ptr, out_ptr, query.index(1), both, place, scaling, 1, form)),
            (_copying, (keys_ptr, values_ptr, table_ptr, both, end, block_stride, BLOCK, form)),
        ],
        [4, 4],
        [REGISTERS, 504 - 2 * REGISTERS],
    )
