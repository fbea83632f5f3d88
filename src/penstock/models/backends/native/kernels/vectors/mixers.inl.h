/* What layers do that keep a state in place of keys and values: short convolutions, and states that
 * decay while keys and values are added to them. Tokens are taken one after another, so that a
 * token's bits do not hang on where its prompt was cut. */
#pragma once

#include "routing.inl.h"
#include "rows.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* x / (1 + e^-x) */
inline Floats swish(Floats x) { return mul(x, sigmoid(x)); }

/* ln(1 + e^x) = max(x, 0) + ln(1 + u) of u = e^-|x|, that by the series of 2 artanh(u / (2 + u)). */
inline Floats soft_plus(Floats x) {
    const Floats power = exponential_of_negative(sub(zero(), absolute(x)));
    const Floats part = div(power, add(power, spread(2.0F)));
    const Floats square = mul(part, part);
    Floats sum = spread(1.0F / 15);
    sum = fma(sum, square, spread(1.0F / 13));
    sum = fma(sum, square, spread(1.0F / 11));
    sum = fma(sum, square, spread(1.0F / 9));
    sum = fma(sum, square, spread(1.0F / 7));
    sum = fma(sum, square, spread(1.0F / 5));
    sum = fma(sum, square, spread(1.0F / 3));
    sum = fma(sum, square, spread(1.0F));
    return fma(mul(part, spread(2.0F)), sum, max(x, zero()));
}

void multiply(float *x, const float *by, int size, bool switches) {
    for (int at = 0; at < size; at += LANES) {
        const Floats factor = load(by + at);
        store(x + at, mul(load(x + at), switches ? sigmoid(factor) : factor));
    }
}

/* One lane-wide strip of channels, from the last token to the first: each result takes the place of an
 * input that no earlier token needs. */
inline void convolve_strip(const Convolution &of, int channel) {
    const int past = of.width - 1;
    float *inputs = of.inputs + channel;
    float *state = of.state + channel;
    if (of.before != nullptr)
        for (int token = 0; token < of.tokens; token++) {
            float *input = inputs + token * of.stride;
            store(input, mul(load(input), load(of.before + channel + token * of.stride)));
        }
    const auto input_at = [&](int token) {
        if (token >= 0)
            return load(inputs + token * of.stride);
        return of.fresh ? zero() : load(state + (past + token) * of.channels);
    };
    Floats kept[MAX_CONVOLUTION];
    for (int at = 0; at < past; at++)
        kept[at] = input_at(of.tokens - past + at);
    for (int token = of.tokens - 1; token >= 0; token--) {
        Floats sum = of.bias == nullptr ? zero() : load(of.bias + channel);
        for (int at = 0; at < of.width; at++)
            sum = fma(load(of.weight + at * of.channels + channel), input_at(token - past + at), sum);
        if (of.swish)
            sum = swish(sum);
        if (of.after != nullptr)
            sum = mul(sum, load(of.after + channel + token * of.stride));
        store(inputs + token * of.stride, sum);
    }
    for (int at = 0; at < past; at++)
        store(state + at * of.channels, kept[at]);
}

void convolve(const Convolution &of) {
    for (int channel = of.first_channel; channel < of.last_channel; channel += LANES)
        convolve_strip(of, channel);
}

inline float dot(const float *one, const float *other, int size) {
    Floats lanes[PER_WIDE];
    for (int part = 0; part < PER_WIDE; part++)
        lanes[part] = zero();
    for (int at = 0; at < size; at += WIDE)
        for (int part = 0; part < PER_WIDE; part++)
            lanes[part] = fma(load(one + at + part * LANES), load(other + at + part * LANES),
                              lanes[part]);
    return sum_wide(lanes);
}

inline void scale_to(float *x, int size, float factor) {
    for (int at = 0; at < size; at += LANES)
        store(x + at, mul(load(x + at), spread(factor)));
}

/* Queries and keys to unit length, queries then over the root of their size. */
inline void to_unit_length(const Gating &of) {
    const float epsilon = 1e-6F;
    const float root = reciprocal_root(float(of.key_size));
    for (int head = 0; head < of.key_heads; head++) {
        float *query = of.row + int64_t(head) * of.key_size;
        float *key = query + int64_t(of.key_heads) * of.key_size;
        scale_to(query, of.key_size,
                 reciprocal_root(sum_of_squares(query, of.key_size) + epsilon) * root);
        scale_to(key, of.key_size, reciprocal_root(sum_of_squares(key, of.key_size) + epsilon));
    }
}

/* Each element's decay, in the place of its step. */
inline void decay_elements(const Gating &of) {
    for (int head = 0; head < of.key_heads; head++) {
        const Floats rate = spread(of.rates[head]);
        for (int at = head * of.key_size; at < (head + 1) * of.key_size; at += LANES) {
            const Floats scaled = mul(load(of.steps + at), spread(of.step_scale));
            const Floats step = soft_plus(add(scaled, load(of.step_bias + at)));
            store(of.steps + at, exponential_of_negative(sub(zero(), mul(step, rate))));
        }
    }
}

void gating(const Gating &of) {
    if (of.delta)
        to_unit_length(of);
    if (of.keyed)
        decay_elements(of);
    const int each = of.value_heads / of.key_heads;
    for (int first = 0; first < of.value_heads; first += LANES) {
        const int count = of.value_heads - first < LANES ? of.value_heads - first : LANES;
        float steps[LANES];
        float rates[LANES];
        float weights[LANES];
        for (int lane = 0; lane < LANES; lane++) {
            const int head = first + (lane < count ? lane : 0);
            steps[lane] = of.keyed ? 0.0F : of.steps[head] * of.step_scale + of.step_bias[head];
            rates[lane] = of.rates[head];
            weights[lane] = of.delta ? of.weights[head] : 0.0F;
        }
        Floats step = soft_plus(load(steps));
        if (!of.delta)
            step = min(max(step, spread(of.least_step)), spread(of.most_step));
        store(rates, exponential_of_negative(sub(zero(), mul(step, load(rates)))));
        store(weights, of.delta ? sigmoid(load(weights)) : step);
        for (int lane = 0; lane < count; lane++) {
            float *out = of.out + int64_t(first + lane) * GATES;
            const float *query = of.row + int64_t((first + lane) / each) * of.key_size;
            out[0] = rates[lane];
            out[1] = weights[lane];
            out[2] = dot(query, query + int64_t(of.key_heads) * of.key_size, of.key_size);
        }
    }
}

/* Sums over a state's rows: of the values that a key, and a query, find in it. */
template <int VECTORS> struct Found {
    Floats by_key[2][VECTORS]; /* of even rows, and of odd ones */
    Floats by_query[2][VECTORS];

    inline void clear() {
        for (int half = 0; half < 2; half++)
            for (int vector = 0; vector < VECTORS; vector++)
                by_key[half][vector] = by_query[half][vector] = zero();
    }
};

/* How a state's rows decay, and whether what a key finds is taken from its value. */
enum class Rule { state_space, delta, keyed_delta };

/* Some columns of one head's state along all tokens. Between two tokens the state is read and written
 * once: what the one adds, and what the next one finds. */
template <int VECTORS, Rule RULE> void recur_columns(const Recurrence &of, int column) {
    constexpr bool DELTA = RULE != Rule::state_space;
    constexpr bool KEYED = RULE == Rule::keyed_delta;
    Found<VECTORS> found;
    float *state = of.state + column;
    found.clear();
    const float *query = of.queries;
    const float *key = of.keys;
    const float *decays = of.decays;
    /* Where rows decay apart, keys and queries look for what their token leaves of each. */
    const auto seen = [&](const float *values, int row) {
        return spread(KEYED ? values[row] * decays[row] : values[row]);
    };
    if (of.fresh) {
        for (int row = 0; row < of.key_size; row++)
            for (int vector = 0; vector < VECTORS; vector++)
                store(state + int64_t(row) * of.value_size + vector * LANES, zero());
    } else {
        for (int row = 0; row < of.key_size; row++)
            for (int vector = 0; vector < VECTORS; vector++) {
                const Floats own = load(state + int64_t(row) * of.value_size + vector * LANES);
                const int half = row % 2;
                if (DELTA)
                    found.by_key[half][vector] =
                        fma(seen(key, row), own, found.by_key[half][vector]);
                found.by_query[half][vector] =
                    fma(seen(query, row), own, found.by_query[half][vector]);
            }
    }
    for (int token = 0; token < of.tokens; token++) {
        const float *gates = of.gates + token * of.gates_stride;
        const float *value = of.values + column + token * of.stride;
        float *out = of.out + column + token * of.out_stride;
        const Floats decay = spread(KEYED ? 1.0F : gates[0]);
        const Floats weight = spread(gates[1]);
        const Floats match = spread(gates[2]);
        Floats added[VECTORS];
        for (int vector = 0; vector < VECTORS; vector++) {
            const Floats own = load(value + vector * LANES);
            Floats fresh = own;
            if (DELTA) {
                const Floats all = add(found.by_key[0][vector], found.by_key[1][vector]);
                fresh = sub(own, KEYED ? all : mul(decay, all));
            }
            added[vector] = mul(fresh, weight);
            Floats sum = add(found.by_query[0][vector], found.by_query[1][vector]);
            if (!KEYED)
                sum = mul(decay, sum);
            sum = fma(match, added[vector], sum);
            if (!DELTA)
                sum = fma(spread(of.skip), own, sum);
            store(out + vector * LANES, sum);
        }
        const float *before = key;
        const float *decayed = decays;
        const auto left = [&](int row) { return KEYED ? spread(decayed[row]) : decay; };
        const bool more = token + 1 < of.tokens;
        if (!more) {
            for (int row = 0; row < of.key_size; row++)
                for (int vector = 0; vector < VECTORS; vector++) {
                    float *place = state + int64_t(row) * of.value_size + vector * LANES;
                    store(place,
                          fma(spread(before[row]), added[vector], mul(left(row), load(place))));
                }
            return;
        }
        query += of.stride;
        key += of.stride;
        if (KEYED)
            decays += of.stride;
        found.clear();
        for (int row = 0; row < of.key_size; row += 2)
#pragma GCC unroll 2
            for (int half = 0; half < 2; half++)
#pragma GCC unroll 8
                for (int vector = 0; vector < VECTORS; vector++) {
                    const int at = row + half;
                    float *place = state + int64_t(at) * of.value_size + vector * LANES;
                    const Floats own =
                        fma(spread(before[at]), added[vector], mul(left(at), load(place)));
                    store(place, own);
                    if (DELTA)
                        found.by_key[half][vector] =
                            fma(seen(key, at), own, found.by_key[half][vector]);
                    found.by_query[half][vector] =
                        fma(seen(query, at), own, found.by_query[half][vector]);
                }
    }
}

template <Rule RULE> void recur_by(const Recurrence &of) {
    constexpr int MANY = 4;
    int column = of.first_column;
    for (; column + MANY * LANES <= of.last_column; column += MANY * LANES)
        recur_columns<MANY, RULE>(of, column);
    for (; column < of.last_column; column += WIDE)
        recur_columns<PER_WIDE, RULE>(of, column);
}

void recur(const Recurrence &of) {
    if (of.decays != nullptr)
        return recur_by<Rule::keyed_delta>(of);
    of.delta ? recur_by<Rule::delta>(of) : recur_by<Rule::state_space>(of);
}

inline void gate_all(const Outcome &of) {
    const Floats scale = spread(of.gate_scale);
    const bool switches = of.order == PN_NORM_THEN_SWITCH;
    for (int at = 0; at < of.size; at += LANES) {
        const Floats gate = mul(load(of.gates + at), scale);
        store(of.row + at, mul(load(of.row + at), switches ? sigmoid(gate) : swish(gate)));
    }
}

void give_out(const Outcome &of) {
    const bool normed_first = of.order == PN_NORM_THEN_GATE || of.order == PN_NORM_THEN_SWITCH;
    if (!normed_first)
        gate_all(of);
    if (of.order == PN_GATE_ALONE)
        return;
    for (int first = 0; first < of.size; first += of.norm.size) {
        float *own = of.row + first;
        const Norm how = {of.norm.weight + first, nullptr, PN_RMS_NORM, of.norm.epsilon};
        norm_some(own, how, moments_of(own, of.norm.size, how), 0, of.norm.size, own);
    }
    if (normed_first)
        gate_all(of);
}

/* An index of the keys before a token, which chooses those that it sees. */
void index_heads(const IndexHeads &of) {
    const int rotated = of.cosines == nullptr ? 0 : of.turned;
    const LatentTurn turning{rotated, rotated, of.cosines, of.sines};
    for (int head = 0; head < of.heads; head++)
        turn(of.queries + int64_t(head) * of.size, turning, 1.0F);
    norm_some(of.key, of.norm, moments_of(of.key, of.size, of.norm), 0, of.size, of.key);
    turn(of.key, turning, 1.0F);
    halves(of.key, of.size, of.to);
}

void index_scores(const IndexScores &of, int begin, int end) {
    float key[MAX_HEAD_SIZE];
    for (int position = begin; position < end; position++) {
        const int64_t block = of.blocks[position / of.block_size];
        widen(of.cache + block * of.block_stride + int64_t(position % of.block_size) * of.size,
              false, of.size, key);
        float sum = 0.0F;
        for (int head = 0; head < of.heads; head++) {
            const float match = dot(of.queries + int64_t(head) * of.size, key, of.size);
            sum = sum + of.weights[head] * (match > 0.0F ? match : 0.0F);
        }
        of.scores[position] = sum;
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
