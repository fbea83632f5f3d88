#pragma once

#include "kernels.h"

namespace penstock {

/* The best PN_ISA_... that this CPU and its system have; 0: none. */
int best_isa();

/* Whether this CPU has a certain one. */
bool has_isa(int isa);

const Kernels &kernels_of(int isa);

} // namespace penstock
