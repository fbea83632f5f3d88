/* Tiles: some rows of activations with the outputs of a panel, and their sums. */
#pragma once

#include "elements.inl.h"
#include "penstock_native.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr int LINE = 64; /* bytes of a quadruple's nibbles for a panel */

/* What a tile asks memory for while it computes: the panel's own bytes some way ahead where it is
 * the panel's only tile; else, each tile a part, the panel that comes next. `step` bytes of that are
 * due for each line that is computed with. */
struct Ahead {
    const uint8_t *at;
    int step;
};

/* Bytes: what memory delivers in the time that a read takes. */
constexpr int DISTANCE = 2048;

inline Ahead ahead_of(const uint8_t *panel, int64_t panel_bytes, int tile, int tiles) {
    if (tiles == 1)
        return {panel + DISTANCE, LINE};
    return {panel + panel_bytes + panel_bytes * tile / tiles, LINE / tiles};
}

inline Integers quadruple(const int8_t *values) {
    int32_t four;
    __builtin_memcpy(&four, values, sizeof four);
    return spread_integer(four);
}

/* What a group's codes mean: a weight is scale * code + offset. */
struct Affine {
    Floats low;
    Floats high;
    Floats low_offset;
    Floats high_offset;
};

/* Of a group's header: fp32 scales and offsets where it is WIDE, else fp16 scales and zeros. */
template <bool WIDE> inline Affine affine_of(const uint8_t *header, int part) {
    if (WIDE) {
        const float *scales = reinterpret_cast<const float *>(header) + part * LANES;
        const float *offsets = scales + PANEL;
        return {load(scales), load(scales + HALF_PANEL), load(offsets), load(offsets + HALF_PANEL)};
    }
    const uint16_t *scales = reinterpret_cast<const uint16_t *>(header) + part * LANES;
    const uint16_t *zeros = scales + PANEL;
    const Floats low = load_half(scales);
    const Floats high = load_half(scales + HALF_PANEL);
    return {low, high, sub(zero(), mul(low, load_half(zeros))),
            sub(zero(), mul(high, load_half(zeros + HALF_PANEL)))};
}

/* ROWS rows of a product's input with LANES outputs of each half of a panel: their sums, fp32 over
 * groups and integer within the group at hand. SMALL: weights are below 64. */
template <int ROWS, bool SMALL> struct Tile {
    const int8_t *values; /* the first row's, from the group at hand on */
    const float *scales;
    const int32_t *corrections;
    const int64_t stride;
    const int group;
    const int groups;
    Floats low[ROWS];
    Floats high[ROWS];
    Integers low_sum[ROWS];
    Integers high_sum[ROWS];

    Tile(const Quantised &input, int row, int first_group)
        : values(input.values + row * input.stride + int64_t(first_group) * input.group),
          scales(input.scales + int64_t(row) * input.groups + first_group),
          corrections(input.corrections + (int64_t(row) * input.groups + first_group) *
                                              corrections_a_group(input.offset)),
          stride(input.stride), group(input.group), groups(input.groups) {}

    void take(const float *sums) {
        for (int r = 0; r < ROWS; r++) {
            low[r] = load(sums + r * PANEL);
            high[r] = load(sums + r * PANEL + HALF_PANEL);
        }
    }
    void give(float *sums) const {
        for (int r = 0; r < ROWS; r++) {
            store(sums + r * PANEL, low[r]);
            store(sums + r * PANEL + HALF_PANEL, high[r]);
        }
    }
    void begin() {
        for (int r = 0; r < ROWS; r++)
            low_sum[r] = high_sum[r] = spread_integer(corrections[r * groups]);
    }
    void dots(Integers lows, Integers highs, int at) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Integers four = quadruple(values + r * stride + at * QUADRUPLE);
            low_sum[r] = SMALL ? dot_small(low_sum[r], lows, four) : dot(low_sum[r], lows, four);
            high_sum[r] =
                SMALL ? dot_small(high_sum[r], highs, four) : dot(high_sum[r], highs, four);
        }
    }
    /* The group is done: its weights' scales, where it has some, and on to the next. */
    void end(Floats low_scale, Floats high_scale) {
        scale_in(low_scale, high_scale);
        next();
    }
    void scale_in(Floats low_scale, Floats high_scale) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats scale = spread(scales[r * groups]);
            low[r] = fma(mul(low_scale, scale), to_floats(low_sum[r]), low[r]);
            high[r] = fma(mul(high_scale, scale), to_floats(high_sum[r]), high[r]);
        }
    }
    void end() {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats scale = spread(scales[r * groups]);
            low[r] = fma(scale, to_floats(low_sum[r]), low[r]);
            high[r] = fma(scale, to_floats(high_sum[r]), high[r]);
        }
        next();
    }
    void begin_plain() {
        for (int r = 0; r < ROWS; r++)
            low_sum[r] = high_sum[r] = none();
    }
    /* The same for codes with offsets: corrections are the sums of a group's activations. */
    void end(const Affine &own) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats scale = spread(scales[r * groups]);
            const Floats sum = mul(scale, spread(float(corrections[r * groups])));
            low[r] = fma(own.low_offset, sum, low[r]);
            high[r] = fma(own.high_offset, sum, high[r]);
            low[r] = fma(mul(own.low, scale), to_floats(low_sum[r]), low[r]);
            high[r] = fma(mul(own.high, scale), to_floats(high_sum[r]), high[r]);
        }
        next();
    }
    /* Of a group with two corrections: its halves, or all of it. */
    void begin_half(int half) {
        for (int r = 0; r < ROWS; r++)
            low_sum[r] = high_sum[r] = spread_integer(corrections[2 * r * groups + half]);
    }
    void end_pair(const Affine &own) {
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const int32_t *both = corrections + 2 * r * groups;
            const Floats sum = spread(scales[r * groups] * float(both[0] + both[1]));
            low[r] = fma(own.low_offset, sum, low[r]);
            high[r] = fma(own.high_offset, sum, high[r]);
        }
        scale_in(own.low, own.high);
        next_pair();
    }
    void next_pair() {
        next();
        corrections++;
    }
    void next() {
        values += group;
        scales++;
        corrections++;
    }
};

/* Some groups of a panel, from their first byte on. */
struct Weights {
    const uint8_t *bytes;
    int first_group;
    int groups;
};

} // namespace PENSTOCK_VARIANT
} // namespace penstock
