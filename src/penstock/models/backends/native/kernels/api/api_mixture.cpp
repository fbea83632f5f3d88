/* The C interface of experts alone: checks, and turns exceptions into codes. */
#include <algorithm>
#include <new>

#include "cpu.h"
#include "crew.h"
#include "failure.h"
#include "mixture.h"
#include "packing.h"

struct pn_mixture {
    const penstock::Kernels &kernels;
    pn_parallel parallel;
    int hidden;
    penstock::Experts experts;
    penstock::ExpertRoom room;
    penstock::QuantisedRoom inputs;

    void compute(int rows, const float *from, const int32_t *chosen, const float *weights,
                 float *out, int threads);
};

using penstock::fail;

void pn_mixture::compute(int rows, const float *from, const int32_t *chosen,
                         const float *weights, float *out, int threads) {
    room.need(experts, rows, hidden);
    inputs.need(rows, experts.gate_up);
    const int64_t assignments = int64_t(rows) * experts.shape.chosen;
    std::copy(chosen, chosen + assignments, room.chosen.get());
    std::copy(weights, weights + assignments, room.chosen_weights.get());
    std::fill(out, out + int64_t(rows) * hidden, 0.0F);
    const penstock::Quantised quantised = inputs.of(experts.gate_up);
    penstock::Crew crew(parallel, threads);
    crew.phase(rows, 8, [&](int begin, int end) {
        for (int row = begin; row < end; row++)
            kernels.quantise(from + int64_t(row) * hidden, hidden, quantised, row);
    });
    penstock::Mixture<penstock::Crew> of(crew, kernels, experts, room, quantised, {}, rows,
                                         hidden);
    of.arrange();
    of.gate_up();
    of.quantise({});
    of.down({}, out);
}

PENSTOCK_EXPORT int32_t pn_mixture_create(int32_t isa, pn_parallel parallel, int32_t hidden,
                                          const pn_experts *experts, pn_mixture **mixture) {
    if (mixture == nullptr || experts == nullptr)
        return fail(PN_BAD_ARGUMENT, "no experts, or no place for them");
    if (const char *fault = penstock::fault_of(*experts))
        return fail(PN_BAD_ARGUMENT, fault);
    if (hidden < 1 || hidden > 1 << 24 || int64_t(experts->experts) * hidden > INT32_MAX)
        return fail(PN_BAD_ARGUMENT, "the experts are out of range together");
    if (isa == PN_ISA_BEST)
        isa = penstock::best_isa();
    if (!penstock::has_isa(isa))
        return fail(PN_UNSUPPORTED, "this CPU lacks the instruction set; AVX2 is the least");
    try {
        *mixture = new pn_mixture{penstock::kernels_of(isa), parallel, hidden, {}, {}, {}};
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for the experts");
    }
    (*mixture)->experts.shape = *experts;
    return PN_OK;
}

PENSTOCK_EXPORT void pn_mixture_destroy(pn_mixture *mixture) { delete mixture; }

PENSTOCK_EXPORT int32_t pn_mixture_set_matrix(pn_mixture *mixture, int32_t which,
                                              const pn_packing *packing, const void *packed) {
    if (mixture == nullptr || pn_packed_bytes(packing) < 0)
        return mixture == nullptr ? fail(PN_BAD_ARGUMENT, "no experts") : PN_BAD_ARGUMENT;
    pn_packing expected;
    penstock::Matrix *place =
        penstock::matrix_place(mixture->experts, which, mixture->hidden, &expected);
    if (place == nullptr)
        return fail(PN_BAD_ARGUMENT, "experts have no such matrix");
    if (packing->rows != expected.rows || packing->columns != expected.columns ||
        packing->layout != expected.layout)
        return fail(PN_BAD_ARGUMENT, "the packing's rows, columns or layout are not the shape's");
    if (packed == nullptr || reinterpret_cast<uintptr_t>(packed) % 64 != 0)
        return fail(PN_BAD_ARGUMENT, "packed bytes begin at a multiple of 64");
    *place = penstock::matrix_of(*packing);
    place->packed = static_cast<const uint8_t *>(packed);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_mixture_set_vector(pn_mixture *mixture, int32_t which,
                                              const float *values, int32_t size) {
    if (mixture == nullptr || values == nullptr)
        return fail(PN_BAD_ARGUMENT, "no experts, or no values");
    int expected = 0;
    const float **place =
        penstock::vector_place(mixture->experts, which, mixture->hidden, &expected);
    if (place == nullptr)
        return fail(PN_BAD_ARGUMENT, "experts have no such vector");
    if (size != expected)
        return fail(PN_BAD_ARGUMENT, "the vector's size is not the shape's");
    *place = values;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_mixture_compute(pn_mixture *mixture, int32_t rows,
                                           const float *inputs, const int32_t *chosen,
                                           const float *weights, float *out, int32_t threads) {
    if (mixture == nullptr || inputs == nullptr || chosen == nullptr || weights == nullptr ||
        out == nullptr)
        return fail(PN_BAD_ARGUMENT, "no experts, inputs, choice or place for the results");
    if (rows < 1 || threads < 1 || threads > 1024)
        return fail(PN_BAD_ARGUMENT, "rows are 1 or more, threads 1 to 1024");
    const penstock::Experts &experts = mixture->experts;
    if (experts.gate_up.packed == nullptr || experts.down.packed == nullptr)
        return fail(PN_INCOMPLETE, "the experts lack a matrix");
    for (int64_t at = 0; at < int64_t(rows) * experts.shape.chosen; at++)
        if (chosen[at] < 0 || chosen[at] >= experts.shape.experts)
            return fail(PN_BAD_ARGUMENT, "there is no such expert");
    try {
        mixture->compute(rows, inputs, chosen, weights, out, threads);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for rows in this number");
    }
}
