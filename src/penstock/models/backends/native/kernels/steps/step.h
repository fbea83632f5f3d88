/* One forward step. */
#pragma once

#include "model.h"

namespace penstock {

/* The cache, and the window cache of layers that slide, by `LayerCache::pool`. */
struct Caches {
    uint16_t *pools[2];
};

/* A line about why a step cannot be computed, or null. */
const char *fault_of(const Model &model, const pn_step_input &input, int blocks,
                     int window_blocks, int places);

/* The same of its sequences alone, in a cache of `blocks` blocks. */
const char *fault_of_sequences(const pn_step_input &input, int block_size, int64_t blocks,
                               int64_t positions);

/* Compute it; throws std::bad_alloc before anything was written. */
void compute(Model &model, const pn_step_input &input, const Caches &caches, float *states,
             float *logits, float *hidden);

} // namespace penstock
