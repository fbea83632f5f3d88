#include "mixer.h"

#include <initializer_list>
#include <math.h>

namespace penstock {

const char *Mixer::missing() const {
    if (in.packed == nullptr || out.packed == nullptr)
        return "a layer lacks a matrix of its mixer";
    if (convolution == nullptr)
        return "a layer lacks its convolution";
    if (keyed() && (step_up.packed == nullptr || gate_up.packed == nullptr))
        return "a layer lacks what its mixer's steps and gates are made by";
    if (convolves_alone())
        return nullptr;
    if (rates == nullptr || step_bias == nullptr || (!delta() && skip == nullptr))
        return "a layer lacks a vector of its state";
    if (shape.order != PN_GATE_ALONE && norm == nullptr)
        return "a layer lacks its mixer's norm";
    return nullptr;
}

const char *fault_of(const pn_mixer &shape) {
    constexpr int64_t most = 1 << 24;
    if (shape.kind < PN_NO_MIXER || shape.kind > PN_KEYED_DELTA)
        return "there is no such mixer";
    if (shape.kind == PN_NO_MIXER)
        return nullptr;
    const bool alone = shape.kind == PN_SHORT_CONVOLUTION;
    for (const int32_t size :
         {shape.key_heads, shape.value_heads, shape.key_size, shape.value_size})
        if (size < 0 || size > most)
            return "a mixer's size is out of range";
    if (shape.value_heads < 1 || shape.value_size < 1 || shape.value_size % 16 != 0 ||
        shape.key_size % 16 != 0)
        return "a mixer's sizes are multiples of 16";
    if (alone ? shape.key_heads != 0 || shape.key_size != 0
              : shape.key_heads < 1 || shape.key_size < 1 ||
                    shape.value_heads % shape.key_heads != 0)
        return "key_heads of a mixer divides value_heads; a convolution has none";
    if (2 * int64_t(shape.key_heads) * shape.key_size +
            2 * int64_t(shape.value_heads) * (shape.value_size + 1) > most ||
        int64_t(shape.value_heads) * shape.key_size * shape.value_size > most * 16)
        return "a mixer's heads are out of range together";
    const bool keyed = shape.kind == PN_KEYED_DELTA;
    if (keyed && shape.key_heads != shape.value_heads)
        return "a mixer with steps by element has as many heads of keys as of values";
    for (const int32_t rank : {shape.step_rank, shape.gate_rank})
        if (keyed ? rank < 1 || rank > most : rank != 0)
            return "a mixer's rank is out of range";
    if (shape.width < 2 || shape.width > MAX_CONVOLUTION)
        return "a convolution sees 2 to 8 tokens";
    if ((shape.silu != 0 && shape.silu != 1) || shape.order < PN_GATE_ALONE ||
        shape.order > PN_NORM_THEN_SWITCH)
        return "a mixer's switch is out of range";
    if (!alone && shape.order != PN_GATE_ALONE &&
        (shape.norm_size < 16 || shape.norm_size % 16 != 0 ||
         int64_t(shape.value_heads) * shape.value_size % shape.norm_size != 0 ||
         !(shape.norm_epsilon >= 0.0F)))
        return "a mixer's norm is out of range";
    if (!isfinite(shape.step_scale) || !isfinite(shape.gate_scale) || !isfinite(shape.scale))
        return "a mixer's scale is no number";
    if (!(shape.least_step >= 0.0F) || !(shape.most_step >= shape.least_step))
        return "bounds of a state space's steps are out of range";
    return nullptr;
}

Matrix *matrix_place(Mixer &mixer, int which, int hidden, pn_packing *expected) {
    if (!mixer.any())
        return nullptr;
    if (which == PN_MIXER_IN) {
        *expected = {0, PN_STACKED, mixer.rows(), hidden, 0};
        return &mixer.in;
    }
    if (which == PN_MIXER_OUT) {
        *expected = {0, PN_STACKED, hidden, mixer.values(), 0};
        return &mixer.out;
    }
    if (which == PN_STEP_UP && mixer.keyed()) {
        *expected = {0, PN_STACKED, mixer.keys(), mixer.shape.step_rank, 0};
        return &mixer.step_up;
    }
    if (which == PN_MIXER_GATE_UP && mixer.keyed()) {
        *expected = {0, PN_STACKED, mixer.values(), mixer.shape.gate_rank, 0};
        return &mixer.gate_up;
    }
    return nullptr;
}

const float **vector_place(Mixer &mixer, int which, int hidden, int *size) {
    if (!mixer.any())
        return nullptr;
    *size = mixer.shape.value_heads;
    switch (which) {
    case PN_CONVOLUTION:
        *size = mixer.shape.width * mixer.channels();
        return &mixer.convolution;
    case PN_CONVOLUTION_BIAS:
        *size = mixer.channels();
        return &mixer.convolution_bias;
    case PN_DECAY_RATES:
        return &mixer.rates;
    case PN_STEP_BIAS:
        *size = mixer.keyed() ? mixer.keys() : mixer.shape.value_heads;
        return &mixer.step_bias;
    case PN_SKIP:
        return &mixer.skip;
    case PN_MIXER_NORM:
        *size = mixer.values();
        return &mixer.norm;
    case PN_MIXER_IN_BIAS:
        *size = mixer.rows();
        return &mixer.in_bias;
    case PN_MIXER_OUT_BIAS:
        *size = hidden;
        return &mixer.out_bias;
    default:
        return nullptr;
    }
}

} // namespace penstock
