/* One forward step. */
#pragma once

#include "model.h"

namespace penstock {

/* A line about why a step cannot be computed, or null. */
const char *fault_of(const Model &model, const pn_step_input &input, int blocks);

/* Compute it; throws std::bad_alloc before anything was written. */
void compute(Model &model, const pn_step_input &input, uint16_t *cache, float *logits,
             float *hidden);

} // namespace penstock
