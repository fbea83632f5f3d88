/* Products of quantised rows with packed matrices. packing.h has the bytes of a panel. */
#pragma once

#include "low_rank.inl.h"
#include "nested.inl.h"
#include "tiles.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

template <int ROWS>
inline void tile_i4(const Weights &weights, const Quantised &input, int row, int part, Ahead ahead,
                    float *sums) {
    const int quadruples = input.group / QUADRUPLE;
    const uint8_t *bytes = weights.bytes;
    Tile<ROWS, true> tile(input, row, weights.first_group);
    tile.take(sums);
    for (int group = 0; group < weights.groups; group++) {
        tile.begin();
        const uint8_t *nibbles = bytes + 2 * PANEL + part * LANES * QUADRUPLE;
#pragma GCC unroll 4
        for (int at = 0; at < quadruples; at++) {
            __builtin_prefetch(ahead.at);
            ahead.at += ahead.step;
            const Integers both = load_bytes(nibbles + at * LINE);
            tile.dots(low_nibbles(both), high_nibbles(both), at);
        }
        const uint16_t *scales = reinterpret_cast<const uint16_t *>(bytes) + part * LANES;
        tile.end(load_half(scales), load_half(scales + HALF_PANEL));
        bytes += 2 * PANEL + quadruples * LINE;
        ahead.at += ahead.step; /* the scales' line */
    }
    tile.give(sums);
}

template <int ROWS>
inline void tile_i8(const Weights &weights, const Quantised &input, int row, int part, Ahead ahead,
                    float *sums) {
    const int quadruples = input.group / QUADRUPLE;
    const uint8_t *bytes = weights.bytes + part * LANES * QUADRUPLE;
    Tile<ROWS, false> tile(input, row, weights.first_group);
    tile.take(sums);
    for (int group = 0; group < weights.groups; group++) {
        tile.begin();
#pragma GCC unroll 4
        for (int at = 0; at < quadruples; at++) {
            __builtin_prefetch(ahead.at);
            __builtin_prefetch(ahead.at + LINE);
            ahead.at += 2 * ahead.step;
            tile.dots(load_bytes(bytes), load_bytes(bytes + LINE), at);
            bytes += 2 * LINE;
        }
        tile.end();
    }
    tile.give(sums);
}

/* Codes with scales and offsets by group; SMALL: two of them a byte. */
template <int ROWS, bool SMALL, bool WIDE>
inline void tile_affine(const Weights &weights, const Quantised &input, int row, int part,
                        Ahead ahead, float *sums) {
    constexpr int HEADER = (WIDE ? 8 : 4) * PANEL;
    constexpr int LINES = SMALL ? 1 : 2;
    const int quadruples = input.group / QUADRUPLE;
    const uint8_t *bytes = weights.bytes;
    Tile<ROWS, SMALL> tile(input, row, weights.first_group);
    tile.take(sums);
    for (int group = 0; group < weights.groups; group++) {
        tile.begin_plain();
        const uint8_t *codes = bytes + HEADER + part * LANES * QUADRUPLE;
#pragma GCC unroll 4
        for (int at = 0; at < quadruples; at++) {
            __builtin_prefetch(ahead.at);
            if (!SMALL)
                __builtin_prefetch(ahead.at + LINE);
            ahead.at += LINES * ahead.step;
            const Integers both = load_bytes(codes);
            if (SMALL)
                tile.dots(low_nibbles(both), high_nibbles(both), at);
            else
                tile.dots(both, load_bytes(codes + LINE), at);
            codes += LINES * LINE;
        }
        tile.end(affine_of<WIDE>(bytes, part));
        bytes += HEADER + quadruples * LINES * LINE;
        ahead.at += HEADER / LINE * ahead.step;
    }
    tile.give(sums);
}

/* Weights that are not quantised, and inputs in fp32: one sum a weight's output along all columns. */
template <int ROWS, typename Element>
inline void tile_plain(const Weights &weights, const Quantised &input, int row, int part,
                       Ahead ahead, float *sums) {
    constexpr int LINES = PANEL * int(sizeof(Element)) / LINE;
    const float *values =
        input.floats() + row * input.stride + int64_t(weights.first_group) * input.group;
    const Element *low = reinterpret_cast<const Element *>(weights.bytes) + part * LANES;
    Floats lows[ROWS];
    Floats highs[ROWS];
    for (int r = 0; r < ROWS; r++) {
        lows[r] = load(sums + r * PANEL);
        highs[r] = load(sums + r * PANEL + HALF_PANEL);
    }
    const int columns = weights.groups * input.group;
    for (int at = 0; at < columns; at++) {
        for (int line = 0; line < LINES; line++) {
            __builtin_prefetch(ahead.at);
            ahead.at += ahead.step;
        }
        const Floats first = load(low);
        const Floats second = load(low + HALF_PANEL);
        low += PANEL;
#pragma GCC unroll 8
        for (int r = 0; r < ROWS; r++) {
            const Floats value = spread(values[r * input.stride + at]);
            lows[r] = fma(value, first, lows[r]);
            highs[r] = fma(value, second, highs[r]);
        }
    }
    for (int r = 0; r < ROWS; r++) {
        store(sums + r * PANEL, lows[r]);
        store(sums + r * PANEL + HALF_PANEL, highs[r]);
    }
}

/* Columns of a panel that stay in the first cache while all tiles of rows go over them. */
constexpr int BLOCK_COLUMNS = 512;

/* x / (1 + e^-y) */
inline Floats switched_by(Floats x, Floats y) {
    const Floats negative = max(min(sub(zero(), y), spread(87.0F)), spread(-87.0F));
    return div(x, add(spread(1.0F), exponential(negative)));
}

/* x (1 + erf(x / sqrt 2)) / 2, erf within 2e-7 by Abramowitz and Stegun's 7.1.26. */
inline Floats gelu(Floats x) {
    const Floats z = mul(absolute(x), spread(0.707106781F));
    const Floats t = div(spread(1.0F), fma(z, spread(0.3275911F), spread(1.0F)));
    Floats sum = fma(t, spread(1.061405429F), spread(-1.453152027F));
    sum = fma(sum, t, spread(1.421413741F));
    sum = fma(sum, t, spread(-0.284496736F));
    sum = fma(sum, t, spread(0.254829592F));
    const Floats tail = mul(mul(sum, t), exponential_of_negative(sub(zero(), mul(z, z))));
    /* tail is 1 - erf(|x| / sqrt 2): of positive x the rest counts, of negative x the tail. */
    const Floats half = mul(x, spread(0.5F));
    const Floats positive = mul(max(half, zero()), sub(spread(2.0F), tail));
    return fma(min(half, zero()), tail, positive);
}

inline Floats activated_by(const Gate &how, Floats x) {
    switch (how.kind) {
    case PN_GELU:
        return gelu(x);
    case PN_GELU_TANH: {
        const Floats cubed = mul(mul(x, x), x);
        const Floats inner = fma(cubed, spread(0.044715F), x);
        return switched_by(x, mul(inner, spread(1.59576912F))); /* 2 sqrt(2 / pi) */
    }
    case PN_RELU:
        return max(x, zero());
    case PN_RELU_SQUARED: {
        const Floats positive = max(x, zero());
        return mul(positive, positive);
    }
    default:
        return switched_by(x, x);
    }
}

inline Floats gated_by(const Gate &how, Floats gate, Floats up) {
    if (how.kind != PN_CLAMPED_SILU)
        return mul(activated_by(how, mul(gate, spread(how.scale))), up);
    const Floats limit = spread(how.limit);
    gate = min(gate, limit);
    up = max(min(up, limit), spread(-how.limit));
    return mul(add(up, spread(1.0F)), switched_by(gate, mul(gate, spread(how.alpha))));
}

/* What the gates of a panel of a paired matrix let through. */
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
        const Floats up = load(sums + HALF_PANEL + at);
        store(gated + at, gated_by(product.gate, load(sums + at), up));
    }
    for (int at = 0; at < count; at++)
        out[start + at] = gated[at];
}

/* A panel's outputs for one row, from `sums`, to where they belong. */
inline void let_plain_out(const Product &product, int start, int count, float weight,
                          const float *sums, float *out) {
    const float *bias = product.bias == nullptr ? nullptr : product.bias + start;
    for (int at = 0; at < count; at++) {
        const float plain = (sums[at] + (bias == nullptr ? 0.0F : bias[at])) * weight;
        out[at] = product.outlet == Outlet::add ? plain + out[at] : plain;
    }
}

/* The same, bent by an activation or a cap. */
inline void let_bent_out(const Product &product, int start, int count, float weight, float *sums,
                         float *out) {
    if (product.bias != nullptr)
        for (int at = 0; at < count; at++)
            sums[at] += product.bias[start + at];
    for (int at = 0; at < PANEL; at += LANES) {
        Floats bent = mul(load(sums + at), spread(weight));
        if (product.outlet == Outlet::activated)
            bent = activated_by(product.gate, bent);
        store(sums + at, product.cap > 0 ? capped(bent, product.cap) : bent);
    }
    for (int at = 0; at < count; at++)
        out[at] = sums[at];
}

/* By the scales of a matrix that has one for each output. */
inline void scale_outputs(const Matrix &matrix, int panel, int count, float *sums) {
    const uint8_t *packed = matrix.packed + panel * matrix.panel_bytes;
    const float *scales = reinterpret_cast<const float *>(packed);
    for (int row = 0; row < count; row++, sums += PANEL)
        for (int at = 0; at < PANEL; at++)
            sums[at] *= scales[at];
}

inline void let_out(const Product &product, int panel, int row, float *sums) {
    const Matrix &matrix = *product.matrix;
    const int64_t to = product.rows == nullptr ? row : product.rows[row];
    const float weight = product.weights == nullptr ? product.scale : product.weights[row];
    float *out = product.out + to * product.out_stride;
    if (product.outlet == Outlet::gated)
        return let_gated_out(product, panel, sums, out);
    const int start = panel * PANEL;
    const int rest = matrix.rows - start;
    if (product.outlet == Outlet::activated || product.cap > 0)
        return let_bent_out(product, start, rest < PANEL ? rest : PANEL, weight, sums,
                            out + start);
    if (rest < PANEL)
        let_plain_out(product, start, rest, weight, sums, out + start);
    else
        let_plain_out(product, start, PANEL, weight, sums, out + start);
}

/* A product's weights at hand. */
struct Block {
    const Product &product;
    int kind;
    Weights weights;
};

template <int ROWS> void tile(const Block &block, int row, Ahead ahead, float *sums) {
    const Quantised &input = *block.product.input;
    for (int part = 0; part < PER_WIDE; part++) {
        float *own = sums + part * LANES;
        switch (block.kind) {
        case PN_I4:
            tile_i4<ROWS>(block.weights, input, row, part, ahead, own);
            break;
        case PN_I8:
            tile_i8<ROWS>(block.weights, input, row, part, ahead, own);
            break;
        case PN_Z4:
            tile_affine<ROWS, true, false>(block.weights, input, row, part, ahead, own);
            break;
        case PN_Z8:
            tile_affine<ROWS, false, false>(block.weights, input, row, part, ahead, own);
            break;
        case PN_A4:
            tile_affine<ROWS, true, true>(block.weights, input, row, part, ahead, own);
            break;
        case PN_W16:
            tile_plain<ROWS, Half>(block.weights, input, row, part, ahead, own);
            break;
        case PN_WB16:
            tile_plain<ROWS, Brain>(block.weights, input, row, part, ahead, own);
            break;
        case PN_W32:
            tile_plain<ROWS, float>(block.weights, input, row, part, ahead, own);
            break;
        case PN_K4:
            tile_nested<ROWS, 4>(block.weights, input, row, part, ahead, own);
            break;
        case PN_K5:
            tile_nested<ROWS, 5>(block.weights, input, row, part, ahead, own);
            break;
        case PN_K6:
            tile_nested<ROWS, 6>(block.weights, input, row, part, ahead, own);
            break;
        default:
            tile_affine<ROWS, false, true>(block.weights, input, row, part, ahead, own);
        }
    }
}

inline void tile_of(int count, const Block &block, int row, Ahead ahead, float *sums) {
    switch (count) {
    case 1:
        return tile<1>(block, row, ahead, sums);
    case 2:
        return tile<2>(block, row, ahead, sums);
    case 3:
        return tile<3>(block, row, ahead, sums);
#if PENSTOCK_LANES == 16
    case 4:
        return tile<4>(block, row, ahead, sums);
    case 5:
        return tile<5>(block, row, ahead, sums);
    default:
        return tile<6>(block, row, ahead, sums);
#else
    default:
        return;
#endif
    }
}

/* Ask memory for lines [line, end) of some spans. */
inline void ask_for(const Span *spans, int count, int64_t line, int64_t end) {
    for (int at = 0; at < count && line < end; at++) {
        const Span span = spans[at];
        for (; line < span.lines && line < end; line++)
            __builtin_prefetch(span.first + line * LINE, 0, 2);
        line = line < span.lines ? line : line - span.lines;
        end -= span.lines;
    }
}

/* What a panel asks memory for beside its own product, tile by tile: its share of what comes next. */
struct Coming {
    const Span *spans;
    int count;
    int64_t lines; /* of all spans */
    int64_t step;  /* tiles so far, of all panels */
    int64_t steps;

    Coming(const Product &product, int panel, int64_t tiles)
        : spans(product.added.coming), count(product.added.coming_count), lines(0),
          step(panel * tiles), steps(product.matrix->panels * tiles) {
        for (int at = 0; at < count; at++)
            lines += spans[at].lines;
    }
    void ask_for_some() {
        if (lines > 0)
            ask_for(spans, count, lines * step / steps, lines * (step + 1) / steps);
        step++;
    }
};

/* All rows with one panel: in blocks of columns where they are several tiles. */
inline void panel_of(const Product &product, int panel, int row, int count, float *sums) {
    const Matrix &matrix = *product.matrix;
    const bool tail = matrix.tail_panel > 0 && panel >= matrix.tail_panel;
    const int kind = tail ? matrix.tail_kind : matrix.kind;
    const int64_t bytes_a_panel = tail ? matrix.tail_bytes : matrix.panel_bytes;
    const uint8_t *packed =
        matrix.packed + (tail ? matrix.tail_panel * matrix.panel_bytes +
                                    (panel - matrix.tail_panel) * matrix.tail_bytes
                              : panel * matrix.panel_bytes);
    /* Even tiles: a last one of a row or two would unpack the panel for little. */
    const int tiles = (count + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t header = kind == PN_I8 ? 4 * PANEL : 0;
    const int64_t group_bytes = (bytes_a_panel - header) / matrix.groups;
    const int at_once = tiles == 1 ? matrix.groups : BLOCK_COLUMNS / matrix.group;
    Coming coming(product, panel, int64_t(tiles) * ((matrix.groups + at_once - 1) / at_once));
    for (int group = 0; group < matrix.groups; group += at_once) {
        const int rest = matrix.groups - group;
        const int groups = rest < at_once ? rest : at_once;
        const uint8_t *bytes = packed + header + group * group_bytes;
        const Block block{product, kind, {bytes, group, groups}};
        for (int at = 0; at < tiles; at++) {
            const int first = count * at / tiles;
            const Ahead ahead = ahead_of(bytes, groups * group_bytes, at, tiles);
            tile_of(count * (at + 1) / tiles - first, block, row + first, ahead,
                    sums + first * PANEL);
            if (tiles > 1)
                coming.ask_for_some();
        }
    }
}

int32_t dots(int64_t times) {
    constexpr int SUMS = 12; /* as many as hide the instruction's latency */
    constexpr int ROUNDS = int(PEAK_PRODUCTS / (SUMS * LANES * QUADRUPLE));
    Integers sums[SUMS];
    for (int at = 0; at < SUMS; at++)
        sums[at] = spread_integer(at);
    const Integers weights = spread_integer(0x01020304);
    for (; times > 0; times--)
        for (int round = 0; round < ROUNDS; round++)
#pragma GCC unroll 12
            for (int at = 0; at < SUMS; at++)
                sums[at] = dot_small(sums[at], weights, spread_integer(0x04030201));
    for (int at = 1; at < SUMS; at++)
        sums[0] = add_integers(sums[0], sums[at]);
    return total(sums[0]);
}

void product(const Product &product, int panel, int panel_end, int row, int row_end) {
    const Matrix &matrix = *product.matrix;
    float sums[PRODUCT_ROWS * PANEL];
    for (; panel < panel_end; panel++)
        for (int first = row; first < row_end; first += PRODUCT_ROWS) {
            const int rest = row_end - first;
            const int count = rest < PRODUCT_ROWS ? rest : PRODUCT_ROWS;
            for (int at = 0; at < count * PANEL; at++)
                sums[at] = 0.0F;
            panel_of(product, panel, first, count, sums);
            if (matrix.kind == PN_I8)
                scale_outputs(matrix, panel, count, sums);
            if (product.added.runs_count > 0)
                add_low_rank(product, panel, first, count, sums);
            for (int at = 0; at < count; at++)
                let_out(product, panel, first + at, sums + at * PANEL);
        }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
