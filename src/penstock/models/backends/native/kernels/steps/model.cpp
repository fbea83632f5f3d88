#include "model.h"

#include <math.h>

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
    return traits;
}

const char *missing_of(const Layer &layer) {
    const bool attends = layer.traits.attends != 0;
    if (attends && (layer.qkv.packed == nullptr || layer.output.packed == nullptr))
        return "a layer lacks a matrix";
    if (const char *fault = layer.mixer.any() ? layer.mixer.missing() : nullptr)
        return fault;
    if (attends && layer.mixer.any() &&
        (layer.qkv.kind != layer.mixer.in.kind || layer.qkv.group != layer.mixer.in.group ||
         layer.qkv.order != layer.mixer.in.order))
        return "a mixer is packed otherwise than the attention beside it";
    if (layer.traits.intermediate > 0 &&
        (layer.gate_up.packed == nullptr || layer.down.packed == nullptr))
        return "a layer lacks a matrix of its MLP";
    if (const char *fault = layer.experts.any() ? layer.experts.missing() : nullptr)
        return fault;
    const Matrix &routed = layer.experts.gate_up;
    if (layer.experts.any() && layer.traits.intermediate > 0 &&
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
    const bool normed = attends && layer.traits.head_norms != PN_NO_NORM;
    if (normed && (layer.query_norm.weight == nullptr || layer.key_norm.weight == nullptr))
        return "a layer lacks its norms of queries and keys";
    return nullptr;
}

} // namespace

Model::Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus)
    : shape(shape_), cache(shape_), kernels(kernels_of(isa)), team(threads, cpus),
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
    for (Layer &layer : model.layers)
        for (Norm *norm : {&layer.input_norm, &layer.attention_norm, &layer.attention_out_norm,
                           &layer.mlp_out_norm}) {
            norm->kind = traits.norm;
            norm->epsilon = model.shape.norm_epsilon;
        }
}

void set_layer(Model &model, int layer, const pn_layer &traits) {
    Layer &place = model.layers[size_t(layer)];
    place.traits = traits;
    for (Norm *norm : {&place.query_norm, &place.key_norm}) {
        norm->kind = traits.head_norms;
        norm->epsilon = model.shape.norm_epsilon;
    }
    int cached = 0;
    for (Layer &each : model.layers)
        each.cached = each.traits.attends ? cached++ : -1;
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
    const int most = shape.cached_layers == 0 ? shape.layers : shape.cached_layers;
    for (const Layer &layer : layers) {
        if (const char *fault = missing_of(layer))
            return fault;
        if (layer.cached >= most)
            return "more layers attend than the cache holds";
        const int rotation = layer.traits.rotation;
        if (!layer.traits.attends)
            continue;
        if (rotation != PN_NOT_TURNED && rotary[rotation].cosines == nullptr)
            return "the rotary tables are not set";
        if (layer.traits.grows && growth == nullptr)
            return "the growth of queries is not set";
    }
    if (head.packed == nullptr)
        return "the head is not set";
    if (final_norm.weight == nullptr)
        return "the final norm is not set";
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
                                layer.gated_attention})
        if (!is_switch(value))
            return "a layer's switch is neither 0 nor 1";
    if (layer.norms_together && !layer.norms_by_head)
        return "norms over all heads have weights by head";
    if (layer.parallel && (layer.norms & (PN_AFTER_ATTENTION | PN_AFTER_MLP)) != 0)
        return "a parallel layer has no norms after";
    if (layer.parallel && (layer.norms & PN_BEFORE_ATTENTION) == 0)
        return "a parallel layer has a norm before attention";
    if (layer.parallel && !layer.attends)
        return "a parallel layer attends";
    if (layer.gated_attention && shape.heads * shape.head_size % 16 != 0)
        return "gated attention is of a multiple of 16";
    if (!isfinite(layer.attention_scale) || !isfinite(layer.gate_scale) ||
        !isfinite(layer.mlp_scale))
        return "a layer's scale is no number";
    if (!(layer.scale > 0.0F) || !(layer.soft_cap >= 0.0F) || !(layer.residual_scale > 0.0F))
        return "a layer's scale or cap is out of range";
    return int64_t(shape.heads) * shape.head_size > most ? "the heads are out of range" : nullptr;
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
    if (shape.cached_layers < 0 || shape.cached_layers > shape.layers)
        return "cached_layers are at most the layers";
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
    if (layer < 0 || layer >= shape.layers)
        return nullptr;
    Layer &place = model.layers[size_t(layer)];
    switch (which) {
    case PN_QKV:
        expected->rows = model.head_rows(place);
        return &place.qkv;
    case PN_OUTPUT:
        expected->rows = shape.hidden;
        expected->columns = model.attended_size();
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
    if (layer < 0 || layer >= shape.layers)
        return nullptr;
    Layer &place = model.layers[size_t(layer)];
    const bool by_head = place.traits.norms_by_head != 0;
    switch (which) {
    case PN_INPUT_NORM:
        return &place.input_norm.weight;
    case PN_INPUT_NORM_BIAS:
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
        *size = (by_head ? shape.heads : 1) * shape.head_size;
        return &place.query_norm.weight;
    case PN_KEY_NORM:
        *size = (by_head ? shape.kv_heads : 1) * shape.head_size;
        return &place.key_norm.weight;
    case PN_QKV_BIAS:
        *size = model.head_rows(place);
        return &place.qkv_bias;
    case PN_SINKS:
        *size = shape.heads;
        return &place.sinks;
    default:
        if (which >= PN_CONVOLUTION)
            return vector_place(place.mixer, which, shape.hidden, size);
        return vector_place(place.experts, which, shape.hidden, size);
    }
}

} // namespace penstock
