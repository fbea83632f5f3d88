#include "model.h"

#include "cpu.h"

namespace penstock {

Model::Model(const pn_shape &shape_, int isa, int threads, const std::vector<int> &cpus)
    : shape(shape_), cache(shape_), kernels(kernels_of(isa)), team(threads, cpus),
      layers(size_t(shape_.layers)) {
    for (Layer &layer : layers)
        layer.intermediate = shape_.intermediate;
    if (shape_.sliding_windows != nullptr)
        for (int layer = 0; layer < shape.layers; layer++)
            layers[size_t(layer)].window = shape_.sliding_windows[layer];
    shape.sliding_windows = nullptr;
}

const char *Model::missing() const {
    for (const Layer &layer : layers) {
        if (layer.qkv.packed == nullptr || layer.output.packed == nullptr)
            return "a layer lacks a matrix";
        if (layer.intermediate > 0 &&
            (layer.gate_up.packed == nullptr || layer.down.packed == nullptr))
            return "a layer lacks a matrix of its MLP";
        if (const char *fault = layer.experts.any() ? layer.experts.missing() : nullptr)
            return fault;
        if (layer.input_norm == nullptr || layer.attention_norm == nullptr)
            return "a layer lacks a norm";
        if (shape.qk_norm && (layer.query_norm == nullptr || layer.key_norm == nullptr))
            return "a layer lacks its norms of queries and keys";
    }
    if (head.packed == nullptr)
        return "the head is not set";
    if (final_norm == nullptr)
        return "the final norm is not set";
    if (embeddings == nullptr)
        return "the embeddings are not set";
    return cosines == nullptr ? "the rotary tables are not set" : nullptr;
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
        expected->rows = model.head_rows();
        return &place.qkv;
    case PN_OUTPUT:
        expected->rows = shape.hidden;
        expected->columns = model.attended_size();
        return &place.output;
    case PN_GATE_UP:
        expected->layout = PN_PAIRED;
        expected->rows = 2 * place.intermediate;
        return &place.gate_up;
    case PN_DOWN:
        expected->rows = shape.hidden;
        expected->columns = place.intermediate;
        return &place.down;
    default:
        return matrix_place(place.experts, which, shape.hidden, expected);
    }
}

const float **vector_place(Model &model, int which, int layer, int *size) {
    const pn_shape &shape = model.shape;
    *size = shape.hidden;
    if (which == PN_FINAL_NORM)
        return &model.final_norm;
    if (layer < 0 || layer >= shape.layers)
        return nullptr;
    Layer &place = model.layers[size_t(layer)];
    switch (which) {
    case PN_INPUT_NORM:
        return &place.input_norm;
    case PN_ATTENTION_NORM:
        return &place.attention_norm;
    case PN_OUTPUT_BIAS:
        return &place.output_bias;
    case PN_DOWN_BIAS:
        return &place.down_bias;
    case PN_GATE_UP_BIAS:
        *size = 2 * place.intermediate;
        return &place.gate_up_bias;
    case PN_QUERY_NORM:
        *size = shape.head_size;
        return &place.query_norm;
    case PN_KEY_NORM:
        *size = shape.head_size;
        return &place.key_norm;
    case PN_QKV_BIAS:
        *size = model.head_rows();
        return &place.qkv_bias;
    default:
        return vector_place(place.experts, which, shape.hidden, size);
    }
}

} // namespace penstock
