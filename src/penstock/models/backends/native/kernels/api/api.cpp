/* The C interface: checks, and turns exceptions into codes. */
#include <chrono>
#include <new>
#include <string>
#include <system_error>

#include "api_model.h"
#include "cpu.h"
#include "failure.h"
#include "packing.h"
#include "penstock_native.h"
#include "products.h"
#include "step.h"

namespace {

using penstock::fail;
using penstock::fault_of;

bool aligned(const void *pointer) { return reinterpret_cast<uintptr_t>(pointer) % 64 == 0; }

} // namespace

PENSTOCK_EXPORT int32_t pn_abi(void) { return PN_ABI; }

PENSTOCK_EXPORT int32_t pn_packed_version(void) { return penstock::PACKED_VERSION; }

PENSTOCK_EXPORT int32_t pn_best_isa(void) { return penstock::best_isa(); }

PENSTOCK_EXPORT const char *pn_last_error(void) { return penstock::last_failure(); }

PENSTOCK_EXPORT int64_t pn_packed_bytes(const pn_packing *packing) {
    if (packing == nullptr)
        return -fail(PN_BAD_ARGUMENT, "no packing");
    if (const char *fault = fault_of(*packing))
        return -fail(PN_BAD_ARGUMENT, fault);
    const penstock::Matrix matrix = penstock::matrix_of(*packing);
    return penstock::packed_bytes(matrix);
}

PENSTOCK_EXPORT int32_t pn_pack(const pn_packing *packing, const pn_part *parts,
                                int32_t part_count, void *packed) {
    if (pn_packed_bytes(packing) < 0)
        return PN_BAD_ARGUMENT;
    if (parts == nullptr || !aligned(packed) || packed == nullptr)
        return fail(PN_BAD_ARGUMENT, "no parts, or packed bytes that begin at no multiple of 64");
    int64_t rows = 0;
    for (int32_t part = 0; part < part_count; part++) {
        const bool scaled = parts[part].scales != nullptr || penstock::is_plain(packing->kind);
        if (parts[part].rows < 1 || parts[part].values == nullptr || !scaled)
            return fail(PN_BAD_ARGUMENT, "a part has no rows, values or scales");
        rows += parts[part].rows;
    }
    if (rows != packing->rows)
        return fail(PN_BAD_ARGUMENT, "the parts' rows do not add up to the packing's");
    if (packing->layout == PN_PAIRED && (part_count != 2 || parts[0].rows != parts[1].rows))
        return fail(PN_BAD_ARGUMENT, "a paired matrix has two parts of equal rows");
    penstock::pack(*packing, parts, part_count, static_cast<uint8_t *>(packed));
    return PN_OK;
}

PENSTOCK_EXPORT int64_t pn_cache_block_bytes(const pn_model *model, int32_t slides) {
    if (model == nullptr)
        return -fail(PN_BAD_ARGUMENT, "no model");
    return model->model.block_strides[slides != 0] * int64_t(sizeof(uint16_t));
}

PENSTOCK_EXPORT int32_t pn_create(const pn_shape *shape, int32_t isa, int32_t threads,
                                  const int32_t *cpus, pn_model **model) {
    if (shape == nullptr || model == nullptr)
        return fail(PN_BAD_ARGUMENT, "no shape, or no place for the model");
    if (const char *fault = fault_of(*shape))
        return fail(PN_BAD_ARGUMENT, fault);
    if (threads < 1 || threads > 1024)
        return fail(PN_BAD_ARGUMENT, "threads are 1 to 1024");
    if (isa == PN_ISA_BEST)
        isa = penstock::best_isa();
    if (!penstock::has_isa(isa))
        return fail(PN_UNSUPPORTED, "this CPU lacks the instruction set; AVX2 is the least");
    try {
        std::vector<int> bound;
        if (cpus != nullptr)
            bound.assign(cpus, cpus + threads);
        for (const int cpu : bound)
            if (cpu < 0 || cpu >= 1024)
                return fail(PN_BAD_ARGUMENT, "a CPU's number is 0 to 1023");
        *model = new pn_model{{*shape, isa, threads, bound}};
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for the model");
    } catch (const std::system_error &error) {
        return fail(PN_NO_MEMORY, error.what());
    }
}

PENSTOCK_EXPORT int32_t pn_create_beside(const pn_shape *shape, const pn_model *other,
                                         pn_model **model) {
    if (shape == nullptr || other == nullptr || model == nullptr)
        return fail(PN_BAD_ARGUMENT, "no shape, no other model, or no place for the model");
    if (const char *fault = fault_of(*shape))
        return fail(PN_BAD_ARGUMENT, fault);
    try {
        *model = new pn_model{{*shape, other->model}};
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for the model");
    }
}

PENSTOCK_EXPORT void pn_destroy(pn_model *model) { delete model; }

PENSTOCK_EXPORT int32_t pn_set_traits(pn_model *model, const pn_traits *traits) {
    if (model == nullptr || traits == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no traits");
    if (const char *fault = fault_of(*traits))
        return fail(PN_BAD_ARGUMENT, fault);
    penstock::set_traits(model->model, *traits);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_layer(pn_model *model, int32_t layer, const pn_layer *traits) {
    if (model == nullptr || traits == nullptr || layer < 0 || layer >= model->model.shape.layers)
        return fail(PN_BAD_ARGUMENT, "no model, no traits, or there is no such layer");
    if (const char *fault = fault_of(model->model.shape, *traits))
        return fail(PN_BAD_ARGUMENT, fault);
    penstock::set_layer(model->model, layer, *traits);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_mixer(pn_model *model, int32_t layer, const pn_mixer *mixer) {
    if (model == nullptr || mixer == nullptr || layer < 0 || layer >= model->model.shape.layers)
        return fail(PN_BAD_ARGUMENT, "no model, no mixer, or there is no such layer");
    if (const char *fault = fault_of(*mixer))
        return fail(PN_BAD_ARGUMENT, fault);
    penstock::set_mixer(model->model, layer, *mixer);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_latent(pn_model *model, int32_t layer, const pn_latent *latent) {
    if (model == nullptr || latent == nullptr || layer < 0 || layer >= model->model.shape.layers)
        return fail(PN_BAD_ARGUMENT, "no model, nothing latent, or there is no such layer");
    if (const char *fault = fault_of(model->model, layer, *latent))
        return fail(PN_BAD_ARGUMENT, fault);
    penstock::set_latent(model->model, layer, *latent);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_latent_matrices(pn_model *model, int32_t layer, int32_t element,
                                               const void *keys, const void *values) {
    if (model == nullptr || layer < 0 || layer >= model->model.shape.layers ||
        !model->model.layers[size_t(layer)].latent.any())
        return fail(PN_BAD_ARGUMENT, "no model, or there is no such layer with latent attention");
    if (keys == nullptr || values == nullptr || element < PN_F32 || element > PN_BF16)
        return fail(PN_BAD_ARGUMENT, "latent matrices are of PN_F32, PN_F16 or PN_BF16");
    penstock::Latent &own = model->model.layers[size_t(layer)].latent;
    own.element = element;
    own.keys = keys;
    own.values = values;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_input_embeddings(pn_model *model, int32_t element,
                                                const void *table) {
    if (model == nullptr || table == nullptr || element < PN_F32 || element > PN_BF16)
        return fail(PN_BAD_ARGUMENT, "no model, or no table of PN_F32, PN_F16 or PN_BF16");
    model->model.input_element = element;
    model->model.input_embeddings = table;
    return PN_OK;
}

PENSTOCK_EXPORT int64_t pn_state_bytes(const pn_model *model) {
    if (model == nullptr)
        return -fail(PN_BAD_ARGUMENT, "no model");
    return model->model.state_floats * int64_t(sizeof(float));
}

PENSTOCK_EXPORT int32_t pn_set_matrix(pn_model *model, int32_t which, int32_t layer,
                                      const pn_packing *packing, const void *packed) {
    if (model == nullptr || pn_packed_bytes(packing) < 0)
        return model == nullptr ? fail(PN_BAD_ARGUMENT, "no model") : PN_BAD_ARGUMENT;
    pn_packing expected;
    penstock::Matrix *place = penstock::matrix_place(model->model, which, layer, &expected);
    if (place == nullptr)
        return fail(PN_BAD_ARGUMENT, "there is no such matrix or layer");
    if (packing->rows != expected.rows || packing->columns != expected.columns ||
        packing->layout != expected.layout)
        return fail(PN_BAD_ARGUMENT, "the packing's rows, columns or layout are not the shape's");
    if (packed == nullptr || !aligned(packed))
        return fail(PN_BAD_ARGUMENT, "packed bytes begin at a multiple of 64");
    *place = penstock::matrix_of(*packing);
    place->packed = static_cast<const uint8_t *>(packed);
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_order(pn_model *model, int32_t which, int32_t layer,
                                     const int32_t *order, int32_t columns) {
    if (model == nullptr || order == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no order");
    pn_packing expected;
    penstock::Matrix *place = penstock::matrix_place(model->model, which, layer, &expected);
    if (place == nullptr || which == PN_EXPERTS_GATE_UP || which == PN_EXPERTS_DOWN)
        return fail(PN_BAD_ARGUMENT, "there is no such matrix or layer that may have an order");
    if (place->packed == nullptr || columns != place->columns || columns % place->group != 0)
        return fail(PN_BAD_ARGUMENT, "an order is of all columns of a matrix that is set");
    std::vector<bool> seen(static_cast<size_t>(columns), false);
    for (int32_t at = 0; at < columns; at++) {
        if (order[at] < 0 || order[at] >= columns || seen[size_t(order[at])])
            return fail(PN_BAD_ARGUMENT, "an order has each column once");
        seen[size_t(order[at])] = true;
    }
    place->order = order;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_vector(pn_model *model, int32_t which, int32_t layer,
                                      const float *values, int32_t size) {
    if (model == nullptr || values == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no values");
    int expected = 0;
    const float **place = penstock::vector_place(model->model, which, layer, &expected);
    if (place == nullptr)
        return fail(PN_BAD_ARGUMENT, "there is no such vector or layer");
    if (size != expected)
        return fail(PN_BAD_ARGUMENT, "the vector's size is not the shape's");
    *place = values;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_embeddings(pn_model *model, int32_t element, const void *table) {
    if (model == nullptr || table == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no table");
    if (element != PN_F32 && element != PN_F16 && element != PN_BF16)
        return fail(PN_BAD_ARGUMENT, "embeddings are PN_F32, PN_F16 or PN_BF16");
    model->model.element = element;
    model->model.embeddings = table;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_rotary(pn_model *model, int32_t table, const float *cosines,
                                      const float *sines, int32_t positions, int32_t size) {
    if (model == nullptr || cosines == nullptr || sines == nullptr || positions < 1)
        return fail(PN_BAD_ARGUMENT, "no model, or no tables");
    if (table < 0 || table >= PN_ROTATIONS)
        return fail(PN_BAD_ARGUMENT, "there is no such rotary table");
    if (size < 2 || size % 2 != 0 || size > penstock::MAX_HEAD_SIZE)
        return fail(PN_BAD_ARGUMENT, "a rotary table is for an even part of a head");
    penstock::Model &own = model->model;
    own.rotary[table] = {cosines, sines, size};
    own.positions = positions < own.positions ? positions : own.positions;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_growth(pn_model *model, const float *growth, int32_t positions) {
    if (model == nullptr || growth == nullptr || positions < 1)
        return fail(PN_BAD_ARGUMENT, "no model, or no growth");
    penstock::Model &own = model->model;
    own.growth = growth;
    own.positions = positions < own.positions ? positions : own.positions;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_step(pn_model *model, const pn_step_input *step, void *cache,
                                int32_t blocks, void *window_cache, int32_t window_blocks,
                                void *states, int32_t places, float *logits, float *hidden) {
    if (model == nullptr || step == nullptr || cache == nullptr || !aligned(cache))
        return fail(PN_BAD_ARGUMENT, "no model, no step, or no cache at a multiple of 64");
    if (const char *missing = model->model.missing())
        return fail(PN_INCOMPLETE, missing);
    if (model->model.block_strides[1] > 0 && (window_cache == nullptr || !aligned(window_cache)))
        return fail(PN_BAD_ARGUMENT, "no window cache at a multiple of 64");
    if (model->model.state_floats > 0 && (states == nullptr || !aligned(states)))
        return fail(PN_BAD_ARGUMENT, "no states at a multiple of 64");
    if (logits == nullptr && hidden == nullptr && step->rows > 0)
        return fail(PN_BAD_ARGUMENT, "rows are wanted, but there is no place for them");
    try {
        if (const char *fault = fault_of(model->model, *step, blocks, window_blocks, places))
            return fail(PN_BAD_ARGUMENT, fault);
        const penstock::Caches caches{
            {static_cast<uint16_t *>(cache), static_cast<uint16_t *>(window_cache)}};
        penstock::compute(model->model, *step, caches, static_cast<float *>(states), logits,
                          hidden);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for a step of this size");
    }
}

PENSTOCK_EXPORT int32_t pn_project(pn_model *model, const pn_packing *packing, const void *packed,
                                   int32_t rows, const float *inputs, float *out) {
    if (model == nullptr || pn_packed_bytes(packing) < 0)
        return model == nullptr ? fail(PN_BAD_ARGUMENT, "no model") : PN_BAD_ARGUMENT;
    if (packing->layout != PN_STACKED || packed == nullptr || !aligned(packed))
        return fail(PN_BAD_ARGUMENT, "a stacked matrix begins at a multiple of 64");
    if (rows < 0 || (rows > 0 && (inputs == nullptr || out == nullptr)))
        return fail(PN_BAD_ARGUMENT, "rows are fewer than none, or an array is missing");
    penstock::Matrix matrix = penstock::matrix_of(*packing);
    matrix.packed = static_cast<const uint8_t *>(packed);
    try {
        penstock::project(model->model, matrix, rows, inputs, out);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for a product of this size");
    }
}

PENSTOCK_EXPORT int32_t pn_phases(const pn_model *model, double *seconds) {
    if (model == nullptr || seconds == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no place for the seconds");
    for (int phase = 0; phase < PN_PHASES; phase++)
        seconds[phase] = model->model.phase_s[phase];
    return PN_OK;
}

PENSTOCK_EXPORT double pn_peak(int32_t isa) {
    if (!penstock::has_isa(isa))
        return 0;
    const penstock::Kernels &kernels = penstock::kernels_of(isa);
    constexpr int64_t TIMES = 100000;
    volatile int32_t kept = kernels.dots(TIMES); /* the clock rises first */
    double best = 0;
    for (int round = 0; round < 5; round++) {
        const auto began = std::chrono::steady_clock::now();
        kept = kernels.dots(TIMES);
        const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
        const double rate = double(TIMES * penstock::PEAK_PRODUCTS) / took.count();
        best = rate > best ? rate : best;
    }
    static_cast<void>(kept);
    return best;
}
