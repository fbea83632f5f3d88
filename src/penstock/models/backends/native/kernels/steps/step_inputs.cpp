/* Inputs that each layer has of its own, beside the hidden states. */
#include "stepping.h"

namespace penstock {

/* Of all tokens and layers: by token id, and by a product of the embeddings, which is normed. */
void Step::make_inputs() {
    const pn_traits &own = model_.traits;
    const int values = model_.input_values();
    const Quantised in = quantised(model_.layer_inputs);
    each_row(input_.tokens, [&](int token) {
        kernels_.quantise(model_.hidden.get() + int64_t(token) * shape_.hidden, shape_.hidden, in,
                          token);
        float *to = model_.inputs.get() + int64_t(token) * values;
        look_up(model_.input_embeddings, model_.input_element, input_.token_ids[token], values, to);
        for (int at = 0; at < values; at++)
            to[at] *= own.input_scale * own.sum_scale;
    });
    Product of{&model_.layer_inputs, &in, Outlet::store, model_.projected.get(), values, nullptr,
               {}, own.projection_scale};
    of.added = added_to(PN_LAYER_INPUTS, 0, model_.hidden.get(), shape_.hidden, false, true);
    product(of, input_.tokens);
    each_row(input_.tokens * shape_.layers, [&](int part) {
        const int64_t at = int64_t(part) * own.layer_inputs;
        kernels_.add(model_.projected.get() + at, model_.layer_inputs_norm, own.layer_inputs,
                     own.sum_scale, model_.inputs.get() + at);
    });
}

/* A layer's own inputs, gated by the hidden states, added to these. */
void Step::take_own_input(int index, const Rows &rows, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    const int size = model_.traits.layer_inputs;
    take_in({}, layer.input_gate, rows.count, rows.hidden);
    const Quantised in = quantised(layer.input_gate);
    Product of{&layer.input_gate, &in, Outlet::activated, model_.gated.get(), size, nullptr,
               {model_.traits.input_activation}};
    of.added = added_to(PN_INPUT_GATE, index, rows.hidden, shape_.hidden, rows.wanted, false);
    product(of, rows.count);
    lap(thread, PN_PHASE_GATE_UP);
    const Quantised inner = quantised(layer.input_up);
    each_row(rows.count, [&](int row) {
        float *gated = model_.gated.get() + int64_t(row) * size;
        const int64_t token = token_of(rows, row);
        kernels_.multiply(gated,
                          model_.inputs.get() + token * model_.input_values() +
                              int64_t(index) * size,
                          size, false);
        kernels_.quantise(gated, size, inner, row);
    });
    give_back(layer.input_up, layer.input_out_norm, rows, nullptr, 1.0F,
              added_to(PN_INPUT_UP, index, model_.gated.get(), size, rows.wanted, false));
    lap(thread, PN_PHASE_DOWN);
}

} // namespace penstock
