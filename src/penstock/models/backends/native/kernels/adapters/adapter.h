/* A LoRA adapter: low-rank products that some sequences of a step add to the model's own. */
#pragma once

#include <stddef.h>
#include <vector>

#include "penstock_native.h"

namespace penstock {

struct Model;

/* One pair of small matrices: their product is added to some rows of a matrix's outputs. */
struct LowRank {
    pn_low_rank of = {};
    int first_small = 0; /* its place among the small results of all pairs of its matrix */
};

struct Adapter {
    explicit Adapter(int layers_) : layers(layers_), pairs(size_t(layers_) * PN_MATRICES) {}

    const std::vector<LowRank> &at(int which, int layer) const {
        return pairs[size_t(layer) * PN_MATRICES + size_t(which)];
    }

    int layers;
    std::vector<std::vector<LowRank>> pairs; /* by layer and matrix; the head's are layer 0's */
    int64_t small = 0;                       /* most results of one matrix's small products */
    int rank = 0;                            /* the highest */
    int most_pairs = 0;                      /* of one matrix */
};

/* Neighbouring rows of a product whose sequences use one adapter. */
struct AdapterRun {
    const Adapter *adapter;
    int first; /* row */
    int rows;
    int token; /* of the first row; the others' follow it */
};

/* Which rows of a step use which adapter: of all tokens, or of those whose logits are wanted. */
struct AdapterRows {
    std::vector<AdapterRun> runs;
    std::vector<char> uses; /* by row */
};

/* The adapters of one step. */
struct StepAdapters {
    explicit StepAdapters(const pn_step_input &input);

    bool any() const { return !tokens.runs.empty(); }

    AdapterRows tokens;
    AdapterRows wanted;
    int64_t small = 0;
    int rank = 0;
    int most_pairs = 0;
};

/* Why a step's adapters cannot be used with this model, or null. */
const char *fault_of_adapters(const Model &model, const pn_step_input &input);

} // namespace penstock

struct pn_adapter {
    penstock::Adapter adapter;
};
