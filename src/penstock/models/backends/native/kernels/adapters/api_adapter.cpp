/* The C interface of adapters. */
#include <new>

#include "adapter.h"
#include "api_model.h"
#include "failure.h"

using penstock::fail;

PENSTOCK_EXPORT int32_t pn_adapter_create(const pn_model *model, pn_adapter **adapter) {
    if (model == nullptr || adapter == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no place for the adapter");
    try {
        *adapter = new pn_adapter{penstock::Adapter(model->model.shape.layers)};
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for an adapter");
    }
}

PENSTOCK_EXPORT void pn_adapter_destroy(pn_adapter *adapter) { delete adapter; }

PENSTOCK_EXPORT int32_t pn_adapter_add(pn_model *model, pn_adapter *adapter, int32_t which,
                                       int32_t layer, const pn_low_rank *pair) {
    if (model == nullptr || adapter == nullptr || pair == nullptr || pair->down == nullptr ||
        pair->up == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, no adapter, or no matrices");
    if (which == PN_EXPERTS_GATE_UP || which == PN_EXPERTS_DOWN || which < 0 ||
        which >= PN_MATRICES || layer < 0 || layer >= adapter->adapter.layers)
        return fail(PN_BAD_ARGUMENT, "there is no such matrix or layer that an adapter may change");
    pn_packing expected;
    if (penstock::matrix_place(model->model, which, layer, &expected) == nullptr)
        return fail(PN_BAD_ARGUMENT, "there is no such matrix or layer");
    if (which == PN_QKV && model->model.layers[size_t(layer)].traits.wide)
        return fail(PN_UNSUPPORTED, "adapters of wide layers are not computed");
    const bool mlp = which == PN_GATE_UP || which == PN_DOWN;
    const penstock::Experts &experts = model->model.layers[size_t(layer)].experts;
    if (mlp && experts.any() && !experts.shape.apart)
        return fail(PN_UNSUPPORTED, "adapters of what experts share are not computed");
    if (pair->element != PN_F32 && pair->element != PN_F16 && pair->element != PN_BF16)
        return fail(PN_BAD_ARGUMENT, "an adapter is PN_F32, PN_F16 or PN_BF16");
    if (pair->rank < 1 || pair->rank > PN_MOST_RANK || pair->columns != expected.columns ||
        pair->first < 0 || pair->outputs < 1 || pair->outputs > expected.rows - pair->first)
        return fail(PN_BAD_ARGUMENT, "an adapter's sizes are not the matrix's");
    const int half = expected.rows / 2;
    if (expected.layout == PN_PAIRED && pair->first < half && pair->first + pair->outputs > half)
        return fail(PN_BAD_ARGUMENT, "a pair is of a paired matrix's gates, or of its ups");
    if (adapter->adapter.changes(which, layer, expected, pair->first, pair->outputs))
        return fail(PN_BAD_ARGUMENT, "two pairs of an adapter change the same outputs");
    try {
        adapter->adapter.append(which, layer, expected, *pair);
        return PN_OK;
    } catch (const std::bad_alloc &) {
        return fail(PN_NO_MEMORY, "no memory for an adapter");
    }
}
