/* The second half of an adapter's product: from its few small results to a panel's outputs. */
#pragma once

#include "elements.inl.h"
#include "penstock_native.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* Rows that share what is read of a block, and blocks that are computed side by side. */
constexpr int WIDENED_ROWS = LANES == 16 ? 4 : 2;
constexpr int WIDENED_BLOCKS = LANES == 16 ? 2 : 1;

/* Sixteen outputs of each of BLOCKS blocks, of ROWS rows: each is two chains of sums, of even ranks and
 * of odd ones, whatever is computed beside it. */
template <int ROWS, int BLOCKS, typename Element>
inline void widen_block(const Element *blocks, int rank, int64_t ahead, const float *const *small,
                        float *const *sums) {
    const int64_t block = int64_t(rank) * WIDE;
    Floats even[ROWS][BLOCKS][PER_WIDE];
    Floats odd[ROWS][BLOCKS][PER_WIDE];
    for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < BLOCKS; b++)
            for (int part = 0; part < PER_WIDE; part++)
                even[r][b][part] = odd[r][b][part] = zero();
    int at = 0;
    for (; at + 2 <= rank; at += 2) {
#pragma GCC unroll 2
        for (int b = 0; b < BLOCKS; b++) {
            const Element *own = blocks + b * block + at * WIDE;
            __builtin_prefetch(own + ahead, 0, 2); /* the next panel's */
#pragma GCC unroll 2
            for (int part = 0; part < PER_WIDE; part++) {
                const Floats first = load(own + part * LANES);
                const Floats second = load(own + WIDE + part * LANES);
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++) {
                    even[r][b][part] = fma(spread(small[r][at]), first, even[r][b][part]);
                    odd[r][b][part] = fma(spread(small[r][at + 1]), second, odd[r][b][part]);
                }
            }
        }
    }
    for (; at < rank; at++)
        for (int b = 0; b < BLOCKS; b++)
            for (int part = 0; part < PER_WIDE; part++) {
                const Floats last = load(blocks + b * block + at * WIDE + part * LANES);
                for (int r = 0; r < ROWS; r++)
                    even[r][b][part] = fma(spread(small[r][at]), last, even[r][b][part]);
            }
    for (int r = 0; r < ROWS; r++)
        for (int b = 0; b < BLOCKS; b++)
            for (int part = 0; part < PER_WIDE; part++) {
                float *own = sums[r] + b * HALF_PANEL + part * LANES;
                store(own, add(load(own), add(even[r][b][part], odd[r][b][part])));
            }
}

/* The rows of a run that are computed now: their small results, and where their sums are. */
struct Widened {
    int rows;
    const float *small[MOST_RUN];
    float *sums[MOST_RUN];
};

template <int BLOCKS, typename Element>
inline void widen_rows(const LowRank &pair, int block, int64_t ahead, const Widened &of, int half) {
    const int64_t size = int64_t(pair.rank) * WIDE;
    const Element *own = static_cast<const Element *>(pair.up) + block * size;
    const float *small[WIDENED_ROWS];
    float *sums[WIDENED_ROWS];
    for (int row = 0; row < of.rows;) {
        const int rest = of.rows - row;
        const int count = rest >= WIDENED_ROWS ? WIDENED_ROWS : (rest >= 2 ? 2 : 1);
        for (int r = 0; r < count; r++) {
            small[r] = of.small[row + r] + pair.first_small;
            sums[r] = of.sums[row + r] + half * HALF_PANEL;
        }
        if (count == WIDENED_ROWS)
            widen_block<WIDENED_ROWS, BLOCKS>(own, pair.rank, ahead * size, small, sums);
        else if (count == 2)
            widen_block<2, BLOCKS>(own, pair.rank, ahead * size, small, sums);
        else
            widen_block<1, BLOCKS>(own, pair.rank, ahead * size, small, sums);
        row += count;
    }
}

/* What a pair adds to BLOCKS times sixteen outputs of some rows, from a panel's `half` on; `block` is the
 * first one's number in the pair. */
template <int BLOCKS>
inline void widen_pair(const LowRank &pair, int block, int64_t ahead, const Widened &of, int half) {
    if (pair.element == PN_F32)
        return widen_rows<BLOCKS, float>(pair, block, ahead, of, half);
    if (pair.element == PN_F16)
        return widen_rows<BLOCKS, Half>(pair, block, ahead, of, half);
    widen_rows<BLOCKS, Brain>(pair, block, ahead, of, half);
}

inline bool has_block(const LowRank &pair, int block) { return block >= 0 && block < pair.blocks; }

/* What adapters add to a panel's outputs of rows [first, first + count). */
inline void add_low_rank(const Product &product, int panel, int first, int count, float *sums) {
    const Added &added = product.added;
    const bool paired = product.matrix->layout == PN_PAIRED;
    const int ahead = paired ? 1 : 2;
    Widened of;
    for (int at = 0; at < added.runs_count; at++) {
        const AddedRun &run = added.runs[at];
        of.rows = 0;
        for (int own = 0; own < run.rows_count; own++) {
            const int row = run.rows[own];
            if (row < first || row >= first + count)
                continue;
            of.small[of.rows] = added.small + row * added.stride;
            of.sums[of.rows++] = sums + (row - first) * PANEL;
        }
        for (int number = 0; of.rows > 0 && number < run.pairs_count; number++) {
            const LowRank &pair = run.pairs[number];
            const int low = ahead * panel - pair.first_block;
            const int high = (paired ? product.matrix->panels + panel : 2 * panel + 1) - pair.first_block;
            const bool both = !paired && has_block(pair, low) && has_block(pair, high);
            if (both && WIDENED_BLOCKS == 2) {
                widen_pair<WIDENED_BLOCKS>(pair, low, ahead, of, 0);
                continue;
            }
            if (has_block(pair, low))
                widen_pair<1>(pair, low, ahead, of, 0);
            if (has_block(pair, high))
                widen_pair<1>(pair, high, ahead, of, 1);
        }
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
