/* A model: its shape, where its weights lie, its threads, and room for a step. */
#pragma once

#include <memory>
#include <vector>

#include "buffer.h"
#include "cache.h"
#include "experts.h"
#include "kernels.h"
#include "mixer.h"
#include "penstock_native.h"
#include "team.h"

namespace penstock {

/* What latent attention has beside PN_QKV and PN_OUTPUT. */
struct Latent {
    pn_latent shape{}; /* rank 0: the layer has none */
    Matrix query_up;
    Norm query_norm;
    Norm norm;
    Norm index_norm;
    int element = 0; /* of the next two */
    const void *keys = nullptr;
    const void *values = nullptr;

    bool any() const { return shape.rank > 0; }
    int query_size() const { return shape.plain + shape.turned; }
    int key_size() const { return shape.rank + shape.turned; }
    /* Of an index: whether there is one, and what a token has of it in the first product. */
    bool indexes() const { return shape.index_heads > 0; }
    int index_size() const { return indexes() ? shape.index_size : 0; }
    int index_rows() const { return index_size() + shape.index_heads; }
    /* A token's queries, of attention and then of its index. */
    int64_t query_rows(int heads) const {
        return int64_t(heads) * query_size() + int64_t(shape.index_heads) * index_size();
    }
};

struct Layer {
    Matrix qkv;
    Matrix output;
    Matrix gate_up;
    Matrix down;
    Matrix detour;     /* of a layer that detours: behind its MLP */
    Matrix input_gate; /* of what each layer has as an input of its own */
    Matrix input_up;
    Norm input_norm;
    Norm mixer_norm;     /* before the mixer of a layer that detours */
    Norm attention_norm; /* before the MLP */
    Norm attention_out_norm;
    Norm mlp_out_norm;
    Norm query_norm;
    Norm key_norm;
    Norm value_norm;
    Norm input_out_norm;
    Norm router_norm; /* of experts that stand apart from the MLP, as the next */
    Norm experts_in_norm;
    Norm dense_out_norm;
    Norm experts_out_norm;
    const float *qkv_bias = nullptr;
    const float *output_bias = nullptr;
    const float *gate_up_bias = nullptr;
    const float *down_bias = nullptr;
    const float *sinks = nullptr;
    const float *scale = nullptr; /* one: of hidden states behind it */
    pn_layer traits = {};
    Experts experts;
    Mixer mixer;
    Latent latent;
    LayerCache cache; /* of a layer that reads another's keys, that one's */

    bool reads_others() const { return traits.keys_of >= 0; }
    bool detours() const { return traits.detours != 0; }
    /* Of what the cache holds of a token. */
    int cached_heads() const { return latent.any() ? 1 : traits.kv_heads; }
    int key_size() const { return latent.any() ? latent.key_size() : traits.head_size; }
    int value_size() const { return latent.any() ? latent.shape.rank : traits.head_size; }

    /* Where rows of the first product begin: gates, or a latent key. */
    int gates() const {
        const int kv_heads = reads_others() ? 0 : traits.kv_heads;
        return (traits.heads + 2 * kv_heads) * traits.head_size;
    }
    int latent_key() const {
        const pn_latent &own = latent.shape;
        return own.query_rank > 0 ? own.query_rank : traits.heads * latent.query_size();
    }
    int index_key() const { return latent_key() + latent.key_size(); }
    int head_rows() const {
        if (latent.any())
            return index_key() + latent.index_rows();
        return gates() + (traits.gated_attention ? attended_size() : 0);
    }
    int attended_size() const { return traits.heads * value_size(); }
    int output_columns() const {
        return latent.any() ? traits.heads * latent.shape.value : attended_size();
    }

    /* Heads that one piece of attention computes: some of those that share a head of keys. */
    int together() const {
        int heads = traits.heads / cached_heads();
        while (heads > HEADS_TOGETHER && heads % 2 == 0)
            heads /= 2;
        return heads;
    }

  private:
    static constexpr int HEADS_TOGETHER = 16;
};

/* A rotary table, (positions, size) each. */
struct Rotary {
    const float *cosines = nullptr;
    const float *sines = nullptr;
    int size = 0;
};

struct Model {
    Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus);
    /* With the kernels and the threads of another one; they compute by turns. */
    Model(const pn_shape &shape_, const Model &other);

    pn_shape shape; /* its sliding_windows is null: see the layers */
    int64_t block_strides[2] = {}; /* of the cache, and the window cache, in fp16 elements */
    const Kernels &kernels;
    std::shared_ptr<Team> threads;
    Team &team;
    std::vector<Layer> layers;
    Matrix head;
    Norm final_norm;
    pn_traits traits = {PN_RMS_NORM, 1.0F, 1.0F, 0.0F, 0, PN_SILU, 1.0F, 1.0F, 1.0F};
    int element = 0;
    const void *embeddings = nullptr;
    Rotary rotary[PN_ROTATIONS];
    const float *growth = nullptr; /* by position */
    Matrix layer_inputs;
    Norm layer_inputs_norm;
    int input_element = 0;
    const void *input_embeddings = nullptr;
    int positions = 1 << 30;       /* as many as the shortest table has */
    int64_t state_floats = 0;      /* of one sequence, all layers */
    double phase_s[PN_PHASES] = {};

    /* A step's room; see step.cpp. */
    Buffer<float> hidden;
    Buffer<float> last; /* hidden states of the wanted rows, past the last keys */
    Buffer<float> heads;
    Buffer<float> queries;   /* of latent attention: before, and in, attention, and its results */
    Buffer<float> attending;
    Buffer<float> expanded;
    Buffer<uint64_t> chosen;     /* by token a bit a position: what its index has chosen */
    Buffer<float> index_scores;  /* of some tokens, by position; twice */
    Buffer<float> inputs; /* (tokens, layers, layer_inputs) */
    Buffer<float> projected;
    Buffer<float> attended;
    Buffer<float> mixed; /* rows of a mixer's first product */
    Buffer<float> gates;
    Buffer<float> mixed_out;
    Buffer<float> gated;
    Buffer<float> wide;   /* inputs of wide layers */
    Buffer<float> branch; /* what is added to hidden states after a norm, or beside attention */
    Buffer<float> both;   /* of an MLP and of experts apart from it */
    Buffer<float> embedded; /* of layers that detour: the embeddings, */
    Buffer<float> beside;   /* the hidden states with them behind, */
    Buffer<float> aside;    /* and what a mixer sees */
    Buffer<float> partials;
    Buffer<float> scratch;
    Buffer<int8_t> quantised;
    Buffer<float> scales;
    Buffer<int32_t> corrections;
    Buffer<float> plain; /* rows that adapters take in: what a product's input was quantised from */
    Buffer<float> small; /* results of their first products */
    ExpertRoom experts;

    int input_values() const { return shape.layers * traits.layer_inputs; }
    bool detours() const;

    /* Of the layers that attend: see `Plan`. */
    int most_together() const;
    int64_t most_split_floats() const;

    /* What is still to be set, or null. */
    const char *missing() const;

  private:
    Model(const pn_shape &shape_, const Kernels &kernels_, std::shared_ptr<Team> threads_);
};

/* A line about why a shape, or a layer of it, makes no sense, or null. */
const char *fault_of(const pn_shape &shape);
const char *fault_of(const pn_shape &shape, const pn_layer &layer);
const char *fault_of(const Model &model, int layer, const pn_latent &latent);
const char *fault_of(const pn_traits &traits);

/* Take what was found to make sense. */
void set_traits(Model &model, const pn_traits &traits);
void set_layer(Model &model, int layer, const pn_layer &traits);
void set_mixer(Model &model, int layer, const pn_mixer &shape);
void set_latent(Model &model, int layer, const pn_latent &latent);

/* Where a matrix or vector goes, with its size; null for a `which` or a layer that there is not. */
Matrix *matrix_place(Model &model, int which, int layer, pn_packing *expected);
const float **vector_place(Model &model, int which, int layer, int *size);

} // namespace penstock
