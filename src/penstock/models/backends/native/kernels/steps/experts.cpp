#include "experts.h"

#include <algorithm>
#include <new>

namespace penstock {

Routing Experts::routing() const {
    Routing routing;
    routing.experts = shape.experts;
    routing.chosen = shape.chosen;
    routing.scoring = shape.scoring;
    routing.normalise = shape.normalise != 0;
    routing.least_sum = shape.least_sum;
    routing.added_sum = shape.added_sum;
    routing.scale = shape.scale;
    routing.groups = shape.groups;
    routing.chosen_groups = shape.chosen_groups;
    routing.group_best = shape.group_best;
    routing.correction = correction;
    routing.scales = scales;
    return routing;
}

const char *Experts::missing() const {
    if (gate_up.packed == nullptr || down.packed == nullptr)
        return "a layer's experts lack a matrix";
    return router == nullptr ? "a layer lacks its router" : nullptr;
}

const char *fault_of(const pn_experts &shape) {
    constexpr int most = 1 << 24;
    constexpr int most_together = 1 << 29; /* of two such, int32 has room */
    if (shape.experts < 1 || shape.experts > 1 << 16 || shape.chosen < 1 ||
        shape.chosen > shape.experts || shape.chosen > 1 << 10)
        return "the experts, or those that a token chooses, are out of range";
    if (shape.intermediate < 1 || shape.intermediate > most || shape.shared < 0 ||
        shape.shared > most)
        return "an expert's size is out of range";
    if (int64_t(shape.experts) * shape.intermediate > most_together)
        return "the experts are out of range together";
    if (shape.scoring < PN_SOFTMAX || shape.scoring > PN_SIGMOID)
        return "scoring is PN_SOFTMAX, PN_SOFTMAX_OF_CHOSEN or PN_SIGMOID";
    if (shape.gate < PN_SILU || shape.gate > PN_RELU_SQUARED)
        return "a gate is PN_SILU to PN_RELU_SQUARED";
    if ((shape.gated != 0 && shape.gated != 1) || (shape.apart != 0 && shape.apart != 1))
        return "a switch of experts is neither 0 nor 1";
    if (shape.gate == PN_CLAMPED_SILU && !shape.gated)
        return "experts without gates have another activation";
    if (shape.groups < 1 || shape.groups > MAX_GROUPS || shape.experts % shape.groups)
        return "the groups do not divide the experts, or are out of range";
    const int size = shape.experts / shape.groups;
    if (shape.chosen_groups < 1 || shape.chosen_groups > shape.groups ||
        shape.chosen > shape.chosen_groups * size)
        return "the chosen groups hold fewer experts than a token chooses";
    if (shape.group_best < 1 || shape.group_best > MAX_GROUP_BEST || shape.group_best > size)
        return "a group's best experts are out of range";
    return nullptr;
}

Matrix *matrix_place(Experts &experts, int which, int hidden, pn_packing *expected) {
    const pn_experts &shape = experts.shape;
    const int inner = shape.intermediate;
    if (!experts.any())
        return nullptr;
    if (which == PN_EXPERTS_GATE_UP) {
        *expected = {0, shape.gated ? PN_PAIRED : PN_STACKED, (shape.gated ? 2 : 1) * inner, hidden, 0};
        return &experts.gate_up;
    }
    *expected = {0, PN_STACKED, hidden, inner, 0};
    return which == PN_EXPERTS_DOWN ? &experts.down : nullptr;
}

const float **vector_place(Experts &experts, int which, int hidden, int *size) {
    *size = experts.shape.experts;
    if (!experts.any())
        return nullptr;
    switch (which) {
    case PN_ROUTER_BIAS:
        return &experts.router_bias;
    case PN_ROUTER_CORRECTION:
        return &experts.correction;
    case PN_EXPERTS_GATE_UP_BIAS:
        *size *= (experts.shape.gated ? 2 : 1) * experts.shape.intermediate;
        return &experts.gate_up_bias;
    case PN_EXPERTS_DOWN_BIAS:
        *size *= hidden;
        return &experts.down_bias;
    case PN_EXPERT_SCALES:
        return &experts.scales;
    case PN_SHARED_GATE:
        *size = hidden;
        return &experts.shared_gate;
    default:
        return nullptr;
    }
}

void ExpertRoom::need(const Experts &experts, int64_t rows, int hidden) {
    const int64_t assignments = rows * experts.shape.chosen;
    if (assignments > INT32_MAX)
        throw std::bad_alloc();
    normed.need(rows * hidden);
    scores.need(rows * routing_room(experts.shape.experts));
    chosen.need(assignments);
    chosen_weights.need(assignments);
    shared_weights.need(rows);
    begins.need(experts.shape.experts + 1);
    used.need(experts.shape.experts);
    by_size.need(experts.shape.experts);
    tokens.need(assignments);
    weights.need(assignments);
    inputs.need(assignments, experts.gate_up);
    gated.need(assignments * experts.shape.intermediate);
    inner.need(assignments, experts.down);
}

void ExpertRoom::sort(const pn_experts &shape, int rows) {
    const int assignments = rows * shape.chosen;
    int32_t *first = begins.get();
    int32_t *next = by_size.get(); /* until the order is known */
    std::fill(first, first + shape.experts + 1, 0);
    for (int at = 0; at < assignments; at++)
        first[chosen.get()[at] + 1]++;
    used_count = 0;
    for (int expert = 0; expert < shape.experts; expert++) {
        if (first[expert + 1] > 0)
            used.get()[used_count++] = expert;
        first[expert + 1] += first[expert];
        next[expert] = first[expert];
    }
    for (int at = 0; at < assignments; at++) {
        const int32_t place = next[chosen.get()[at]]++;
        tokens.get()[place] = at / shape.chosen;
        weights.get()[place] = chosen_weights.get()[at];
    }
    std::copy(used.get(), used.get() + used_count, by_size.get());
    std::stable_sort(by_size.get(), by_size.get() + used_count, [&](int32_t one, int32_t other) {
        return first[one + 1] - first[one] < first[other + 1] - first[other];
    });
}

} // namespace penstock
