/* What a layer has in place of attention, and where a sequence's state of it lies. */
#pragma once

#include "kernels.h"
#include "penstock_native.h"

namespace penstock {

struct Mixer {
    pn_mixer shape{}; /* kind PN_NO_MIXER: the layer has none */
    Matrix in;
    Matrix out;
    Matrix step_up; /* of PN_KEYED_DELTA, as the next */
    Matrix gate_up;
    const float *in_bias = nullptr;
    const float *out_bias = nullptr;
    const float *convolution = nullptr;
    const float *convolution_bias = nullptr;
    const float *rates = nullptr;
    const float *step_bias = nullptr;
    const float *skip = nullptr;
    const float *norm = nullptr;
    int64_t place = 0; /* of this layer's part in a sequence's state, in floats */

    bool any() const { return shape.kind != PN_NO_MIXER; }
    bool convolves_alone() const { return shape.kind == PN_SHORT_CONVOLUTION; }
    bool keyed() const { return shape.kind == PN_KEYED_DELTA; }
    bool delta() const { return shape.kind == PN_GATED_DELTA || keyed(); }

    int keys() const { return shape.key_heads * shape.key_size; }
    int values() const { return shape.value_heads * shape.value_size; }
    int channels() const { return 2 * keys() + values(); }
    /* Where a token's values begin: of rows of `in` gates, then weights by head where there are any,
     * then steps. Where `in` has but what gates and steps are made of, these stand behind its rows. */
    int gates() const { return keyed() ? rows() : channels(); }
    int weights() const { return keyed() ? channels() : channels() + values(); }
    int steps() const {
        if (keyed())
            return rows() + values();
        return weights() + (delta() ? shape.value_heads : 0);
    }
    int low_steps() const { return channels() + shape.value_heads; }
    int low_gates() const { return low_steps() + shape.step_rank; }
    int rows() const {
        if (convolves_alone())
            return 3 * values();
        return keyed() ? low_gates() + shape.gate_rank : steps() + shape.value_heads;
    }
    /* From a token's values to the next one's. */
    int stride() const { return keyed() ? steps() + keys() : rows(); }

    /* Floats of a state: the convolution's inputs, then each head's (key_size, value_size). */
    int64_t past() const { return int64_t(shape.width - 1) * channels(); }
    int64_t state() const {
        return past() + int64_t(shape.value_heads) * shape.key_size * shape.value_size;
    }

    /* What is still to be set, or null. */
    const char *missing() const;
};

/* A line about why a shape makes no sense, or null. */
const char *fault_of(const pn_mixer &shape);

/* Where a matrix or vector of a mixer goes, with its size; null for a `which` that it lacks. */
Matrix *matrix_place(Mixer &mixer, int which, int hidden, pn_packing *expected);
const float **vector_place(Mixer &mixer, int which, int hidden, int *size);

} // namespace penstock
