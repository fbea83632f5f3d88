/* The C interface of attention over torch's cache: checks, and turns exceptions into codes. */
#include <limits.h>
#include <new>

#include "attention_steps.h"
#include "cpu.h"
#include "failure.h"
#include "penstock_native.h"
#include "step.h"

struct pn_attention {
    penstock::AttentionSteps steps;
};

using penstock::fail;

PENSTOCK_EXPORT int32_t pn_attention_create(int32_t isa, pn_parallel parallel,
                                            pn_attention **attention) {
    if (attention == nullptr)
        return fail(PN_BAD_ARGUMENT, "no place for the attention");
    if (isa == PN_ISA_BEST)
        isa = penstock::best_isa();
    if (!penstock::has_isa(isa))
        return fail(PN_UNSUPPORTED, "this CPU lacks the instruction set; AVX2 is the least");
    try {
        *attention = new pn_attention{{isa, parallel}};
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for the attention");
    }
}

PENSTOCK_EXPORT void pn_attention_destroy(pn_attention *attention) { delete attention; }

PENSTOCK_EXPORT int32_t pn_attention_begin(pn_attention *attention, const pn_step_input *step,
                                           int32_t block_size) {
    if (attention == nullptr || step == nullptr)
        return fail(PN_BAD_ARGUMENT, "no attention, or no step");
    if (block_size < 16 || block_size % 16)
        return fail(PN_BAD_ARGUMENT, "blocks are whole sixteens of tokens");
    if (const char *fault = penstock::fault_of_sequences(*step, block_size, INT_MAX, INT_MAX))
        return fail(PN_BAD_ARGUMENT, fault);
    try {
        attention->steps.begin(*step, block_size);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for a step of this size");
    }
}

PENSTOCK_EXPORT int32_t pn_attention_rotate(pn_attention *attention, const pn_torch_cache *cache,
                                            const pn_rotation *rotation, void *qkv,
                                            int32_t threads) {
    if (attention == nullptr || cache == nullptr || rotation == nullptr || qkv == nullptr)
        return fail(PN_BAD_ARGUMENT, "no attention, cache, rotation or heads");
    if (const char *fault = attention->steps.fault_of(*cache))
        return fail(PN_BAD_ARGUMENT, fault);
    if (rotation->cosines == nullptr || rotation->sines == nullptr ||
        rotation->positions < attention->steps.longest())
        return fail(PN_BAD_ARGUMENT, "a position is past the rotary tables");
    attention->steps.rotate(*cache, *rotation, qkv, threads);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_attention_attend(pn_attention *attention, const pn_torch_cache *cache,
                                            const void *queries, int64_t token_stride,
                                            int64_t head_stride, void *out, int32_t threads) {
    if (attention == nullptr || cache == nullptr || queries == nullptr || out == nullptr)
        return fail(PN_BAD_ARGUMENT, "no attention, cache, queries or place for the results");
    if (const char *fault = attention->steps.fault_of(*cache))
        return fail(PN_BAD_ARGUMENT, fault);
    if (threads < 1 || threads > 1024)
        return fail(PN_BAD_ARGUMENT, "threads are 1 to 1024");
    try {
        attention->steps.attend(*cache, queries, token_stride, head_stride, out, threads);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for a step of this size");
    }
}
