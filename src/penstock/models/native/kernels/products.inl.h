/* Products of quantised rows with packed matrices. packing.h has the bytes of a panel. */
#pragma once

#include "lanes.inl.h"
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

/* ROWS rows with the `part`-th LANES outputs of each half of an INT4 panel. */
template <int ROWS>
inline void tile_i4(const Matrix &matrix, const uint8_t *panel, const Quantised &input, int row,
                    int part, Ahead ahead, float *out) {
    const int quadruples = matrix.group / QUADRUPLE;
    const int8_t *values = input.values + row * input.stride;
    const float *scales = input.scales + int64_t(row) * input.groups;
    const int32_t *corrections = input.corrections + int64_t(row) * input.groups;
    Floats low[ROWS];
    Floats high[ROWS];
    for (int r = 0; r < ROWS; r++)
        low[r] = high[r] = zero();
    for (int group = 0; group < matrix.groups; group++) {
        Integers low_sum[ROWS];
        Integers high_sum[ROWS];
        for (int r = 0; r < ROWS; r++)
            low_sum[r] = high_sum[r] = spread_integer(corrections[r * input.groups + group]);
        const uint8_t *nibbles = panel + 2 * PANEL + part * LANES * QUADRUPLE;
#pragma GCC unroll 4
        for (int at = 0; at < quadruples; at++) {
            __builtin_prefetch(ahead.at);
            ahead.at += ahead.step;
            const Integers both = load_bytes(nibbles);
            const Integers lows = low_nibbles(both);
            const Integers highs = high_nibbles(both);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const Integers four = quadruple(values + r * input.stride + at * QUADRUPLE);
                low_sum[r] = dot_small(low_sum[r], lows, four);
                high_sum[r] = dot_small(high_sum[r], highs, four);
            }
            nibbles += LINE;
        }
        const uint16_t *weight_scales = reinterpret_cast<const uint16_t *>(panel);
        const Floats low_scale = load_half(weight_scales + part * LANES);
        const Floats high_scale = load_half(weight_scales + HALF_PANEL + part * LANES);
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats scale = spread(scales[r * input.groups + group]);
            low[r] = fma(mul(low_scale, scale), to_floats(low_sum[r]), low[r]);
            high[r] = fma(mul(high_scale, scale), to_floats(high_sum[r]), high[r]);
        }
        panel += 2 * PANEL + quadruples * LINE;
        ahead.at += ahead.step; /* the scales' line */
        values += matrix.group;
    }
    for (int r = 0; r < ROWS; r++) {
        store(out + r * PANEL + part * LANES, low[r]);
        store(out + r * PANEL + HALF_PANEL + part * LANES, high[r]);
    }
}

/* The same for an INT8 panel, whose scales belong to rows. */
template <int ROWS>
inline void tile_i8(const Matrix &matrix, const uint8_t *panel, const Quantised &input, int row,
                    int part, Ahead ahead, float *out) {
    const int quadruples = matrix.group / QUADRUPLE;
    const int8_t *values = input.values + row * input.stride;
    const float *scales = input.scales + int64_t(row) * input.groups;
    const int32_t *corrections = input.corrections + int64_t(row) * input.groups;
    const float *weight_scales = reinterpret_cast<const float *>(panel);
    const uint8_t *bytes = panel + 4 * PANEL + part * LANES * QUADRUPLE;
    Floats low[ROWS];
    Floats high[ROWS];
    for (int r = 0; r < ROWS; r++)
        low[r] = high[r] = zero();
    for (int group = 0; group < matrix.groups; group++) {
        Integers low_sum[ROWS];
        Integers high_sum[ROWS];
        for (int r = 0; r < ROWS; r++)
            low_sum[r] = high_sum[r] = spread_integer(corrections[r * input.groups + group]);
#pragma GCC unroll 4
        for (int at = 0; at < quadruples; at++) {
            __builtin_prefetch(ahead.at);
            __builtin_prefetch(ahead.at + LINE);
            ahead.at += 2 * ahead.step;
            const Integers lows = load_bytes(bytes);
            const Integers highs = load_bytes(bytes + LINE);
#pragma GCC unroll 8
            for (int r = 0; r < ROWS; r++) {
                const Integers four = quadruple(values + r * input.stride + at * QUADRUPLE);
                low_sum[r] = dot(low_sum[r], lows, four);
                high_sum[r] = dot(high_sum[r], highs, four);
            }
            bytes += 2 * LINE;
        }
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats scale = spread(scales[r * input.groups + group]);
            low[r] = fma(scale, to_floats(low_sum[r]), low[r]);
            high[r] = fma(scale, to_floats(high_sum[r]), high[r]);
        }
        values += matrix.group;
    }
    for (int r = 0; r < ROWS; r++) {
        const float *low_scale = weight_scales + part * LANES;
        const float *high_scale = low_scale + HALF_PANEL;
        store(out + r * PANEL + part * LANES, mul(low[r], load(low_scale)));
        store(out + r * PANEL + HALF_PANEL + part * LANES, mul(high[r], load(high_scale)));
    }
}

/* silu(gate) * up for a panel of a paired matrix. */
inline void let_gated_out(const Product &product, int panel, float *sums, float *out) {
    const int start = panel * HALF_PANEL;
    const int outputs = product.matrix->rows / 2;
    const int count = outputs - start < HALF_PANEL ? outputs - start : HALF_PANEL;
    if (product.bias != nullptr)
        for (int at = 0; at < count; at++) {
            sums[at] += product.bias[start + at];
            sums[HALF_PANEL + at] += product.bias[outputs + start + at];
        }
    float gated[HALF_PANEL];
    for (int at = 0; at < HALF_PANEL; at += LANES) {
        const Floats gate = load(sums + at);
        const Floats negative = max(min(sub(zero(), gate), spread(87.0F)), spread(-87.0F));
        const Floats silu = div(gate, add(spread(1.0F), exponential(negative)));
        store(gated + at, mul(silu, load(sums + HALF_PANEL + at)));
    }
    for (int at = 0; at < count; at++)
        out[start + at] = gated[at];
}

/* A panel's outputs for one row, from `sums`, to where they belong. */
inline void let_out(const Product &product, int panel, int row, float *sums) {
    const Matrix &matrix = *product.matrix;
    float *out = product.out + row * product.out_stride;
    if (product.outlet == Outlet::gated)
        return let_gated_out(product, panel, sums, out);
    const int start = panel * PANEL;
    const int rest = matrix.rows - start;
    const int count = rest < PANEL ? rest : PANEL;
    float plain[PANEL];
    for (int at = 0; at < count; at++)
        plain[at] = sums[at] + (product.bias == nullptr ? 0.0F : product.bias[start + at]);
    if (product.outlet == Outlet::add)
        for (int at = 0; at < count; at++)
            plain[at] += out[start + at];
    for (int at = 0; at < count; at++)
        out[start + at] = plain[at];
}

template <int ROWS> void tile(const Product &product, int panel, int row, int at, int tiles) {
    const Matrix &matrix = *product.matrix;
    const uint8_t *packed = matrix.packed + panel * matrix.panel_bytes;
    const Ahead ahead = ahead_of(packed, matrix.panel_bytes, at, tiles);
    float sums[ROWS * PANEL];
    for (int part = 0; part < PER_WIDE; part++) {
        if (matrix.kind == PN_I4)
            tile_i4<ROWS>(matrix, packed, *product.input, row, part, ahead, sums);
        else
            tile_i8<ROWS>(matrix, packed, *product.input, row, part, ahead, sums);
    }
    for (int r = 0; r < ROWS; r++)
        let_out(product, panel, row + r, sums + r * PANEL);
}

inline void tile_of(int rows, const Product &product, int panel, int row, int at, int tiles) {
    switch (rows) {
    case 1:
        return tile<1>(product, panel, row, at, tiles);
    case 2:
        return tile<2>(product, panel, row, at, tiles);
    case 3:
        return tile<3>(product, panel, row, at, tiles);
#if PENSTOCK_LANES == 16
    case 4:
        return tile<4>(product, panel, row, at, tiles);
    case 5:
        return tile<5>(product, panel, row, at, tiles);
    default:
        return tile<6>(product, panel, row, at, tiles);
#else
    default:
        return;
#endif
    }
}

void product(const Product &product, int panel, int panel_end, int row, int row_end) {
    /* Even tiles: a last one of a row or two would unpack the panel for little. */
    const int count = row_end - row;
    const int tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
    for (; panel < panel_end; panel++)
        for (int at = 0; at < tiles; at++) {
            const int first = count * at / tiles;
            tile_of(count * (at + 1) / tiles - first, product, panel, row + first, at, tiles);
        }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
