/* Where attention finds keys and values in the paged cache; cache.h has their layout. */
#pragma once

#include "elements.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

inline const uint16_t *keys_at(const Attention &of, int position) {
    return of.cache + of.blocks[position / of.block_size] * of.block_stride;
}

/* Ask memory for the keys and values of a block that comes soon, as the hardware does not guess where
 * it lies. Where several tokens attend, they mostly find it in a cache. */
inline void fetch_ahead(const Attention &of, int position) {
    constexpr int AHEAD = 2; /* blocks */
    const int next = position + AHEAD * of.block_size;
    const int seen = of.first_position + of.tokens;
    const int end = seen < of.last_split * SPLIT ? seen : of.last_split * SPLIT;
    if (of.tokens > 1 || position % of.block_size != 0 || next >= end)
        return;
    const char *block = reinterpret_cast<const char *>(keys_at(of, next));
    const int64_t size = of.values_offset + int64_t(of.padded) * of.block_size;
    for (int64_t at = 0; at < size * int64_t(sizeof(uint16_t)); at += 64)
        _mm_prefetch(block + at, _MM_HINT_T0);
}

/* Scales of a small cache, behind `size` elements of a block's keys or values. */
inline const float *scales_behind(const Attention &of, const uint16_t *first, int size) {
    const int8_t *elements = reinterpret_cast<const int8_t *>(first);
    const int64_t filled = (size + WIDE - 1) / WIDE * WIDE;
    return reinterpret_cast<const float *>(elements + filled * of.block_size);
}

/* Weights times the scales of their values, positions [begin, end) of a split from `start` on. */
inline void scale_weights(const Attention &of, int start, int begin, int end, float *weights) {
    for (int first = begin / WIDE * WIDE; first < end; first += WIDE) {
        const uint16_t *values = keys_at(of, first) + of.values_offset;
        const float *scales = scales_behind(of, values, of.value_size) + first % of.block_size;
        float *own = weights + first - start;
        if (begin <= first && first + WIDE <= end) {
            for (int at = 0; at < WIDE; at += LANES)
                store(own + at, mul(load(own + at), load(scales + at)));
            continue;
        }
        /* The others were perhaps never written, and their weights are zero. */
        for (int at = 0; at < WIDE; at++)
            if (begin <= first + at && first + at < end)
                own[at] = own[at] * scales[at];
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
