/* Attention over the paged cache: by splits of SPLIT keys, each with a softmax of its own, joined
 * in order. A query's sums run over keys in their order and skip nothing but what is masked, which
 * adds exactly nothing: so neither its neighbours nor chunks change its bits. */
#pragma once

#include "cached.inl.h"
#include "small_attention.inl.h"
#include "softmax.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* The queries that are computed side by side, and the keys of a split that each sees. */
struct Some {
    const float *query[QUERIES];
    int begin[QUERIES]; /* positions, within the split */
    int end[QUERIES];
    int first; /* of any of them */
    int last;
};

/* Scores of COUNT queries with sixteen keys. */
template <int COUNT>
inline void scores_of(const Attention &of, const Some &some, int position, float *scores) {
    const Half *keys =
        reinterpret_cast<const Half *>(keys_at(of, position)) + position % of.block_size;
    Floats sums[COUNT][PER_WIDE];
    for (int q = 0; q < COUNT; q++)
        for (int part = 0; part < PER_WIDE; part++)
            sums[q][part] = zero();
    for (int at = 0; at < of.size; at++) {
#pragma GCC unroll 2
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats key = load(keys + int64_t(at) * of.block_size + part * LANES);
#pragma GCC unroll 8
            for (int q = 0; q < COUNT; q++)
                sums[q][part] = fma(spread(some.query[q][at]), key, sums[q][part]);
        }
    }
    for (int q = 0; q < COUNT; q++)
        for (int part = 0; part < PER_WIDE; part++)
            store(scores + q * SPLIT + part * LANES, sums[q][part]);
}

template <int COUNT> inline void cap_scores(float *scores, float soft_cap) {
    for (int q = 0; q < COUNT; q++)
        for (int part = 0; part < PER_WIDE; part++) {
            float *place = scores + q * SPLIT + part * LANES;
            store(place, capped(load(place), soft_cap));
        }
}

/* Scores of a split from `start` on, at positions [begin, end), without those that were not chosen. */
inline void hide_others(const uint64_t *chosen, int start, int begin, int end, float *scores) {
    for (int position = begin; position < end; position++)
        if ((chosen[position / 64] >> (position % 64) & 1) == 0)
            scores[position - start] = MASKED;
}

/* Whether one of these queries sees one of the sixteen keys from `position` on. */
inline bool sees_some(const Attention &of, int item, int count, int position) {
    uint64_t bits = 0;
    for (int token = item / of.heads; token <= (item + count - 1) / of.heads; token++)
        bits |= of.chosen[token * of.chosen_stride + position / 64];
    return (bits >> (position % 64) & 0xFFFF) != 0;
}

/* COUNT queries from the `item`-th on; items go by token, then by head. */
template <int COUNT, bool SMALL> void attend_some(const Attention &of, int item) {
    float *scores = of.scratch;
    float *fresh = scores + QUERIES * SPLIT;
    float *joined = fresh + QUERIES * MAX_HEAD_SIZE;
    const Values<Half> values{reinterpret_cast<const Half *>(of.cache + of.values_offset),
                              of.blocks,
                              of.block_size,
                              of.padded,
                              of.block_stride,
                              of.padded};
    PartedQueries<SMALL ? COUNT : 1> parted;
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
        if constexpr (SMALL)
            parted.take(q, some.query[q], of.size);
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
        if constexpr (SMALL)
            score_small<COUNT>(of, parted, start, first, last, scores);
        for (int position = first; position < last; position += WIDE) {
            if (of.chosen != nullptr && !sees_some(of, item, COUNT, position))
                continue; /* none of these scores will be read */
            if constexpr (!SMALL) {
                fetch_ahead(of, position);
                scores_of<COUNT>(of, some, position, scores + position - start);
            }
            if (of.soft_cap > 0)
                cap_scores<COUNT>(scores + position - start, of.soft_cap);
        }
        float fresh_maxima[COUNT];
        float fresh_sums[COUNT];
        for (int q = 0; q < COUNT; q++) {
            const bool none_seen = some.begin[q] >= some.end[q];
            const int begin = none_seen ? last : some.begin[q];
            const int end = none_seen ? last : some.end[q];
            if (of.chosen != nullptr)
                hide_others(of.chosen + (item + q) / of.heads * of.chosen_stride, start, begin,
                            end, scores + q * SPLIT);
            fresh_maxima[q] = soften(scores + q * SPLIT, begin - start, end - start, first - start,
                                     last - start, &fresh_sums[q]);
            if (SMALL)
                scale_weights(of, start, some.first, some.last, scores + q * SPLIT);
        }
        if constexpr (SMALL)
            weigh_small<COUNT>(of, start, first, last, scores, fresh);
        else
            weigh_all<COUNT>(values, start, some.first, some.last, scores, fresh);
        for (int q = 0; q < COUNT; q++)
            join_one(&maxima[q], &sums[q], joined + q * MAX_HEAD_SIZE, fresh_maxima[q],
                     fresh_sums[q], fresh + q * MAX_HEAD_SIZE, of.padded);
    }
    for (int q = 0; q < COUNT; q++) {
        const float *from = joined + q * MAX_HEAD_SIZE;
        if (of.partials != nullptr) {
            float *to = of.partials + int64_t(item + q) * (of.value_size + 2);
            to[0] = maxima[q];
            to[1] = sums[q];
            for (int at = 0; at < of.value_size; at++)
                to[2 + at] = maxima[q] <= MASKED ? 0.0F : from[at];
            continue;
        }
        const int token = (item + q) / of.heads;
        const int head = (item + q) % of.heads;
        float *to = of.out + token * of.out_stride + int64_t(head) * of.value_size;
        const float share =
            share_of(maxima[q], sums[q], of.sinks == nullptr ? nullptr : of.sinks + head);
        for (int at = 0; at < of.value_size; at++)
            to[at] = from[at] * share;
    }
}

template <bool SMALL> void attend_all(const Attention &of) {
    const int items = of.tokens * of.heads;
    int item = 0;
    for (; TILE_QUERIES >= 8 && item + 8 <= items; item += 8)
        attend_some<8, SMALL>(of, item);
    for (; item + 4 <= items; item += 4)
        attend_some<4, SMALL>(of, item);
    for (; item + 2 <= items; item += 2)
        attend_some<2, SMALL>(of, item);
    for (; item < items; item++)
        attend_some<1, SMALL>(of, item);
}

void attend(const Attention &of) {
    if (of.small_cache)
        attend_all<true>(of);
    else
        attend_all<false>(of);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
