/* What rows and attention compute with: sixteen lanes in one vector or two, always summed alike, so
 * that every instruction set gives the same bits. Included with one of vector_*.h before it. */
#pragma once

#include "kernels.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr int WIDE = 16;
constexpr int PER_WIDE = WIDE / LANES;

/* e to the x, for x from -87 to 88, within some 2e-7 of itself. */
inline Floats exponential(Floats x) {
    const Floats whole = rounded(mul(x, spread(1.44269504F)));
    Floats rest = fma(whole, spread(-0.693145752F), x); /* ln 2 in two parts */
    rest = fma(whole, spread(-1.42860677e-6F), rest);
    Floats sum = spread(1.0F / 720);
    sum = fma(sum, rest, spread(1.0F / 120));
    sum = fma(sum, rest, spread(1.0F / 24));
    sum = fma(sum, rest, spread(1.0F / 6));
    sum = fma(sum, rest, spread(0.5F));
    sum = fma(sum, rest, spread(1.0F));
    sum = fma(sum, rest, spread(1.0F));
    return mul(sum, power_of_two(whole));
}

/* e to the x for x up to 0; what is below e^-87 is 0. */
inline Floats exponential_of_negative(Floats x) {
    const Floats least = spread(-87.0F);
    return unless_below(x, least, exponential(max(x, least)));
}

inline float exponential_of_negative(float x) {
    float all[LANES];
    store(all, exponential_of_negative(spread(x)));
    return all[0];
}

/* c tanh(x / c), within some 2e-7 of c. */
inline Floats capped(Floats x, float c) {
    const Floats twice = mul(x, spread(2.0F / c));
    const Floats power = exponential(max(min(twice, spread(80.0F)), spread(-80.0F)));
    return mul(spread(c), sub(spread(1.0F), div(spread(2.0F), add(power, spread(1.0F)))));
}

inline float sum_of(const float *x, int size) {
    Floats lanes[PER_WIDE];
    for (int part = 0; part < PER_WIDE; part++)
        lanes[part] = zero();
    int at = 0;
    for (; at + WIDE <= size; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++)
            lanes[part] = add(load(x + at + part * LANES), lanes[part]);
    float sum = sum_wide(lanes);
    for (; at < size; at++)
        sum += x[at];
    return sum;
}

/* Of all (x - mean)^2. */
inline float sum_of_distances(const float *x, int size, float mean) {
    Floats lanes[PER_WIDE];
    for (int part = 0; part < PER_WIDE; part++)
        lanes[part] = zero();
    int at = 0;
    for (; at + WIDE <= size; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats some = sub(load(x + at + part * LANES), spread(mean));
            lanes[part] = fma(some, some, lanes[part]);
        }
    float sum = sum_wide(lanes);
    for (; at < size; at++)
        sum += (x[at] - mean) * (x[at] - mean);
    return sum;
}

inline float sum_of_squares(const float *x, int size) {
    Floats lanes[PER_WIDE];
    for (int part = 0; part < PER_WIDE; part++)
        lanes[part] = zero();
    int at = 0;
    for (; at + WIDE <= size; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++) {
            const Floats some = load(x + at + part * LANES);
            lanes[part] = fma(some, some, lanes[part]);
        }
    float sum = sum_wide(lanes);
    for (; at < size; at++)
        sum += x[at] * x[at];
    return sum;
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
