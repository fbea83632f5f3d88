/* The C interface of layers with experts. */
#include "api_model.h"
#include "experts.h"
#include "failure.h"

using penstock::fail;

PENSTOCK_EXPORT int32_t pn_set_experts(pn_model *model, int32_t layer,
                                       const pn_experts *experts) {
    if (model == nullptr || experts == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no experts");
    if (layer < 0 || layer >= model->model.shape.layers)
        return fail(PN_BAD_ARGUMENT, "there is no such layer");
    if (const char *fault = penstock::fault_of(*experts))
        return fail(PN_BAD_ARGUMENT, fault);
    if (int64_t(experts->experts) * model->model.shape.hidden > INT32_MAX)
        return fail(PN_BAD_ARGUMENT, "the experts are out of range together");
    penstock::Layer &place = model->model.layers[size_t(layer)];
    place.experts = penstock::Experts{};
    place.experts.shape = *experts;
    place.traits.intermediate = experts->shared;
    place.gate_up = place.down = penstock::Matrix{};
    place.gate_up_bias = place.down_bias = nullptr;
    return PN_OK;
}

PENSTOCK_EXPORT int32_t pn_set_router(pn_model *model, int32_t layer, int32_t element,
                                      const void *weights) {
    if (model == nullptr || weights == nullptr)
        return fail(PN_BAD_ARGUMENT, "no model, or no weights");
    if (layer < 0 || layer >= model->model.shape.layers ||
        !model->model.layers[size_t(layer)].experts.any())
        return fail(PN_BAD_ARGUMENT, "there is no such layer with experts");
    if (element != PN_F32 && element != PN_F16 && element != PN_BF16)
        return fail(PN_BAD_ARGUMENT, "a router is PN_F32, PN_F16 or PN_BF16");
    model->model.layers[size_t(layer)].experts.router = weights;
    model->model.layers[size_t(layer)].experts.element = element;
    return PN_OK;
}
