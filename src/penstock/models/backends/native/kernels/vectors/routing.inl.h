/* Which experts a token has: a router's logits, and what is chosen by them. */
#pragma once

#include <math.h>

#include "elements.inl.h"
#include "penstock_native.h"
#include "softmax.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* Each of ROWS rows with each of OUTPUTS rows of weights: sixteen sums along the columns, added up at
 * the end, in an order that no tile's size changes. */
template <int ROWS, int OUTPUTS, typename Element>
inline void score_tile(const Scores &of, int row, int output) {
    const Element *weights = static_cast<const Element *>(of.weights) + int64_t(output) * of.size;
    const float *rows[ROWS];
    Floats sums[ROWS][OUTPUTS][PER_WIDE];
    for (int r = 0; r < ROWS; r++) {
        rows[r] = of.rows + (of.from == nullptr ? row + r : of.from[row + r]) * of.stride;
        for (int o = 0; o < OUTPUTS; o++)
            for (int part = 0; part < PER_WIDE; part++)
                sums[r][o][part] = zero();
    }
    int at = 0;
    for (; at + WIDE <= of.size; at += WIDE)
#pragma GCC unroll 2
        for (int part = 0; part < PER_WIDE; part++) {
            const int64_t column = at + part * LANES;
            Floats some[ROWS];
#pragma GCC unroll 4
            for (int r = 0; r < ROWS; r++)
                some[r] = load(rows[r] + column);
#pragma GCC unroll 8
            for (int o = 0; o < OUTPUTS; o++) {
                const Floats weight = load(weights + int64_t(o) * of.size + column);
#pragma GCC unroll 4
                for (int r = 0; r < ROWS; r++)
                    sums[r][o][part] = fma(some[r], weight, sums[r][o][part]);
            }
        }
    for (int r = 0; r < ROWS; r++) {
        float *out = of.out + (of.to == nullptr ? row + r : of.to[row + r]) * of.out_stride;
        for (int o = 0; o < OUTPUTS; o++) {
            float sum = sum_wide(sums[r][o]);
            const Element *own = weights + int64_t(o) * of.size;
            for (int rest = at; rest < of.size; rest++)
                sum += rows[r][rest] * widened(own + rest);
            const float bias = of.bias == nullptr ? 0.0F : of.bias[output + o];
            out[output + o] = (sum + bias) * of.scale;
        }
    }
}

template <int ROWS, int OUTPUTS, typename Element>
inline void score_rows(const Scores &of, int row, int output, int output_end) {
    for (; output + OUTPUTS <= output_end; output += OUTPUTS)
        score_tile<ROWS, OUTPUTS, Element>(of, row, output);
    for (; output < output_end; output++)
        score_tile<ROWS, 1, Element>(of, row, output);
}

/* In tiles whose sums fit into the registers. */
template <typename Element>
inline void scores_of(const Scores &of, int row, int row_end, int output, int output_end) {
    while (row < row_end) {
        const int left = row_end - row;
#if PENSTOCK_LANES == 16
        if (left >= 4) {
            score_rows<4, 4, Element>(of, row, output, output_end);
            row += 4;
        } else if (left == 3) {
            score_rows<3, 4, Element>(of, row, output, output_end);
            row += 3;
        } else if (left == 2) {
            score_rows<2, 8, Element>(of, row, output, output_end);
            row += 2;
        } else {
            score_rows<1, 8, Element>(of, row, output, output_end);
            row++;
        }
#else
        if (left >= 2) {
            score_rows<2, 2, Element>(of, row, output, output_end);
            row += 2;
        } else {
            score_rows<1, 4, Element>(of, row, output, output_end);
            row++;
        }
#endif
    }
}

void scores(const Scores &of, int row, int row_end, int output, int output_end) {
    if (of.element == PN_F32)
        return scores_of<float>(of, row, row_end, output, output_end);
    if (of.element == PN_F16)
        return scores_of<Half>(of, row, row_end, output, output_end);
    scores_of<Brain>(of, row, row_end, output, output_end);
}

/* 1 / (1 + e^-x) */
inline Floats sigmoid(Floats x) {
    const Floats negative = max(min(sub(zero(), x), spread(87.0F)), spread(-87.0F));
    return div(spread(1.0F), add(spread(1.0F), exponential(negative)));
}

float switched(const float *row, const float *weight, int size) {
    float logit = 0;
    scores_of<float>({row, size, size, weight, PN_F32, nullptr, &logit, 1}, 0, 1, 0, 1);
    float all[LANES];
    store(all, sigmoid(spread(logit)));
    return all[0];
}

/* The place of the greatest value; the first one where several are. */
inline int greatest_at(const float *values, int count) {
    int best = 0;
    for (int at = 1; at < count; at++)
        best = values[at] > values[best] ? at : best;
    return best;
}

/* Leave to `choice` the experts of the best groups. */
inline void keep_groups(const Routing &of, float *choice) {
    const int size = of.experts / of.groups;
    float best[MAX_GROUPS];
    for (int group = 0; group < of.groups; group++) {
        float *own = choice + group * size;
        float rest[MAX_GROUP_BEST];
        int places[MAX_GROUP_BEST];
        float sum = 0;
        for (int rank = 0; rank < of.group_best; rank++) {
            places[rank] = greatest_at(own, size);
            rest[rank] = own[places[rank]];
            sum += rest[rank];
            own[places[rank]] = -INFINITY;
        }
        for (int rank = of.group_best - 1; rank >= 0; rank--)
            own[places[rank]] = rest[rank];
        best[group] = sum;
    }
    bool kept[MAX_GROUPS] = {};
    for (int rank = 0; rank < of.chosen_groups; rank++) {
        const int group = greatest_at(best, of.groups);
        kept[group] = true;
        best[group] = -INFINITY;
    }
    for (int at = 0; at < of.experts; at++)
        choice[at] = kept[at / size] ? choice[at] : -INFINITY;
}

/* Chosen scores to weights. */
inline void weigh_chosen(const Routing &of, float *weights) {
    if (of.scoring == PN_SOFTMAX_OF_CHOSEN) {
        const float top = weights[0];
        float sum = 0;
        for (int rank = 0; rank < of.chosen; rank++) {
            weights[rank] = exponential_of_negative(weights[rank] - top);
            sum += weights[rank];
        }
        for (int rank = 0; rank < of.chosen; rank++)
            weights[rank] = weights[rank] / sum * of.scale;
        return;
    }
    float sum = 1.0F;
    if (of.normalise) {
        sum = 0;
        for (int rank = 0; rank < of.chosen; rank++)
            sum += weights[rank];
        sum = (sum > of.least_sum ? sum : of.least_sum) + of.added_sum;
    }
    for (int rank = 0; rank < of.chosen; rank++)
        weights[rank] = weights[rank] / sum * of.scale;
}

void route(const Routing &of, float *scores, int32_t *experts, float *weights) {
    const int padded = int(routing_room(of.experts) / 2);
    float *choice = scores + padded;
    if (of.scoring == PN_SOFTMAX) {
        float sum = 0;
        soften(scores, 0, of.experts, 0, padded, &sum);
        for (int at = 0; at < padded; at += LANES)
            store(scores + at, div(load(scores + at), spread(sum)));
    } else if (of.scoring == PN_SIGMOID) {
        for (int at = of.experts; at < padded; at++)
            scores[at] = 0.0F;
        for (int at = 0; at < padded; at += LANES)
            store(scores + at, sigmoid(load(scores + at)));
    }
    for (int at = 0; at < of.experts; at++)
        choice[at] = scores[at] + (of.correction == nullptr ? 0.0F : of.correction[at]);
    if (of.groups > 1)
        keep_groups(of, choice);
    for (int rank = 0; rank < of.chosen; rank++) {
        const int best = greatest_at(choice, of.experts);
        experts[rank] = best;
        weights[rank] = scores[best];
        choice[best] = -INFINITY;
    }
    weigh_chosen(of, weights);
    for (int rank = 0; of.scales != nullptr && rank < of.chosen; rank++)
        weights[rank] = weights[rank] * of.scales[experts[rank]];
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
