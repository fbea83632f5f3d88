/* How the C interface tells of failures. */
#pragma once

#include <stdint.h>

#define PENSTOCK_EXPORT extern "C" __attribute__((visibility("default")))

namespace penstock {

/* Note a line about what went wrong, for the calling thread; returns `code`. */
int32_t fail(int32_t code, const char *message);

const char *last_failure();

} // namespace penstock
