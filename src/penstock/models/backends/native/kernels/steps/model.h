/* A model: its shape, where its weights lie, its threads, and room for a step. */
#pragma once

#include <vector>

#include "buffer.h"
#include "cache.h"
#include "experts.h"
#include "kernels.h"
#include "penstock_native.h"
#include "team.h"

namespace penstock {

struct Layer {
    Matrix qkv;
    Matrix output;
    Matrix gate_up;
    Matrix down;
    const float *input_norm = nullptr;
    const float *attention_norm = nullptr;
    const float *query_norm = nullptr;
    const float *key_norm = nullptr;
    const float *qkv_bias = nullptr;
    const float *output_bias = nullptr;
    const float *gate_up_bias = nullptr;
    const float *down_bias = nullptr;
    int window = 0;
    int intermediate = 0; /* of gate_up and down; 0: the layer has experts alone */
    Experts experts;
};

struct Model {
    Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus);

    pn_shape shape; /* its sliding_windows is null: see the layers */
    CacheLayout cache;
    const Kernels &kernels;
    Team team;
    std::vector<Layer> layers;
    Matrix head;
    const float *final_norm = nullptr;
    int element = 0;
    const void *embeddings = nullptr;
    const float *cosines = nullptr;
    const float *sines = nullptr;
    int positions = 0;
    double phase_s[PN_PHASES] = {};

    /* A step's room; see step.cpp. */
    Buffer<float> hidden;
    Buffer<float> last; /* hidden states of the wanted rows, past the last keys */
    Buffer<float> heads;
    Buffer<float> attended;
    Buffer<float> gated;
    Buffer<float> partials;
    Buffer<float> scratch;
    Buffer<int8_t> quantised;
    Buffer<float> scales;
    Buffer<int32_t> corrections;
    ExpertRoom experts;

    int head_rows() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_size; }
    int attended_size() const { return shape.heads * shape.head_size; }

    /* What is still to be set, or null. */
    const char *missing() const;
};

/* A line about why a shape makes no sense, or null. */
const char *fault_of(const pn_shape &shape);

/* Where a matrix or vector goes, with its size; null for a `which` or a layer that there is not. */
Matrix *matrix_place(Model &model, int which, int layer, pn_packing *expected);
const float **vector_place(Model &model, int which, int layer, int *size);

} // namespace penstock
