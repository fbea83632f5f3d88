/* What is done to one row of activations: norms, quantisation, rotation into the KV cache. */
#pragma once

#include "lanes.inl.h"
#include "penstock_native.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

inline float reciprocal_root(float x) {
    return 1.0F / _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

/* The values of a group, and the sum of each half if it has two corrections, else of all. */
inline float round_group(const float *x, int size, int halves, int8_t *values, int32_t *sums) {
    Floats most = zero();
    for (int at = 0; at < size; at += LANES)
        most = max(most, absolute(load(x + at)));
    const float extreme = greatest(most);
    const Floats inverse = spread(extreme > 0 ? 127.0F / extreme : 0.0F);
    for (int half = 0; half < halves; half++) {
        Integers sum = none();
        for (int at = size / halves * half; at < size / halves * (half + 1); at += LANES) {
            const Integers whole = to_integers(mul(load(x + at), inverse));
            sum = add_integers(sum, whole);
            store_bytes(values + at, whole);
        }
        sums[half] = total(sum);
    }
    return extreme / 127.0F;
}

/* One group: 16, 32, 64 or 128 values. */
inline void quantise_group(const float *x, const Quantised &out, int row, int group) {
    if (out.offset == OFFSET_PLAIN) {
        float *to = out.floats() + row * out.stride + int64_t(group) * out.group;
        for (int at = 0; at < out.group; at++)
            to[at] = x[at];
        return;
    }
    int8_t *values = out.values + row * out.stride + int64_t(group) * out.group;
    const int64_t place = int64_t(row) * out.groups + group;
    const int halves = corrections_a_group(out.offset);
    const int offset = halves == 2 ? OFFSET_K6 : out.offset;
    int32_t sums[2];
    out.scales[place] = round_group(x, out.group, halves, values, sums);
    for (int half = 0; half < halves; half++)
        out.corrections[place * halves + half] = -offset * sums[half];
}

/* As `quantise`, each column from where the matrix's order says. */
inline void quantise_in_order(const float *x, const Quantised &out, int row) {
    float some[128];
    for (int group = 0; group < out.groups; group++) {
        const int32_t *order = out.order + int64_t(group) * out.group;
        for (int at = 0; at < out.group; at++)
            some[at] = x[order[at]];
        quantise_group(some, out, row, group);
    }
}

void quantise(const float *x, int size, const Quantised &out, int row) {
    if (out.order != nullptr)
        return quantise_in_order(x, out, row);
    const int whole = size / out.group;
    for (int group = 0; group < whole; group++)
        quantise_group(x + int64_t(group) * out.group, out, row, group);
    if (whole == out.groups)
        return;
    float last[128];
    const int rest = size - whole * out.group;
    for (int at = 0; at < out.group; at++)
        last[at] = at < rest ? x[int64_t(whole) * out.group + at] : 0.0F;
    quantise_group(last, out, row, whole);
}

/* What a row is normed with: (x - mean) * inverse. */
struct Moments {
    float mean;
    float inverse;
};

inline Moments moments_of(const float *x, int size, const Norm &how) {
    if (how.kind != PN_LAYER_NORM)
        return {0.0F, reciprocal_root(sum_of_squares(x, size) / float(size) + how.epsilon)};
    const float mean = sum_of(x, size) / float(size);
    const float variance = sum_of_distances(x, size, mean) / float(size);
    return {mean, reciprocal_root(variance + how.epsilon)};
}

/* Values of a row from `start` on; `to` may be `x` + start. */
inline void norm_some(const float *x, const Norm &how, Moments moments, int start, int count,
                      float *to) {
    const float *from = x + start;
    const float *weight = how.weight + start;
    if (how.kind != PN_LAYER_NORM) {
        for (int at = 0; at < count; at++)
            to[at] = from[at] * moments.inverse * weight[at];
        return;
    }
    for (int at = 0; at < count; at++)
        to[at] = (from[at] - moments.mean) * moments.inverse * weight[at];
    if (how.bias != nullptr)
        for (int at = 0; at < count; at++)
            to[at] = to[at] + how.bias[start + at];
}

/* As `norm`, each column from where the matrix's order says; `plain` is in the input's own. */
inline void norm_in_order(const float *x, const Norm &how, Moments moments, const Quantised &out,
                          int row, float *plain) {
    float normed[128];
    for (int group = 0; group < out.groups; group++) {
        const int32_t *order = out.order + int64_t(group) * out.group;
        for (int at = 0; at < out.group; at++) {
            norm_some(x, how, moments, order[at], 1, normed + at);
            if (plain != nullptr)
                plain[order[at]] = normed[at];
        }
        quantise_group(normed, out, row, group);
    }
}

void norm(const float *x, const Norm &how, int size, const Quantised &out, int row, float *plain) {
    const Moments moments = moments_of(x, size, how);
    if (out.order != nullptr)
        return norm_in_order(x, how, moments, out, row, plain);
    float normed[128];
    for (int group = 0; group < out.groups; group++) {
        const int start = group * out.group;
        const int count = size - start < out.group ? size - start : out.group;
        norm_some(x, how, moments, start, count, normed);
        for (int at = count; at < out.group; at++)
            normed[at] = 0.0F;
        quantise_group(normed, out, row, group);
        if (plain != nullptr)
            for (int at = 0; at < count; at++)
                plain[start + at] = normed[at];
    }
}

void add_normed(const float *x, const Norm &how, int size, float scale, float *to) {
    if (how.weight == nullptr) {
        for (int at = 0; at < size; at++)
            to[at] = x[at] * scale + to[at];
        return;
    }
    const Moments moments = moments_of(x, size, how);
    float normed[128];
    for (int start = 0; start < size; start += 128) {
        const int count = size - start < 128 ? size - start : 128;
        norm_some(x, how, moments, start, count, normed);
        for (int at = 0; at < count; at++)
            to[start + at] = normed[at] * scale + to[start + at];
    }
}

void widen(const uint16_t *from, bool brain, int size, float *to) {
    for (int at = 0; at < size; at++) {
        if (brain) {
            const uint32_t bits = uint32_t(from[at]) << 16;
            __builtin_memcpy(to + at, &bits, sizeof bits);
        } else {
            to[at] = _cvtsh_ss(from[at]);
        }
    }
}

/* In place: `count` heads, each with its own moments or all with those of their row. */
inline void norm_heads(float *first, int count, const Heads &heads, const Norm &how) {
    if (how.weight == nullptr)
        return;
    Moments moments = {};
    if (heads.norms_together)
        moments = moments_of(first, count * heads.size, how);
    for (int head = 0; head < count; head++) {
        float *own = first + int64_t(head) * heads.size;
        Norm by_head = how;
        by_head.weight += int64_t(head) * heads.norm_stride;
        if (!heads.norms_together)
            moments = moments_of(own, heads.size, how);
        norm_some(own, by_head, moments, 0, heads.size, own);
    }
}

/* In place: the rotation of one head, and `scale`. */
template <typename Turned> inline void turn(float *head, const Turned &heads, float scale) {
    const int half = heads.rotated / 2;
    for (int at = 0; at < half; at++) {
        const float first = head[at];
        const float second = head[at + half];
        head[at] = (first * heads.cosines[at] - second * heads.sines[at]) * scale;
        head[at + half] = (second * heads.cosines[at] + first * heads.sines[at]) * scale;
    }
    for (int at = heads.rotated; at < heads.size; at++)
        head[at] = head[at] * scale;
}

/* fp16, with what it cannot hold as its largest. */
inline void halves(const float *from, int size, uint16_t *to) {
    float some[LANES];
    uint16_t converted[LANES];
    for (int at = 0; at < size; at += LANES) {
        const int count = size - at < LANES ? size - at : LANES;
        for (int lane = 0; lane < LANES; lane++)
            some[lane] = lane < count ? from[at + lane] : 0.0F;
        store_half(converted, max(min(load(some), spread(65504.0F)), spread(-65504.0F)));
        for (int lane = 0; lane < count; lane++)
            to[at + lane] = converted[lane];
    }
}

/* INT8, and their scale: as `quantise_group`, of any number of values. */
inline float small_values(const float *from, int size, int8_t *to) {
    float extreme = 0.0F;
    for (int at = 0; at < size; at++) {
        const float distance = from[at] < 0.0F ? -from[at] : from[at];
        extreme = distance > extreme ? distance : extreme;
    }
    const float inverse = extreme > 0.0F ? 127.0F / extreme : 0.0F;
    float some[LANES];
    int8_t converted[LANES];
    for (int at = 0; at < size; at += LANES) {
        const int count = size - at < LANES ? size - at : LANES;
        for (int lane = 0; lane < LANES; lane++)
            some[lane] = lane < count ? from[at + lane] * inverse : 0.0F;
        store_bytes(converted, to_integers(load(some)));
        for (int lane = 0; lane < count; lane++)
            to[at + lane] = converted[lane];
    }
    return extreme / 127.0F;
}

/* Where a token's key and value of a head belong: in a block, from its keys on. */
struct Slot {
    uint16_t *keys;
    int64_t values_offset;
    int block_size;
    int slot;
    bool small;
};

/* A row as column `slot` of keys that stand by dimension. */
inline void hold_key(const Slot &to, const float *from, int size) {
    if (to.small) {
        int8_t converted[MAX_HEAD_SIZE + MAX_TURNED];
        const float scale = small_values(from, size, converted);
        uint8_t *keys = reinterpret_cast<uint8_t *>(to.keys);
        for (int at = 0; at < size; at++)
            keys[(at / QUADRUPLE * to.block_size + to.slot) * QUADRUPLE + at % QUADRUPLE] =
                uint8_t(converted[at] + OFFSET_I8);
        const int64_t filled = (size + WIDE - 1) / WIDE * WIDE;
        reinterpret_cast<float *>(keys + filled * to.block_size)[to.slot] = scale;
        return;
    }
    uint16_t converted[MAX_HEAD_SIZE + MAX_TURNED];
    halves(from, size, converted);
    for (int at = 0; at < size; at++)
        to.keys[at * to.block_size + to.slot] = converted[at];
}

inline void hold_value(const Slot &to, const float *from, int size) {
    const int filled = (size + WIDE - 1) / WIDE * WIDE;
    if (to.small) {
        int8_t converted[MAX_HEAD_SIZE];
        const float scale = small_values(from, size, converted);
        uint8_t *values = reinterpret_cast<uint8_t *>(to.keys + to.values_offset);
        uint8_t *own = values + int64_t(filled) * (to.slot / QUADRUPLE * QUADRUPLE);
        for (int at = 0; at < size; at++)
            own[at * QUADRUPLE + to.slot % QUADRUPLE] = uint8_t(converted[at] + OFFSET_I8);
        reinterpret_cast<float *>(values + int64_t(filled) * to.block_size)[to.slot] = scale;
        return;
    }
    uint16_t *own = to.keys + to.values_offset + int64_t(filled) * to.slot;
    halves(from, size, own);
    for (int at = size; at < filled; at++)
        own[at] = 0;
}

void heads(const Heads &heads) {
    const int size = heads.size;
    float *queries = heads.row;
    float *keys = queries + int64_t(heads.heads) * size;
    float *values = keys + int64_t(heads.kv_heads) * size;
    norm_heads(queries, heads.heads, heads, heads.query_norm);
    norm_heads(keys, heads.kv_heads, heads, heads.key_norm);
    for (int head = 0; head < heads.kv_heads && heads.value_norm.weight != nullptr; head++) {
        float *own = values + int64_t(head) * size;
        norm_some(own, heads.value_norm, moments_of(own, size, heads.value_norm), 0, size, own);
    }
    for (int head = 0; head < heads.heads; head++)
        turn(queries + head * size, heads, heads.scale);
    for (int head = 0; head < heads.kv_heads; head++) {
        const Slot to{heads.cache + head * heads.head_stride, heads.values_offset,
                      heads.block_size, heads.slot, heads.small_cache};
        turn(keys + head * size, heads, 1.0F);
        hold_key(to, keys + head * size, size);
        hold_value(to, values + head * size, size);
    }
}

/* `turn` of what latent attention has. */
struct LatentTurn {
    int rotated;
    int size;
    const float *cosines;
    const float *sines;
};

void latent_heads(const LatentHeads &heads) {
    const int size = heads.rank + heads.turned;
    const int rotated = heads.cosines == nullptr ? 0 : heads.turned;
    const LatentTurn turning{rotated, heads.turned, heads.cosines, heads.sines};
    for (int head = 0; head < heads.heads; head++) {
        float *query = heads.queries + int64_t(head) * (heads.plain + heads.turned);
        float *to = heads.attending + int64_t(head) * size + heads.rank;
        for (int at = 0; at < heads.plain; at++)
            query[at] = query[at] * heads.scale;
        turn(query + heads.plain, turning, heads.scale);
        for (int at = 0; at < heads.turned; at++)
            to[at] = query[heads.plain + at];
    }
    norm_some(heads.key, heads.norm, moments_of(heads.key, heads.rank, heads.norm), 0, heads.rank,
              heads.key);
    turn(heads.key + heads.rank, turning, 1.0F);
    const Slot to{heads.cache, heads.values_offset, heads.block_size, heads.slot,
                  heads.small_cache};
    hold_key(to, heads.key, size);
    hold_value(to, heads.key, heads.rank);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
