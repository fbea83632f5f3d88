#include "model.h"

#include <math.h>

#include <utility>

#include "cpu.h"

namespace penstock {

namespace {

/* What a layer is where nobody said anything of it. */
pn_layer llama_layer(const pn_shape &shape, int layer) {
    pn_layer traits = {};
    traits.window = shape.sliding_windows == nullptr ? 0 : shape.sliding_windows[layer];
    traits.intermediate = shape.intermediate;
    traits.gated = 1;
    traits.norms = PN_BEFORE_ATTENTION | PN_BEFORE_MLP;
    traits.head_norms = shape.qk_norm ? PN_RMS_NORM : PN_NO_NORM;
    traits.scale = 1.0F / sqrtf(float(shape.head_size));
    traits.residual_scale = 1.0F;
    traits.attention_scale = 1.0F;
    traits.gate_scale = 1.0F;
    traits.mlp_scale = 1.0F;
    traits.attends = 1;
    traits.keys_of = -1;
    return traits;
}

const char *missing_of(const Latent &latent) {
    if (latent.keys == nullptr || latent.values == nullptr || latent.norm.weight == nullptr)
        return "latent attention lacks a matrix, or its norm";
    if (latent.indexes() && latent.index_norm.weight == nullptr)
        return "an index lacks the norm of its keys";
    if (latent.shape.query_rank > 0 &&
        (latent.query_up.packed == nullptr || latent.query_norm.weight == nullptr))
        return "latent attention lacks what makes its queries";
    return nullptr;
}

const char *missing_of(const Layer &layer) {
    const bool attends = layer.traits.attends != 0;
    if (attends && (layer.qkv.packed == nullptr || layer.output.packed == nullptr))
        return "a layer lacks a matrix";
    if (const char *fault = layer.mixer.any() ? layer.mixer.missing() : nullptr)
        return fault;
    if (const char *fault = layer.latent.any() ? missing_of(layer.latent) : nullptr)
        return fault;
    if (layer.detours() &&
        (layer.detour.packed == nullptr || layer.mixer_norm.weight == nullptr ||
         !layer.mixer.any() || layer.traits.intermediate == 0 || layer.experts.any() ||
         layer.latent.any() || layer.input_norm.weight == nullptr ||
         layer.attention_norm.weight == nullptr))
        return "a layer that detours lacks a matrix or a norm, or has what such a layer has not";
    if (attends && layer.mixer.any() && !layer.detours() &&
        (layer.qkv.kind != layer.mixer.in.kind || layer.qkv.group != layer.mixer.in.group ||
         layer.qkv.order != layer.mixer.in.order))
        return "a mixer is packed otherwise than the attention beside it";
    if (layer.traits.intermediate > 0 &&
        (layer.gate_up.packed == nullptr || layer.down.packed == nullptr))
        return "a layer lacks a matrix of its MLP";
    if (const char *fault = layer.experts.any() ? layer.experts.missing() : nullptr)
        return fault;
    const Matrix &routed = layer.experts.gate_up;
    const bool apart = layer.experts.any() && layer.experts.shape.apart;
    if (apart && (layer.traits.intermediate == 0 || layer.router_norm.weight == nullptr ||
                  layer.experts_in_norm.weight == nullptr ||
                  layer.dense_out_norm.weight == nullptr ||
                  layer.experts_out_norm.weight == nullptr))
        return "experts apart from an MLP lack it, or a norm";
    if (layer.experts.any() && !apart && layer.traits.intermediate > 0 &&
        (layer.gate_up.kind != routed.kind || layer.gate_up.group != routed.group ||
         layer.gate_up.order != routed.order))
        return "what all tokens share is packed otherwise than the experts";
    const struct {
        int where;
        const Norm &norm;
    } norms[] = {{PN_BEFORE_ATTENTION, layer.input_norm},
                 {PN_AFTER_ATTENTION, layer.attention_out_norm},
                 {PN_BEFORE_MLP, layer.attention_norm},
                 {PN_AFTER_MLP, layer.mlp_out_norm}};
    for (const auto &[where, norm] : norms)
        if ((layer.traits.norms & where) != 0 && norm.weight == nullptr)
            return "a layer lacks a norm";
    if (layer.traits.wide && (layer.qkv.order != nullptr || layer.mixer.any()))
        return "a wide layer has no mixer, and its first product no order";
    const bool normed = attends && layer.traits.head_norms != PN_NO_NORM;
    const bool keyed = !layer.reads_others();
    if (normed && (layer.query_norm.weight == nullptr ||
                   (keyed && layer.key_norm.weight == nullptr)))
        return "a layer lacks its norms of queries and keys";
    return nullptr;
}

/* Where each layer's keys and values lie in a block. */
void lay_cache(Model &model) {
    for (int64_t &stride : model.block_strides)
        stride = 0;
    for (Layer &layer : model.layers) {
        if (!layer.traits.attends)
            continue;
        if (layer.reads_others()) {
            layer.cache = model.layers[size_t(layer.traits.keys_of)].cache;
            continue;
        }
        layer.cache.lay(layer.key_size(), layer.value_size(), layer.latent.index_size(),
                        model.shape.block_size, model.shape.small_cache != 0);
        int64_t &stride = model.block_strides[layer.traits.slides];
        layer.cache.pool = layer.traits.slides;
        layer.cache.place = stride;
        stride += layer.cached_heads() * layer.cache.head_stride;
    }
}

/* A line about why a layer cannot read the keys of another, or null. */
const char *fault_of_sharing(const Model &model, const Layer &layer) {
    if (!layer.reads_others())
        return nullptr;
    const Layer &other = model.layers[size_t(layer.traits.keys_of)];
    if (&other >= &layer || !other.traits.attends || other.reads_others() ||
        other.latent.any() || layer.latent.any() ||
        other.traits.kv_heads != layer.traits.kv_heads ||
        other.traits.slides != layer.traits.slides ||
        other.traits.head_size != layer.traits.head_size)
        return "a layer reads keys of a layer that has not such ones before it";
    return nullptr;
}

} // namespace

bool Model::detours() const {
    for (const Layer &layer : layers)
        if (layer.detours())
            return true;
    return false;
}

int Model::most_together() const {
    int most = 1;
    for (const Layer &layer : layers)
        if (layer.traits.attends)
            most = layer.together() > most ? layer.together() : most;
    return most;
}

int64_t Model::most_split_floats() const {
    int64_t most = 0;
    for (const Layer &layer : layers) {
        const int64_t own = int64_t(layer.traits.heads) * (layer.value_size() + 2);
        most = layer.traits.attends && own > most ? own : most;
    }
    return most;
}

Model::Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus)
    : Model(shape_, kernels_of(isa), std::make_shared<Team>(threads, cpus)) {}

Model::Model(const pn_shape &shape_, const Model &other)
    : Model(shape_, other.kernels, other.threads) {}

Model::Model(const pn_shape &shape_, const Kernels &kernels_, std::shared_ptr<Team> threads_)
    : shape(shape_), kernels(kernels_), threads(std::move(threads_)), team(*threads),
      layers(size_t(shape_.layers)) {
    for (int layer = 0; layer < shape.layers; layer++)
        set_layer(*this, layer, llama_layer(shape_, layer));
    shape.sliding_windows = nullptr;
    set_traits(*this, traits);
}

void set_traits(Model &model, const pn_traits &traits) {
    model.traits = traits;
    model.final_norm.kind = traits.norm;
    model.final_norm.epsilon = model.shape.norm_epsilon;
    model.layer_inputs_norm = {nullptr, nullptr, PN_RMS_NORM, model.shape.norm_epsilon};
    for (Layer &layer : model.layers)
        for (Norm *norm : {&layer.input_norm, &layer.mixer_norm, &layer.attention_norm,
                           &layer.attention_out_norm,
                           &layer.mlp_out_norm, &layer.input_out_norm, &layer.router_norm,
                           &layer.experts_in_norm, &layer.dense_out_norm,
                           &layer.experts_out_norm}) {
            norm->kind = traits.norm;
            norm->epsilon = model.shape.norm_epsilon;
        }
}

void set_layer(Model &model, int layer, const pn_layer &traits) {
    Layer &place = model.layers[size_t(layer)];
    place.traits = traits;
    if (traits.heads == 0) {
        place.traits.heads = model.shape.heads;
        place.traits.kv_heads = model.shape.kv_heads;
        place.traits.head_size = model.shape.head_size;
    }
    for (Norm *norm : {&place.query_norm, &place.key_norm}) {
        norm->kind = traits.head_norms;
        norm->epsilon = model.shape.norm_epsilon;
    }
    place.value_norm.kind = PN_RMS_NORM;
    place.value_norm.epsilon = model.shape.norm_epsilon;
    lay_cache(model);
}

void set_latent(Model &model, int layer, const pn_latent &latent) {
    Latent &own = model.layers[size_t(layer)].latent;
    own = {};
    own.shape = latent;
    for (Norm *norm : {&own.query_norm, &own.norm}) {
        norm->kind = PN_RMS_NORM;
        norm->epsilon = latent.epsilon;
    }
    own.index_norm.kind = PN_LAYER_NORM;
    own.index_norm.epsilon = latent.epsilon;
    lay_cache(model);
}

void set_mixer(Model &model, int layer, const pn_mixer &shape) {
    model.layers[size_t(layer)].mixer = {};
    model.layers[size_t(layer)].mixer.shape = shape;
    model.state_floats = 0;
    for (Layer &each : model.layers) {
        each.mixer.place = model.state_floats;
        model.state_floats += each.mixer.any() ? each.mixer.state() : 0;
    }
    model.state_floats = (model.state_floats + 15) / 16 * 16;
}

const char *Model::missing() const {
    bool chosen = false; /* by an index before */
    for (const Layer &layer : layers) {
        chosen = chosen || layer.latent.indexes();
        if (layer.latent.shape.most_keys > 0 && !chosen)
            return "no layer up to one that sees chosen keys has an index";
        if (const char *fault = missing_of(layer))
            return fault;
        if (const char *fault = fault_of_sharing(*this, layer))
            return fault;
        if (traits.layer_inputs > 0 &&
            (layer.input_gate.packed == nullptr || layer.input_up.packed == nullptr ||
             layer.input_out_norm.weight == nullptr))
            return "a layer lacks what its own input goes through";
        const int rotation = layer.traits.rotation;
        if (!layer.traits.attends)
            continue;
        if (rotation != PN_NOT_TURNED && rotary[rotation].cosines == nullptr)
            return "the rotary tables are not set";
        const int turned = rotation == PN_NOT_TURNED ? 0 : rotary[rotation].size;
        if (turned > layer.traits.head_size)
            return "a rotary table is for larger heads";
        if (layer.latent.any() && turned != 0 && turned != layer.latent.shape.turned)
            return "a latent key is turned by a table of another size";
        if (layer.traits.grows && growth == nullptr)
            return "the growth of queries is not set";
    }
    if (head.packed == nullptr)
        return "the head is not set";
    if (final_norm.weight == nullptr)
        return "the final norm is not set";
    if (traits.layer_inputs > 0 && (layer_inputs.packed == nullptr || input_embeddings == nullptr ||
                                    layer_inputs_norm.weight == nullptr))
        return "the layers' own inputs are not set";
    return embeddings == nullptr ? "the embeddings are not set" : nullptr;
}

const char *fault_of(const pn_shape &shape, const pn_layer &layer) {
    constexpr int most = 1 << 24;
    const auto is_switch = [](int32_t value) { return value == 0 || value == 1; };
    if (layer.window < 0)
        return "a sliding window is negative";
    if (layer.rotation < PN_NOT_TURNED || layer.rotation >= PN_ROTATIONS)
        return "there is no such rotary table";
    if (layer.intermediate < 0 || layer.intermediate > most)
        return "a layer's intermediate size is out of range";
    if (layer.activation != PN_SILU &&
        (layer.activation < PN_GELU || layer.activation > PN_RELU_SQUARED))
        return "there is no such activation";
    if (layer.norms < 0 || layer.norms > 15 || layer.head_norms < PN_NO_NORM ||
        layer.head_norms > PN_LAYER_NORM)
        return "there are no such norms";
    for (const int32_t value : {layer.gated, layer.norms_by_head, layer.norms_together,
                                layer.parallel, layer.grows, layer.attends,
                                layer.gated_attention, layer.slides, layer.detours, layer.wide})
        if (!is_switch(value))
            return "a layer's switch is neither 0 nor 1";
    if (layer.slides && layer.window == 0)
        return "a layer that slides has a window";
    if (layer.detours && (!layer.attends || layer.parallel ||
                          (layer.norms & (PN_AFTER_ATTENTION | PN_AFTER_MLP)) != 0))
        return "a layer that detours attends, and has no norms after";
    if (layer.norms_together && !layer.norms_by_head)
        return "norms over all heads have weights by head";
    if (layer.parallel && (layer.norms & (PN_AFTER_ATTENTION | PN_AFTER_MLP)) != 0)
        return "a parallel layer has no norms after";
    if (layer.parallel && (layer.norms & PN_BEFORE_ATTENTION) == 0)
        return "a parallel layer has a norm before attention";
    if (layer.parallel && !layer.attends)
        return "a parallel layer attends";
    if (layer.wide && (layer.parallel || layer.detours || !layer.attends))
        return "a wide layer attends; it is not parallel, and does not detour";
    const int32_t heads = layer.heads == 0 ? shape.heads : layer.heads;
    const int32_t kv_heads = layer.heads == 0 ? shape.kv_heads : layer.kv_heads;
    const int32_t size = layer.heads == 0 ? shape.head_size : layer.head_size;
    if (heads < 1 || kv_heads < 1 || heads > most || heads % kv_heads != 0)
        return "a layer's heads are out of range";
    if (size < 2 || size % 2 != 0 || size > MAX_HEAD_SIZE)
        return "a layer's heads are of an even size, at most 512";
    if (layer.keys_of < -1 || layer.keys_of >= shape.layers)
        return "there is no layer whose keys a layer could read";
    if (layer.gated_attention && int64_t(heads) * size % 16 != 0)
        return "gated attention is of a multiple of 16";
    if (!isfinite(layer.attention_scale) || !isfinite(layer.gate_scale) ||
        !isfinite(layer.mlp_scale))
        return "a layer's scale is no number";
    if (!(layer.scale > 0.0F) || !(layer.soft_cap >= 0.0F) || !(layer.residual_scale > 0.0F))
        return "a layer's scale or cap is out of range";
    return int64_t(heads) * size > most ? "the heads are out of range" : nullptr;
}

const char *fault_of(const Model &model, int layer, const pn_latent &latent) {
    constexpr int most = 1 << 24;
    const int64_t heads = model.layers[size_t(layer)].traits.heads;
    if (latent.rank < 16 || latent.rank % 16 != 0 || latent.rank > MAX_HEAD_SIZE)
        return "a latent key's rank is a multiple of 16, up to 512";
    if (latent.turned < 2 || latent.turned % 2 != 0 || latent.turned > MAX_TURNED)
        return "the turned part of a latent key is even, up to 256";
    if (latent.plain < 1 || latent.value < 1 || latent.query_rank < 0 || latent.query_rank > most ||
        heads * latent.plain > most || heads * latent.value > most)
        return "latent attention's sizes are out of range";
    if (latent.most_keys < 0 || latent.index_heads < 0 || latent.index_heads > most ||
        (latent.most_keys == 0 && latent.index_heads > 0))
        return "an index is of layers in which a token may see but some keys";
    if (latent.index_heads > 0 &&
        (latent.query_rank == 0 || latent.index_size < latent.turned ||
         latent.index_size % 16 != 0 || latent.index_size > MAX_HEAD_SIZE ||
         int64_t(latent.index_heads) * latent.index_size > most))
        return "an index's sizes are out of range";
    return latent.epsilon >= 0.0F ? nullptr : "a latent norm's epsilon is negative";
}

const char *fault_of(const pn_traits &traits) {
    constexpr int most = 1 << 16;
    if (traits.norm != PN_RMS_NORM && traits.norm != PN_LAYER_NORM)
        return "norms are PN_RMS_NORM or PN_LAYER_NORM";
    if (!(traits.embedding_scale > 0.0F) || !(traits.logit_scale > 0.0F) ||
        !(traits.logit_cap >= 0.0F))
        return "a model's scale or cap is out of range";
    if (traits.layer_inputs < 0 || traits.layer_inputs > most || traits.layer_inputs % 16 != 0)
        return "layers' own inputs are a multiple of 16, up to 65536";
    if (!isfinite(traits.input_scale) || !isfinite(traits.projection_scale) ||
        !isfinite(traits.sum_scale))
        return "a scale of the layers' own inputs is no number";
    if (traits.input_activation != PN_SILU &&
        (traits.input_activation < PN_GELU || traits.input_activation > PN_RELU_SQUARED))
        return "there is no such activation";
    return nullptr;
}

const char *fault_of(const pn_shape &shape) {
    constexpr int most = 1 << 24;
    for (const int32_t size : {shape.layers, shape.hidden, shape.intermediate, shape.heads,
                               shape.kv_heads, shape.head_size, shape.vocab})
        if (size < 1 || size > most)
            return "a shape's size is out of range";
    if (shape.heads % shape.kv_heads != 0)
        return "kv_heads does not divide heads";
    if (shape.head_size % 2 != 0 || shape.head_size > MAX_HEAD_SIZE)
        return "head_size is even and at most 512";
    if (int64_t(shape.heads) * shape.head_size > most)
        return "the heads are out of range together";
    if (shape.block_size != 16 && shape.block_size != 32)
        return "block_size is 16 or 32";
    if (!(shape.norm_epsilon >= 0.0F))
        return "norm_epsilon is negative";
    if (shape.small_cache != 0 && shape.small_cache != 1)
        return "small_cache is 0 or 1";
    if (shape.sliding_windows != nullptr)
        for (int layer = 0; layer < shape.layers; layer++)
            if (shape.sliding_windows[layer] < 0)
                return "a sliding window is negative";
    return nullptr;
}

Matrix *matrix_place(Model &model, int which, int layer, pn_packing *expected) {
    const pn_shape &shape = model.shape;
    *expected = {0, PN_STACKED, 0, shape.hidden, 0};
    if (which == PN_HEAD) {
        expected->rows = shape.vocab;
        return &model.head;
    }
    if (which == PN_LAYER_INPUTS) {
        expected->rows = model.input_values();
        return &model.layer_inputs;
    }
    if (layer < 0 || layer >= shape.layers)
        return nullptr;
    Layer &place = model.layers[size_t(layer)];
    switch (which) {
    case PN_QKV:
        expected->rows = place.head_rows();
        expected->columns = (place.detours() || place.traits.wide ? 2 : 1) * shape.hidden;
        return &place.qkv;
    case PN_DETOUR:
        expected->rows = shape.hidden;
        return place.detours() ? &place.detour : nullptr;
    case PN_QUERY_UP:
        expected->rows = int32_t(place.latent.query_rows(place.traits.heads));
        expected->columns = place.latent.shape.query_rank;
        return &place.latent.query_up;
    case PN_INPUT_GATE:
        expected->rows = model.traits.layer_inputs;
        return &place.input_gate;
    case PN_INPUT_UP:
        expected->rows = shape.hidden;
        expected->columns = model.traits.layer_inputs;
        return &place.input_up;
    case PN_OUTPUT:
        expected->rows = shape.hidden;
        expected->columns = place.output_columns();
        return &place.output;
    case PN_GATE_UP:
        expected->layout = place.traits.gated ? PN_PAIRED : PN_STACKED;
        expected->rows = (place.traits.gated ? 2 : 1) * place.traits.intermediate;
        return &place.gate_up;
    case PN_DOWN:
        expected->rows = shape.hidden;
        expected->columns = place.traits.intermediate;
        return &place.down;
    case PN_MIXER_IN:
    case PN_MIXER_OUT:
    case PN_STEP_UP:
    case PN_MIXER_GATE_UP:
        return matrix_place(place.mixer, which, shape.hidden, expected);
    default:
        return matrix_place(place.experts, which, shape.hidden, expected);
    }
}

const float **vector_place(Model &model, int which, int layer, int *size) {
    const pn_shape &shape = model.shape;
    *size = shape.hidden;
    if (which == PN_FINAL_NORM)
        return &model.final_norm.weight;
    if (which == PN_FINAL_NORM_BIAS)
        return &model.final_norm.bias;
    if (which == PN_LAYER_INPUTS_NORM) {
        *size = model.traits.layer_inputs;
        return &model.layer_inputs_norm.weight;
    }
    if (layer < 0 || layer >= shape.layers)
        return nullptr;
    Layer &place = model.layers[size_t(layer)];
    const bool by_head = place.traits.norms_by_head != 0;
    switch (which) {
    case PN_INPUT_NORM:
        *size = (place.detours() ? 2 : 1) * shape.hidden;
        return &place.input_norm.weight;
    case PN_MIXER_INPUT_NORM:
        return place.detours() ? &place.mixer_norm.weight : nullptr;
    case PN_INPUT_NORM_BIAS:
        *size = (place.detours() ? 2 : 1) * shape.hidden;
        return &place.input_norm.bias;
    case PN_ATTENTION_NORM:
        return &place.attention_norm.weight;
    case PN_ATTENTION_NORM_BIAS:
        return &place.attention_norm.bias;
    case PN_ATTENTION_OUT_NORM:
        return &place.attention_out_norm.weight;
    case PN_MLP_OUT_NORM:
        return &place.mlp_out_norm.weight;
    case PN_OUTPUT_BIAS:
        return &place.output_bias;
    case PN_DOWN_BIAS:
        return &place.down_bias;
    case PN_GATE_UP_BIAS:
        *size = (place.traits.gated ? 2 : 1) * place.traits.intermediate;
        return &place.gate_up_bias;
    case PN_QUERY_NORM:
        *size = (by_head ? place.traits.heads : 1) * place.traits.head_size;
        return &place.query_norm.weight;
    case PN_KEY_NORM:
        *size = (by_head ? place.traits.kv_heads : 1) * place.traits.head_size;
        return &place.key_norm.weight;
    case PN_QKV_BIAS:
        *size = place.head_rows();
        return &place.qkv_bias;
    case PN_SINKS:
        *size = place.traits.heads;
        return &place.sinks;
    case PN_VALUE_NORM:
        *size = place.traits.head_size;
        return &place.value_norm.weight;
    case PN_LAYER_SCALE:
        *size = 1;
        return &place.scale;
    case PN_QUERY_RANK_NORM:
        *size = place.latent.shape.query_rank;
        return &place.latent.query_norm.weight;
    case PN_LATENT_NORM:
        *size = place.latent.shape.rank;
        return &place.latent.norm.weight;
    case PN_INDEX_NORM:
        *size = place.latent.index_size();
        return place.latent.indexes() ? &place.latent.index_norm.weight : nullptr;
    case PN_INDEX_NORM_BIAS:
        *size = place.latent.index_size();
        return place.latent.indexes() ? &place.latent.index_norm.bias : nullptr;
    case PN_INPUT_OUT_NORM:
        return &place.input_out_norm.weight;
    case PN_ROUTER_NORM:
        return &place.router_norm.weight;
    case PN_EXPERTS_IN_NORM:
        return &place.experts_in_norm.weight;
    case PN_DENSE_OUT_NORM:
        return &place.dense_out_norm.weight;
    case PN_EXPERTS_OUT_NORM:
        return &place.experts_out_norm.weight;
    case PN_EXPERT_SCALES:
        return vector_place(place.experts, which, shape.hidden, size);
    default:
        if (which >= PN_CONVOLUTION)
            return vector_place(place.mixer, which, shape.hidden, size);
        return vector_place(place.experts, which, shape.hidden, size);
    }
}

} // namespace penstock
