/* A layer's experts, and room for what a step's tokens make of them. */
#pragma once

#include "buffer.h"
#include "kernels.h"
#include "packing.h"
#include "penstock_native.h"

namespace penstock {

struct Experts {
    pn_experts shape{}; /* experts 0: the layer has none */
    Matrix gate_up;     /* the first expert's; the others follow it */
    Matrix down;
    const void *router = nullptr;
    int element = 0; /* of the router */
    const float *router_bias = nullptr;
    const float *correction = nullptr;
    const float *gate_up_bias = nullptr;
    const float *down_bias = nullptr;
    const float *shared_gate = nullptr;
    const float *scales = nullptr; /* of the weights of those chosen */

    bool any() const { return shape.experts > 0; }
    Routing routing() const;
    Gate gate() const { return {shape.gate, shape.gate_alpha, shape.gate_limit}; }

    /* What is still to be set, or null. */
    const char *missing() const;
};

/* A line about why a shape makes no sense, or null. */
const char *fault_of(const pn_experts &shape);

/* Where a matrix or vector of experts goes, with its size; null for a `which` that they lack. */
Matrix *matrix_place(Experts &experts, int which, int hidden, pn_packing *expected);
const float **vector_place(Experts &experts, int which, int hidden, int *size);

inline Matrix of_expert(const Matrix &first, int expert) {
    Matrix own = first;
    own.packed += int64_t(expert) * packed_bytes(first);
    return own;
}

inline int64_t padded_columns(const Matrix &matrix) {
    return int64_t(matrix.groups) * matrix.group;
}

/* Rows as inputs of one matrix. */
struct QuantisedRoom {
    Buffer<int8_t> values;
    Buffer<float> scales;
    Buffer<int32_t> corrections;

    void need(int64_t rows, const Matrix &matrix) {
        values.need(rows * padded_columns(matrix) * input_bytes(matrix) + 64);
        scales.need(rows * matrix.groups);
        corrections.need(rows * matrix.groups * corrections_a_group(offset_of(matrix)));
    }

    /* The rows from `row` on. */
    Quantised of(const Matrix &matrix, int64_t row = 0) const {
        return {values.get() + row * padded_columns(matrix) * input_bytes(matrix),
                scales.get() + row * matrix.groups,
                corrections.get() + row * matrix.groups * corrections_a_group(offset_of(matrix)),
                padded_columns(matrix),
                matrix.group,
                matrix.groups,
                offset_of(matrix)};
    }
};

/* A token and an expert that it chose are an assignment. They lie by expert, then by token. */
struct ExpertRoom {
    Buffer<float> normed;       /* (rows, hidden): what the router sees */
    Buffer<float> scores;       /* (rows, routing_room) */
    Buffer<int32_t> chosen;     /* (rows, chosen) experts, as tokens chose */
    Buffer<float> chosen_weights;
    Buffer<float> shared_weights; /* (rows) */
    Buffer<int32_t> begins;     /* (experts + 1) assignments */
    Buffer<int32_t> used;       /* experts with assignments, in order */
    Buffer<int32_t> by_size;    /* the same, the fewest assignments first */
    Buffer<int32_t> tokens;     /* by assignment: its row */
    Buffer<float> weights;      /* by assignment */
    QuantisedRoom inputs;       /* by assignment */
    Buffer<float> gated;        /* (assignments, intermediate) */
    QuantisedRoom inner;        /* by assignment */
    int used_count = 0;

    /* Throws std::bad_alloc. */
    void need(const Experts &experts, int64_t rows, int hidden);

    /* Fill `begins` to `weights` by what `rows` tokens chose. */
    void sort(const pn_experts &shape, int rows);
};

} // namespace penstock
