/* A LoRA adapter: low-rank products that some sequences of a step add to the model's own. */
#pragma once

#include <stddef.h>
#include <vector>

#include "arena.h"
#include "kernels.h"
#include "penstock_native.h"

namespace penstock {

struct Model;

struct Adapter {
    explicit Adapter(int layers_) : layers(layers_), pairs(size_t(layers_) * PN_MATRICES) {}

    const std::vector<LowRank> &at(int which, int layer) const {
        return pairs[size_t(layer) * PN_MATRICES + size_t(which)];
    }

    /* Whether a pair of it changes some of these outputs of a matrix. */
    bool changes(int which, int layer, const pn_packing &matrix, int first, int outputs) const;

    /* Copy a pair of a matrix; pairs of one matrix with the same `down` share it. Throws
     * std::bad_alloc. */
    void append(int which, int layer, const pn_packing &matrix, const pn_low_rank &pair);

    int layers;
    std::vector<std::vector<LowRank>> pairs; /* by layer and matrix; the head's are layer 0's */
    int small = 0;                           /* most results of one matrix's small products */
    int rank = 0;                            /* the highest */
    int most_pairs = 0;                      /* of one matrix */

  private:
    Arena memory_;
};

/* Rows of a product whose sequences use one adapter, MOST_RUN at most. */
struct AdapterRun {
    const Adapter *adapter;
    int first; /* in `AdapterRows` */
    int count;
};

/* Which rows of a step use which adapter: of all tokens, or of those whose logits are wanted. */
struct AdapterRows {
    std::vector<AdapterRun> runs;
    std::vector<int32_t> rows; /* rising within a run */
    std::vector<int32_t> tokens;
};

/* The adapters of one step. */
struct StepAdapters {
    explicit StepAdapters(const pn_step_input &input);

    bool any() const { return !tokens.runs.empty(); }

    AdapterRows tokens;
    AdapterRows wanted;
    std::vector<AddedRun> runs; /* room for those of the product at hand */
    std::vector<Span> coming;   /* by run and pair: what the next product's small results read */
    int small = 0;
    int rank = 0;
    int most_pairs = 0;
};

/* Why a step's adapters cannot be used with this model, or null. */
const char *fault_of_adapters(const Model &model, const pn_step_input &input);

} // namespace penstock

struct pn_adapter {
    penstock::Adapter adapter;
};
