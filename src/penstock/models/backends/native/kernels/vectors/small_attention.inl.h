/* Attention over keys and values in INT8, in whole numbers. Queries and weights are held in two INT8
 * parts each, fourteen bits and a sign, so that one instruction multiplies and adds four of them. Sums
 * of whole numbers are exact in any order, and what is left in fp32 has one order: bits as in
 * attention.inl.h, for every instruction set. */
#pragma once

#include "cached.inl.h"
#include "softmax.inl.h"
#include "tiles.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr int MOST_KEY = MAX_HEAD_SIZE + MAX_TURNED;
constexpr int PART_BITS = 7; /* a part counts 2 to the power of that as much as the next */
constexpr float MOST_PARTED = 127 << PART_BITS;
constexpr float LEAST_PARTED = 1e-30F; /* what is smaller counts as zero */

/* A row as scale (128 high + low), and the sums of both. */
struct Parted {
    float scale;
    int32_t high_sum;
    int32_t low_sum;
};

/* `size` values, a multiple of sixteen, to INT8 parts. */
inline Parted part(const float *x, int size, int8_t *high, int8_t *low) {
    Floats most = zero();
    for (int at = 0; at < size; at += LANES)
        most = max(most, absolute(load(x + at)));
    const float extreme = greatest(most);
    const Floats inverse = spread(extreme > LEAST_PARTED ? MOST_PARTED / extreme : 0.0F);
    Integers highs = none();
    Integers lows = none();
    for (int at = 0; at < size; at += LANES) {
        const Integers whole = to_integers(mul(load(x + at), inverse));
        const Integers upper =
            shift_down<PART_BITS>(add_integers(whole, spread_integer(1 << (PART_BITS - 1))));
        const Integers lower = sub_integers(whole, shift_up<PART_BITS>(upper));
        store_bytes(high + at, upper);
        store_bytes(low + at, lower);
        highs = add_integers(highs, upper);
        lows = add_integers(lows, lower);
    }
    return {extreme / MOST_PARTED, total(highs), total(lows)};
}

inline Floats joined_parts(Integers high, Integers low) {
    return fma(to_floats(high), spread(float(1 << PART_BITS)), to_floats(low));
}

/* The queries that are computed side by side, in parts. */
template <int COUNT> struct PartedQueries {
    alignas(64) int8_t high[COUNT][MOST_KEY];
    alignas(64) int8_t low[COUNT][MOST_KEY];
    Parted facts[COUNT];

    void take(int q, const float *query, int size) {
        alignas(64) float filled[MOST_KEY];
        const int end = (size + WIDE - 1) / WIDE * WIDE;
        for (int at = 0; at < end; at++)
            filled[at] = at < size ? query[at] : 0.0F;
        facts[q] = part(filled, end, high[q], low[q]);
    }
};

/* Queries whose sums, with those of some tiles of keys, fit into the registers. */
constexpr int SOME_QUERIES = LANES == WIDE ? 4 : 2;
template <int COUNT>
constexpr int SMALL_COUNT = COUNT < SOME_QUERIES ? COUNT : SOME_QUERIES;
template <int COUNT>
constexpr int SMALL_TILES = LANES == WIDE ? (COUNT < 4 ? 4 : 2) : (COUNT < 2 ? 2 : 1);

/* Scores of COUNT queries, from the `first`-th on, with TILES sixteens of keys. */
template <int COUNT, int TILES, int ALL>
inline void small_scores(const Attention &of, const PartedQueries<ALL> &queries, int first,
                         int position, float *scores) {
    const int64_t line = int64_t(of.block_size) * QUADRUPLE;
    const int quadruples = (of.size + WIDE - 1) / WIDE * (WIDE / QUADRUPLE);
    for (int part = 0; part < PER_WIDE; part++) {
        const uint8_t *keys[TILES];
        const float *scales[TILES];
        Integers high[TILES][COUNT];
        Integers low[TILES][COUNT];
        for (int tile = 0; tile < TILES; tile++) {
            const int own = position + tile * WIDE;
            const uint16_t *block = keys_at(of, own);
            const int slot = own % of.block_size + part * LANES;
            keys[tile] = reinterpret_cast<const uint8_t *>(block) + slot * QUADRUPLE;
            scales[tile] = scales_behind(of, block, of.size) + slot;
            for (int q = 0; q < COUNT; q++) {
                high[tile][q] = spread_integer(-OFFSET_I8 * queries.facts[first + q].high_sum);
                low[tile][q] = spread_integer(-OFFSET_I8 * queries.facts[first + q].low_sum);
            }
        }
        for (int at = 0; at < quadruples; at++) {
            Integers some[TILES];
#pragma GCC unroll 4
            for (int tile = 0; tile < TILES; tile++)
                some[tile] = load_bytes(keys[tile] + at * line);
#pragma GCC unroll 4
            for (int q = 0; q < COUNT; q++) {
                const Integers upper = quadruple(queries.high[first + q] + at * QUADRUPLE);
                const Integers lower = quadruple(queries.low[first + q] + at * QUADRUPLE);
#pragma GCC unroll 4
                for (int tile = 0; tile < TILES; tile++) {
                    high[tile][q] = dot(high[tile][q], some[tile], upper);
                    low[tile][q] = dot(low[tile][q], some[tile], lower);
                }
            }
        }
        for (int tile = 0; tile < TILES; tile++)
            for (int q = 0; q < COUNT; q++) {
                const Floats sum = joined_parts(high[tile][q], low[tile][q]);
                const Floats scaled = mul(sum, spread(queries.facts[first + q].scale));
                store(scores + (first + q) * SPLIT + tile * WIDE + part * LANES,
                      mul(scaled, load(scales[tile])));
            }
    }
}

/* Scores of all queries with keys [begin, end), sixteens of a split whose scores begin at `scores`. */
template <int COUNT>
inline void score_small(const Attention &of, const PartedQueries<COUNT> &queries, int start,
                        int begin, int end, float *scores) {
    constexpr int SOME = SMALL_COUNT<COUNT>;
    constexpr int TILES = SMALL_TILES<SOME>;
    for (int position = begin; position < end;) {
        const bool whole = position + TILES * WIDE <= end;
        const int next = position + (whole ? TILES * WIDE : WIDE);
        for (int at = position; at < next; at += WIDE)
            fetch_ahead(of, at);
        float *own = scores + position - start;
        for (int first = 0; first < COUNT; first += SOME) {
            if (whole)
                small_scores<SOME, TILES>(of, queries, first, position, own);
            else
                small_scores<SOME, 1>(of, queries, first, position, own);
        }
        position = next;
    }
}

/* Weights of a split in parts, as rows of SPLIT. */
template <int COUNT> struct PartedWeights {
    alignas(64) int8_t high[COUNT][SPLIT];
    alignas(64) int8_t low[COUNT][SPLIT];
    Parted facts[COUNT];
};

/* Weighted sums of values, WIDTHS sixteens of them, for COUNT queries, keys [begin, end). */
template <int COUNT, int WIDTHS, int ALL>
inline void small_weigh(const Attention &of, const PartedWeights<ALL> &weights, int first,
                        int start, int begin, int end, int offset, float *out) {
    constexpr int VECTORS = WIDTHS * PER_WIDE;
    Integers high[COUNT][VECTORS];
    Integers low[COUNT][VECTORS];
    for (int q = 0; q < COUNT; q++)
        for (int vector = 0; vector < VECTORS; vector++) {
            high[q][vector] = spread_integer(-OFFSET_I8 * weights.facts[first + q].high_sum);
            low[q][vector] = spread_integer(-OFFSET_I8 * weights.facts[first + q].low_sum);
        }
    const int64_t line = int64_t(of.padded) * QUADRUPLE;
    for (int position = begin; position < end; position += WIDE) {
        const uint16_t *block = keys_at(of, position) + of.values_offset;
        const uint8_t *values = reinterpret_cast<const uint8_t *>(block) +
                                position % of.block_size / QUADRUPLE * line + offset * QUADRUPLE;
        for (int at = position - start; at < position - start + WIDE; at += QUADRUPLE) {
            Integers some[VECTORS];
#pragma GCC unroll 4
            for (int vector = 0; vector < VECTORS; vector++)
                some[vector] = load_bytes(values + vector * LANES * QUADRUPLE);
#pragma GCC unroll 4
            for (int q = 0; q < COUNT; q++) {
                const Integers upper = quadruple(weights.high[first + q] + at);
                const Integers lower = quadruple(weights.low[first + q] + at);
#pragma GCC unroll 4
                for (int vector = 0; vector < VECTORS; vector++) {
                    high[q][vector] = dot(high[q][vector], some[vector], upper);
                    low[q][vector] = dot(low[q][vector], some[vector], lower);
                }
            }
            values += line;
        }
    }
    for (int q = 0; q < COUNT; q++)
        for (int vector = 0; vector < VECTORS; vector++)
            store(out + (first + q) * MAX_HEAD_SIZE + offset + vector * LANES,
                  mul(joined_parts(high[q][vector], low[q][vector]),
                      spread(weights.facts[first + q].scale)));
}

/* Sums of values by weights that have their values' scales; keys [begin, end), in sixteens. */
template <int COUNT>
void weigh_small(const Attention &of, int start, int begin, int end, const float *scores,
                 float *out) {
    constexpr int SOME = SMALL_COUNT<COUNT>;
    constexpr int WIDTHS = SMALL_TILES<SOME>;
    PartedWeights<COUNT> weights;
    for (int q = 0; q < COUNT; q++)
        weights.facts[q] = part(scores + q * SPLIT + begin - start, end - begin,
                                weights.high[q] + begin - start, weights.low[q] + begin - start);
    for (int first = 0; first < COUNT; first += SOME) {
        int offset = 0;
        for (; offset + WIDTHS * WIDE <= of.padded; offset += WIDTHS * WIDE)
            small_weigh<SOME, WIDTHS>(of, weights, first, start, begin, end, offset, out);
        for (; offset < of.padded; offset += WIDE)
            small_weigh<SOME, 1>(of, weights, first, start, begin, end, offset, out);
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
