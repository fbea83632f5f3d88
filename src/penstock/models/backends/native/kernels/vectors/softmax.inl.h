/* What attention is made of, whoever keeps the cache: a softmax a split of SPLIT keys, sums of values
 * by its weights, and the joining of splits. */
#pragma once

#include "elements.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr float MASKED = -1e30F;

/* The values of one head, by block and slot; `size` is filled up to sixteens. */
template <typename Element> struct Values {
    const Element *first;
    const int32_t *blocks; /* the sequence's */
    int block_size;
    int size;
    int64_t block_stride;
    int64_t slot_stride;
};

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
template <int COUNT, int WIDTHS, typename Element>
inline void weigh(const Values<Element> &of, int split_begin, int begin, int end, int offset,
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
        const Element *values = of.first + of.blocks[position / of.block_size] * of.block_stride +
                                slot * of.slot_stride + offset;
        const float *weight = weights + position - split_begin;
        for (int at = 0; at < count; at++) {
#pragma GCC unroll 8
            for (int vector = 0; vector < VECTORS; vector++) {
                const Floats value = load(values + at * of.slot_stride + vector * LANES);
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

template <int COUNT, typename Element>
void weigh_all(const Values<Element> &of, int split_begin, int begin, int end,
               const float *weights, float *out) {
    /* As many sums as the registers hold. */
    constexpr int WIDTHS = COUNT > 4 ? 2 : (LANES == WIDE ? 4 : (COUNT > 2 ? 1 : 2));
    int offset = 0;
    for (; offset + WIDTHS * WIDE <= of.size; offset += WIDTHS * WIDE)
        weigh<COUNT, WIDTHS>(of, split_begin, begin, end, offset, weights, out);
    for (; offset < of.size; offset += WIDE)
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

/* What weighted values are multiplied by in the end: 1 / the sum of weights, where a sink, a logit
 * without a value, has its own among them. */
inline float share_of(float maximum, float sum, const float *sink) {
    if (sink == nullptr)
        return 1.0F / sum;
    const float top = maximum > *sink ? maximum : *sink;
    const float mine = exponential_of_negative(maximum - top);
    return mine / (sum * mine + exponential_of_negative(*sink - top));
}

void join(const float *partials, int splits, int heads, int size, const float *sinks, float *out) {
    const int64_t one = size + 2;
    for (int head = 0; head < heads; head++) {
        float maximum = MASKED;
        float sum = 0.0F;
        float *values = out + int64_t(head) * size;
        for (int split = 0; split < splits; split++) {
            const float *other = partials + (int64_t(split) * heads + head) * one;
            join_one(&maximum, &sum, values, other[0], other[1], other + 2, size);
        }
        const float share = share_of(maximum, sum, sinks == nullptr ? nullptr : sinks + head);
        for (int at = 0; at < size; at++)
            values[at] = values[at] * share;
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
