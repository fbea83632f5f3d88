/* Attention over the paged cache: by splits of SPLIT keys, each with a softmax of its own, joined
 * in order. A query's sums run over keys in their order and skip nothing but what is masked, which
 * adds exactly nothing: so neither its neighbours nor chunks change its bits. */
#pragma once

#include "lanes.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr float MASKED = -1e30F;

/* The queries that are computed side by side, and the keys of a split that each sees. */
struct Some {
    const float *query[QUERIES];
    int begin[QUERIES]; /* positions, within the split */
    int end[QUERIES];
    int first; /* of any of them */
    int last;
};

inline const uint16_t *keys_at(const Attention &of, int position) {
    return of.cache + of.blocks[position / of.block_size] * of.block_stride;
}

/* Scores of COUNT queries with sixteen keys. */
template <int COUNT>
inline void scores_of(const Attention &of, const Some &some, int position, float *scores) {
    const uint16_t *keys = keys_at(of, position) + position % of.block_size;
    Floats sums[COUNT][PER_WIDE];
    for (int q = 0; q < COUNT; q++)
        for (int part = 0; part < PER_WIDE; part++)
            sums[q][part] = zero();
    for (int at = 0; at < of.size; at++) {
#pragma GCC unroll 2
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats key = load_half(keys + int64_t(at) * of.block_size + part * LANES);
#pragma GCC unroll 8
            for (int q = 0; q < COUNT; q++)
                sums[q][part] = fma(spread(some.query[q][at]), key, sums[q][part]);
        }
    }
    for (int q = 0; q < COUNT; q++)
        for (int part = 0; part < PER_WIDE; part++)
            store(scores + q * SPLIT + part * LANES, sums[q][part]);
}

/* Scores to weights, in place; returns their maximum, and their sum. */
inline float soften(float *scores, int begin, int end, int first, int last, float *sum) {
    for (int at = first; at < begin; at++)
        scores[at] = MASKED;
    for (int at = end; at < last; at++)
        scores[at] = MASKED;
    Floats most[PER_WIDE];
    Floats sums[PER_WIDE];
    for (int part = 0; part < PER_WIDE; part++) {
        most[part] = spread(MASKED);
        sums[part] = zero();
    }
    for (int at = first; at < last; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++)
            most[part] = max(most[part], load(scores + at + part * LANES));
    float greatest_score = greatest(most[0]);
    for (int part = 1; part < PER_WIDE; part++) {
        const float other = greatest(most[part]);
        greatest_score = other > greatest_score ? other : greatest_score;
    }
    const Floats top = spread(greatest_score);
    for (int at = first; at < last; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++) {
            float *place = scores + at + part * LANES;
            const Floats weight = exponential_of_negative(sub(load(place), top));
            store(place, weight);
            sums[part] = add(sums[part], weight);
        }
    *sum = sum_wide(sums);
    return greatest_score;
}

/* Weighted sums of values, WIDTHS sixteens of them, for COUNT queries. */
template <int COUNT, int WIDTHS>
inline void weigh(const Attention &of, int split_begin, int begin, int end, int offset,
                  const float *weights, float *out) {
    constexpr int VECTORS = WIDTHS * PER_WIDE;
    Floats sums[COUNT][VECTORS];
    for (int q = 0; q < COUNT; q++)
        for (int vector = 0; vector < VECTORS; vector++)
            sums[q][vector] = zero();
    for (int position = begin; position < end;) {
        const int slot = position % of.block_size;
        const int rest = of.block_size - slot;
        const int count = end - position < rest ? end - position : rest;
        const uint16_t *values =
            keys_at(of, position) + of.values_offset + int64_t(slot) * of.padded + offset;
        const float *weight = weights + position - split_begin;
        for (int at = 0; at < count; at++) {
#pragma GCC unroll 8
            for (int vector = 0; vector < VECTORS; vector++) {
                const Floats value = load_half(values + int64_t(at) * of.padded + vector * LANES);
#pragma GCC unroll 8
                for (int q = 0; q < COUNT; q++)
                    sums[q][vector] = fma(spread(weight[q * SPLIT + at]), value, sums[q][vector]);
            }
        }
        position += count;
    }
    for (int q = 0; q < COUNT; q++)
        for (int vector = 0; vector < VECTORS; vector++)
            store(out + q * MAX_HEAD_SIZE + offset + vector * LANES, sums[q][vector]);
}

template <int COUNT>
void weigh_all(const Attention &of, int split_begin, int begin, int end, const float *weights,
               float *out) {
    /* As many sums as the registers hold. */
    constexpr int WIDTHS = COUNT > 4 ? 2 : (LANES == WIDE ? 4 : (COUNT > 2 ? 1 : 2));
    int offset = 0;
    for (; offset + WIDTHS * WIDE <= of.padded; offset += WIDTHS * WIDE)
        weigh<COUNT, WIDTHS>(of, split_begin, begin, end, offset, weights, out);
    for (; offset < of.padded; offset += WIDE)
        weigh<COUNT, 1>(of, split_begin, begin, end, offset, weights, out);
}

/* The state of a query: the maximum of its scores so far, the sum of its weights, weighted values.
 * `maximum` MASKED: it has seen no key. */
inline void join_one(float *maximum, float *sum, float *values, float other_maximum,
                     float other_sum, const float *other, int size) {
    if (other_maximum <= MASKED)
        return;
    if (*maximum <= MASKED) {
        *maximum = other_maximum;
        *sum = other_sum;
        for (int at = 0; at < size; at++)
            values[at] = other[at];
        return;
    }
    const float top = *maximum > other_maximum ? *maximum : other_maximum;
    const float mine = exponential_of_negative(*maximum - top);
    const float theirs = exponential_of_negative(other_maximum - top);
    *maximum = top;
    *sum = *sum * mine + other_sum * theirs;
    for (int at = 0; at < size; at++)
        values[at] = values[at] * mine + other[at] * theirs;
}

/* COUNT queries from the `item`-th on; items go by token, then by head. */
template <int COUNT> void attend_some(const Attention &of, int item) {
    float *scores = of.scratch;
    float *fresh = scores + QUERIES * SPLIT;
    float *joined = fresh + QUERIES * MAX_HEAD_SIZE;
    float maxima[COUNT];
    float sums[COUNT];
    Some some;
    int positions[COUNT];
    for (int q = 0; q < COUNT; q++) {
        const int token = (item + q) / of.heads;
        some.query[q] = of.queries + token * of.query_stride + (item + q) % of.heads * of.size;
        positions[q] = of.first_position + token;
        maxima[q] = MASKED;
        sums[q] = 0.0F;
    }
    for (int split = of.first_split; split < of.last_split; split++) {
        const int start = split * SPLIT;
        some.first = start + SPLIT;
        some.last = start;
        for (int q = 0; q < COUNT; q++) {
            const int seen = positions[q] + 1;
            const int hidden = of.window > 0 && seen > of.window ? seen - of.window : 0;
            some.begin[q] = hidden > start ? hidden : start;
            some.end[q] = seen < start + SPLIT ? seen : start + SPLIT;
            if (some.begin[q] >= some.end[q])
                continue;
            some.first = some.begin[q] < some.first ? some.begin[q] : some.first;
            some.last = some.end[q] > some.last ? some.end[q] : some.last;
        }
        if (some.first >= some.last)
            continue;
        const int first = some.first / WIDE * WIDE;
        const int last = (some.last + WIDE - 1) / WIDE * WIDE;
        for (int position = first; position < last; position += WIDE)
            scores_of<COUNT>(of, some, position, scores + position - start);
        float fresh_maxima[COUNT];
        float fresh_sums[COUNT];
        for (int q = 0; q < COUNT; q++) {
            const bool none_seen = some.begin[q] >= some.end[q];
            const int begin = none_seen ? last : some.begin[q];
            const int end = none_seen ? last : some.end[q];
            fresh_maxima[q] = soften(scores + q * SPLIT, begin - start, end - start, first - start,
                                     last - start, &fresh_sums[q]);
        }
        weigh_all<COUNT>(of, start, some.first, some.last, scores, fresh);
        for (int q = 0; q < COUNT; q++)
            join_one(&maxima[q], &sums[q], joined + q * MAX_HEAD_SIZE, fresh_maxima[q],
                     fresh_sums[q], fresh + q * MAX_HEAD_SIZE, of.padded);
    }
    for (int q = 0; q < COUNT; q++) {
        const float *from = joined + q * MAX_HEAD_SIZE;
        if (of.partials != nullptr) {
            float *to = of.partials + int64_t(item + q) * (of.size + 2);
            to[0] = maxima[q];
            to[1] = sums[q];
            for (int at = 0; at < of.size; at++)
                to[2 + at] = maxima[q] <= MASKED ? 0.0F : from[at];
            continue;
        }
        const int token = (item + q) / of.heads;
        float *to = of.out + token * of.out_stride + (item + q) % of.heads * of.size;
        const float inverse = 1.0F / sums[q];
        for (int at = 0; at < of.size; at++)
            to[at] = from[at] * inverse;
    }
}

void attend(const Attention &of) {
    const int items = of.tokens * of.heads;
    int item = 0;
    for (; TILE_QUERIES >= 8 && item + 8 <= items; item += 8)
        attend_some<8>(of, item);
    for (; item + 4 <= items; item += 4)
        attend_some<4>(of, item);
    for (; item + 2 <= items; item += 2)
        attend_some<2>(of, item);
    for (; item < items; item++)
        attend_some<1>(of, item);
}

void join(const float *partials, int splits, int heads, int size, float *out) {
    const int64_t one = size + 2;
    for (int head = 0; head < heads; head++) {
        float maximum = MASKED;
        float sum = 0.0F;
        float *values = out + int64_t(head) * size;
        for (int split = 0; split < splits; split++) {
            const float *other = partials + (int64_t(split) * heads + head) * one;
            join_one(&maximum, &sum, values, other[0], other[1], other + 2, size);
        }
        const float inverse = 1.0F / sum;
        for (int at = 0; at < size; at++)
            values[at] = values[at] * inverse;
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
