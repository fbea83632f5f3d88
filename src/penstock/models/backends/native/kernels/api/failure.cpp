#include "failure.h"

#include <stddef.h>

namespace penstock {

namespace {

/* Fixed room: telling of a lack of memory must not need any. */
thread_local char last[256] = "";

} // namespace

int32_t fail(int32_t code, const char *message) {
    size_t at = 0;
    for (; message[at] != '\0' && at + 1 < sizeof last; at++)
        last[at] = message[at];
    last[at] = '\0';
    return code;
}

const char *last_failure() { return last; }

} // namespace penstock
