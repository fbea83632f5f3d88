/* The second half of an adapter's product: from its few small results to a matrix's outputs. */
#pragma once

#include "elements.inl.h"
#include "penstock_native.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* Outputs that are computed side by side, in registers. */
constexpr int WIDENED = 4 * LANES > 2 * WIDE ? 4 * LANES : 2 * WIDE;

/* COUNT outputs of one row: each is one chain of sums by rank, whatever is computed beside it. */
template <int COUNT, typename Element>
inline void widen_some(const Widening &of, const float *small, int output, float *out) {
    constexpr int VECTORS = COUNT / LANES;
    const Element *weights = static_cast<const Element *>(of.weights) + output;
    Floats sums[VECTORS];
    for (int part = 0; part < VECTORS; part++)
        sums[part] = zero();
    for (int at = 0; at < of.rank; at++) {
        const Floats one = spread(small[at] * of.scale);
        const Element *own = weights + at * of.stride;
#pragma GCC unroll 8
        for (int part = 0; part < VECTORS; part++)
            sums[part] = fma(one, load(own + part * LANES), sums[part]);
    }
    for (int part = 0; part < VECTORS; part++)
        store(out + part * LANES, sums[part]);
}

template <typename Element>
inline void widen_rows(const Widening &of, int rows, int output, int output_end) {
    int at = output;
    for (; at + WIDENED <= output_end; at += WIDENED)
        for (int row = 0; row < rows; row++)
            widen_some<WIDENED, Element>(of, of.small + row * of.small_stride, at,
                                         of.out + row * of.out_stride + at);
    for (; at < output_end; at += WIDE)
        for (int row = 0; row < rows; row++) {
            float some[WIDE];
            widen_some<WIDE, Element>(of, of.small + row * of.small_stride, at, some);
            float *out = of.out + row * of.out_stride + at;
            for (int lane = 0; lane < WIDE && at + lane < output_end; lane++)
                out[lane] = some[lane];
        }
}

void widen_low_rank(const Widening &of, int rows, int output, int output_end) {
    if (of.element == PN_F32)
        return widen_rows<float>(of, rows, output, output_end);
    if (of.element == PN_F16)
        return widen_rows<Half>(of, rows, output, output_end);
    widen_rows<Brain>(of, rows, output, output_end);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
