/* A model: its shape, where its weights lie, its threads, and room for a step. */
#pragma once

#include <vector>

#include "buffer.h"
#include "cache.h"
#include "experts.h"
#include "kernels.h"
#include "mixer.h"
#include "penstock_native.h"
#include "team.h"

namespace penstock {

struct Layer {
    Matrix qkv;
    Matrix output;
    Matrix gate_up;
    Matrix down;
    Norm input_norm;
    Norm attention_norm; /* before the MLP */
    Norm attention_out_norm;
    Norm mlp_out_norm;
    Norm query_norm;
    Norm key_norm;
    const float *qkv_bias = nullptr;
    const float *output_bias = nullptr;
    const float *gate_up_bias = nullptr;
    const float *down_bias = nullptr;
    const float *sinks = nullptr;
    pn_layer traits = {};
    Experts experts;
    Mixer mixer;
    int cached = 0; /* which of the cache's layers is its own, if it attends */
};

/* A rotary table, (positions, size) each. */
struct Rotary {
    const float *cosines = nullptr;
    const float *sines = nullptr;
    int size = 0;
};

struct Model {
    Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus);

    pn_shape shape; /* its sliding_windows is null: see the layers */
    CacheLayout cache;
    const Kernels &kernels;
    Team team;
    std::vector<Layer> layers;
    Matrix head;
    Norm final_norm;
    pn_traits traits = {PN_RMS_NORM, 1.0F, 1.0F, 0.0F};
    int element = 0;
    const void *embeddings = nullptr;
    Rotary rotary[PN_ROTATIONS];
    const float *growth = nullptr; /* by position */
    int positions = 1 << 30;       /* as many as the shortest table has */
    int64_t state_floats = 0;      /* of one sequence, all layers */
    double phase_s[PN_PHASES] = {};

    /* A step's room; see step.cpp. */
    Buffer<float> hidden;
    Buffer<float> last; /* hidden states of the wanted rows, past the last keys */
    Buffer<float> heads;
    Buffer<float> attended;
    Buffer<float> mixed; /* rows of a mixer's first product */
    Buffer<float> gates;
    Buffer<float> mixed_out;
    Buffer<float> gated;
    Buffer<float> branch; /* what is added to hidden states after a norm, or beside attention */
    Buffer<float> partials;
    Buffer<float> scratch;
    Buffer<int8_t> quantised;
    Buffer<float> scales;
    Buffer<int32_t> corrections;
    ExpertRoom experts;

    /* Queries, keys and values; a layer's product may have gates behind them. */
    int head_rows() const { return (shape.heads + 2 * shape.kv_heads) * shape.head_size; }
    int head_rows(const Layer &layer) const {
        return head_rows() + (layer.traits.gated_attention ? attended_size() : 0);
    }
    int attended_size() const { return shape.heads * shape.head_size; }

    /* What is still to be set, or null. */
    const char *missing() const;
};

/* A line about why a shape, or a layer of it, makes no sense, or null. */
const char *fault_of(const pn_shape &shape);
const char *fault_of(const pn_shape &shape, const pn_layer &layer);

/* Take what was found to make sense. */
void set_traits(Model &model, const pn_traits &traits);
void set_layer(Model &model, int layer, const pn_layer &traits);
void set_mixer(Model &model, int layer, const pn_mixer &shape);

/* Where a matrix or vector goes, with its size; null for a `which` or a layer that there is not. */
Matrix *matrix_place(Model &model, int which, int layer, pn_packing *expected);
const float **vector_place(Model &model, int which, int layer, int *size);

} // namespace penstock
