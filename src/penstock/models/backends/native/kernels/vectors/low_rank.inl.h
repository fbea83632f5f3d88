/* The second half of an adapter's product: from its few small results to a panel's outputs. */
#pragma once

#include "elements.inl.h"
#include "penstock_native.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* Rows that share what is read of a block. */
constexpr int WIDENED_ROWS = LANES == 16 ? 4 : 2;

/* Sixteen outputs of ROWS rows: each is two chains of sums, of even ranks and of odd ones, whatever is
 * computed beside it. */
template <int ROWS, typename Element>
inline void widen_block(const Element *block, int rank, int64_t ahead, const float *const *small,
                        float *const *sums) {
    Floats even[ROWS][PER_WIDE];
    Floats odd[ROWS][PER_WIDE];
    for (int r = 0; r < ROWS; r++)
        for (int part = 0; part < PER_WIDE; part++)
            even[r][part] = odd[r][part] = zero();
    int at = 0;
    for (; at + 2 <= rank; at += 2) {
        const Element *own = block + at * WIDE;
        __builtin_prefetch(own + ahead, 0, 2); /* the next panel's */
#pragma GCC unroll 2
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats first = load(own + part * LANES);
            const Floats second = load(own + WIDE + part * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++) {
                even[r][part] = fma(spread(small[r][at]), first, even[r][part]);
                odd[r][part] = fma(spread(small[r][at + 1]), second, odd[r][part]);
            }
        }
    }
    for (; at < rank; at++)
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats last = load(block + at * WIDE + part * LANES);
            for (int r = 0; r < ROWS; r++)
                even[r][part] = fma(spread(small[r][at]), last, even[r][part]);
        }
    for (int r = 0; r < ROWS; r++)
        for (int part = 0; part < PER_WIDE; part++) {
            float *own = sums[r] + part * LANES;
            store(own, add(load(own), add(even[r][part], odd[r][part])));
        }
}

template <typename Element>
inline void widen_rows(const LowRank &pair, int block, int64_t ahead, int rows,
                       const float *const *small, float *const *sums) {
    const int64_t size = int64_t(pair.rank) * WIDE;
    const Element *own = static_cast<const Element *>(pair.up) + block * size;
    for (; rows >= WIDENED_ROWS; rows -= WIDENED_ROWS, small += WIDENED_ROWS, sums += WIDENED_ROWS)
        widen_block<WIDENED_ROWS>(own, pair.rank, ahead * size, small, sums);
    if (rows >= 2) {
        widen_block<2>(own, pair.rank, ahead * size, small, sums);
        rows -= 2, small += 2, sums += 2;
    }
    if (rows > 0)
        widen_block<1>(own, pair.rank, ahead * size, small, sums);
}

/* What a pair adds to sixteen outputs of some rows; `block` is their number in the whole matrix. */
inline void widen_pair(const LowRank &pair, int block, int64_t ahead, int rows,
                       const float *const *small, float *const *sums) {
    block -= pair.first_block;
    if (block < 0 || block >= pair.blocks)
        return;
    const float *own[MOST_RUN];
    for (int row = 0; row < rows; row++)
        own[row] = small[row] + pair.first_small;
    if (pair.element == PN_F32)
        return widen_rows<float>(pair, block, ahead, rows, own, sums);
    if (pair.element == PN_F16)
        return widen_rows<Half>(pair, block, ahead, rows, own, sums);
    widen_rows<Brain>(pair, block, ahead, rows, own, sums);
}

/* What adapters add to a panel's outputs of rows [first, first + count). */
inline void add_low_rank(const Product &product, int panel, int first, int count, float *sums) {
    const Added &added = product.added;
    const bool paired = product.matrix->layout == PN_PAIRED;
    const int low = paired ? panel : 2 * panel;
    const int high = paired ? product.matrix->panels + panel : low + 1;
    for (int at = 0; at < added.runs_count; at++) {
        const AddedRun &run = added.runs[at];
        const float *small[MOST_RUN];
        float *lows[MOST_RUN];
        float *highs[MOST_RUN];
        int rows = 0;
        for (int of = 0; of < run.rows_count; of++) {
            const int row = run.rows[of];
            if (row < first || row >= first + count)
                continue;
            small[rows] = added.small + row * added.stride;
            lows[rows] = sums + (row - first) * PANEL;
            highs[rows] = lows[rows] + HALF_PANEL;
            rows++;
        }
        for (int pair = 0; rows > 0 && pair < run.pairs_count; pair++) {
            widen_pair(run.pairs[pair], low, paired ? 1 : 2, rows, small, lows);
            widen_pair(run.pairs[pair], high, paired ? 1 : 2, rows, small, highs);
        }
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
