/* Products with weights whose groups' scales are whole numbers times those of 256 columns (PN_K4 to
 * PN_K6), as packing.h has them. */
#pragma once

#include "tiles.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* What a superblock's scales are multiples of: its outputs' scales and, but of six bits, offsets. */
struct Steps {
    Floats low;
    Floats high;
    Floats low_least;
    Floats high_least;
};

template <int BITS> inline Steps steps_of(const uint8_t *header, int part) {
    const uint16_t *own = reinterpret_cast<const uint16_t *>(header) + part * LANES;
    Steps steps{load_half(own), load_half(own + HALF_PANEL), zero(), zero()};
    if (BITS < 6) { /* corrections are -OFFSET_K6 times sums, and offsets are subtracted */
        const Floats each = spread(1.0F / OFFSET_K6);
        steps.low_least = mul(load_half(own + PANEL), each);
        steps.high_least = mul(load_half(own + PANEL + HALF_PANEL), each);
    }
    return steps;
}

/* Some quadruples of codes as they are asked for in order. */
template <int ROWS> struct Reading {
    Tile<ROWS, true> &tile;
    const uint8_t *lines;
    int quadruple;
    Ahead &ahead;

    Integers line() {
        __builtin_prefetch(ahead.at);
        ahead.at += ahead.step;
        const Integers found = load_bytes(lines);
        lines += LINE;
        return found;
    }
    void four() {
        const Integers both = line();
        tile.dots(low_nibbles(both), high_nibbles(both), quadruple++);
    }
    /* The same, with higher bits that are FROM and on of each byte of `bits`: COUNT of them. */
    template <int FROM, int COUNT> void more(Integers bits) {
        const Integers mask = spread_byte(COUNT == 1 ? 16 : 48);
        const Integers both = line();
        tile.dots(with_bits<FROM, 4>(low_nibbles(both), bits, mask),
                  with_bits<FROM + COUNT, 4>(high_nibbles(both), bits, mask), quadruple++);
    }
};

/* Groups of 32 columns with scales and offsets, or of two halves with scales. Returns its end. */
template <int ROWS, int BITS>
inline const uint8_t *group_of(Tile<ROWS, true> &tile, const uint8_t *bytes, int part,
                               const Steps &steps, Ahead &ahead) {
    const uint8_t *levels = bytes + part * LANES;
    ahead.at += ahead.step; /* their line */
    Reading<ROWS> reading{tile, bytes + LINE + part * LANES * QUADRUPLE, 0, ahead};
    if (BITS == 6) {
        for (int half = 0; half < 2; half++) {
            tile.begin_half(half);
            for (int pair = 0; pair < 2; pair++) {
                const Integers bits = reading.line();
                reading.template more<0, 2>(bits);
                reading.template more<4, 2>(bits);
            }
            const int8_t *own = reinterpret_cast<const int8_t *>(levels) + half * PANEL;
            tile.scale_in(mul(steps.low, load_signed(own)),
                          mul(steps.high, load_signed(own + HALF_PANEL)));
        }
        tile.next_pair();
        return bytes + LINE + 12 * LINE;
    }
    tile.begin_plain();
    if (BITS == 5) {
        for (int block = 0; block < 2; block++) {
            const Integers bits = reading.line();
            reading.template more<0, 1>(bits);
            reading.template more<2, 1>(bits);
            reading.template more<4, 1>(bits);
            reading.template more<6, 1>(bits);
        }
    } else {
#pragma GCC unroll 4
        for (int at = 0; at < 8; at++)
            reading.four();
    }
    tile.end_pair({mul(steps.low, load_unsigned(levels)),
                   mul(steps.high, load_unsigned(levels + HALF_PANEL)),
                   mul(steps.low_least, load_unsigned(levels + PANEL)),
                   mul(steps.high_least, load_unsigned(levels + PANEL + HALF_PANEL))});
    return bytes + LINE + (BITS == 5 ? 10 : 8) * LINE;
}

template <int ROWS, int BITS>
inline void tile_nested(const Weights &weights, const Quantised &input, int row, int part,
                        Ahead ahead, float *sums) {
    constexpr int HEADER = BITS == 6 ? LINE : 2 * LINE;
    const uint8_t *bytes = weights.bytes;
    Tile<ROWS, true> tile(input, row, weights.first_group);
    tile.take(sums);
    for (int super = 0; super < weights.groups / SUPERBLOCK_GROUPS; super++) {
        const Steps steps = steps_of<BITS>(bytes, part);
        bytes += HEADER;
        ahead.at += HEADER / LINE * ahead.step;
        for (int group = 0; group < SUPERBLOCK_GROUPS; group++)
            bytes = group_of<ROWS, BITS>(tile, bytes, part, steps, ahead);
    }
    tile.give(sums);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
