#include "adapter.h"

#include "model.h"

namespace penstock {

namespace {

/* Rows that are one piece of work at most. */
constexpr int MOST_ROWS = 32;

const Adapter *of_sequence(const pn_step_input &input, int sequence) {
    const pn_adapter *own = input.adapters[sequence];
    return own == nullptr ? nullptr : &own->adapter;
}

/* Append a row; it joins the last run if it belongs there. */
void append(AdapterRows &rows, const Adapter *adapter, int row, int token) {
    rows.uses.push_back(adapter != nullptr);
    if (adapter == nullptr)
        return;
    if (!rows.runs.empty()) {
        AdapterRun &last = rows.runs.back();
        if (last.adapter == adapter && last.rows < MOST_ROWS && last.first + last.rows == row &&
            last.token + last.rows == token) {
            last.rows++;
            return;
        }
    }
    rows.runs.push_back({adapter, row, 1, token});
}

} // namespace

StepAdapters::StepAdapters(const pn_step_input &input) {
    if (input.adapters == nullptr)
        return;
    int row = 0;
    for (int sequence = 0; sequence < input.sequences; sequence++) {
        const Adapter *own = of_sequence(input, sequence);
        if (own != nullptr) {
            small = own->small > small ? own->small : small;
            rank = own->rank > rank ? own->rank : rank;
            most_pairs = own->most_pairs > most_pairs ? own->most_pairs : most_pairs;
        }
        for (int token = input.subsequence_begins[sequence];
             token < input.subsequence_begins[sequence + 1]; token++) {
            append(tokens, own, token, token);
            if (row < input.rows && input.row_indices[row] == token)
                append(wanted, own, row++, token);
        }
    }
}

const char *fault_of_adapters(const Model &model, const pn_step_input &input) {
    if (input.adapters == nullptr)
        return nullptr;
    for (int sequence = 0; sequence < input.sequences; sequence++)
        if (input.adapters[sequence] != nullptr &&
            input.adapters[sequence]->adapter.layers != model.shape.layers)
            return "an adapter is of a model with other layers";
    return nullptr;
}

} // namespace penstock
