#include <vector>

#include "adapter.h"
#include "model.h"
#include "step.h"

namespace penstock {

const char *fault_of_sequences(const pn_step_input &input, int block_size, int64_t blocks,
                               int64_t positions) {
    if (input.tokens < 1 || input.sequences < 1)
        return "a step has a token and a sequence at least";
    if (input.past_lens == nullptr || input.subsequence_begins == nullptr ||
        input.block_indices == nullptr || input.block_indices_begins == nullptr)
        return "a step's array is missing";
    if (input.subsequence_begins[0] != 0 ||
        input.subsequence_begins[input.sequences] != input.tokens ||
        input.block_indices_begins[0] < 0)
        return "the sequences do not add up to the step's tokens";
    for (int sequence = 0; sequence < input.sequences; sequence++) {
        const int64_t tokens =
            int64_t(input.subsequence_begins[sequence + 1]) - input.subsequence_begins[sequence];
        const int64_t count = int64_t(input.block_indices_begins[sequence + 1]) -
                              input.block_indices_begins[sequence];
        if (tokens < 0 || count < 0 || input.past_lens[sequence] < 0)
            return "a sequence's begin or length is negative";
        const int64_t length = input.past_lens[sequence] + tokens;
        if (length > positions)
            return "a position is past the rotary tables";
        if (length > count * block_size)
            return "a sequence has fewer blocks than tokens need";
        const int32_t *own = input.block_indices + input.block_indices_begins[sequence];
        for (int64_t at = 0; at < count; at++)
            if (own[at] < 0 || own[at] >= blocks)
                return "a block is outside the cache";
    }
    return nullptr;
}

namespace {

/* A line about why the states of sequences cannot be at these places, or null. */
const char *fault_of_states(const pn_step_input &input, int places) {
    if (input.states == nullptr)
        return "a step's array is missing";
    std::vector<char> taken(size_t(places > 0 ? places : 0));
    for (int sequence = 0; sequence < input.sequences; sequence++) {
        const int32_t own = input.states[sequence];
        if (own < 0 || own >= places)
            return "a state is outside its places";
        if (taken[size_t(own)])
            return "two sequences have one state";
        taken[size_t(own)] = 1;
    }
    return nullptr;
}

/* A line about why a step's blocks cannot be of the window cache, or null. */
const char *fault_of_windows(const pn_step_input &input, int blocks) {
    if (input.window_indices == nullptr)
        return "a step's array is missing";
    for (int at = input.block_indices_begins[0]; at < input.block_indices_begins[input.sequences];
         at++)
        if (input.window_indices[at] < 0 || input.window_indices[at] >= blocks)
            return "a block is outside the window cache";
    return nullptr;
}

/* A line about why a step's rows cannot have logits, or null. */
const char *fault_of_logits(const pn_step_input &input) {
    if (input.logit_rows == nullptr)
        return nullptr;
    if (input.adapters != nullptr)
        return "logits of some rows alone, in a step with adapters";
    if (input.logits < 0)
        return "a step's logits are fewer than none";
    for (int at = 0; at < input.logits; at++)
        if (input.logit_rows[at] < (at ? input.logit_rows[at - 1] + 1 : 0) ||
            input.logit_rows[at] >= input.rows)
            return "logits of a row that there is not, or not past the row before";
    return nullptr;
}

/* A line about why hidden states cannot be tapped, or wide layers computed, or null. */
const char *fault_of_taps(const Model &model, const pn_step_input &input) {
    for (const Layer &layer : model.layers)
        if (layer.traits.wide && input.beside == nullptr)
            return "a step's array is missing";
    if (input.taps < 0 || (input.taps > 0 && (input.tap_layers == nullptr || input.tapped == nullptr)))
        return "taps are fewer than none, or a step's array is missing";
    for (int at = 0; at < input.taps; at++)
        if (input.tap_layers[at] < (at ? input.tap_layers[at - 1] + 1 : 0) ||
            input.tap_layers[at] >= model.shape.layers)
            return "a tap before a layer that there is not, or not past the one before";
    return nullptr;
}

} // namespace

const char *fault_of(const Model &model, const pn_step_input &input, int blocks,
                     int window_blocks, int places) {
    const pn_shape &shape = model.shape;
    if (input.added_layers < 0 || input.added_layers >= shape.layers ||
        (input.added_layers > 0 && input.added == nullptr))
        return "features are added behind layers that there are not";
    if (const char *fault =
            fault_of_sequences(input, shape.block_size, blocks, model.positions))
        return fault;
    if (const char *fault =
            model.block_strides[1] > 0 ? fault_of_windows(input, window_blocks) : nullptr)
        return fault;
    if (const char *fault = model.state_floats > 0 ? fault_of_states(input, places) : nullptr)
        return fault;
    if (const char *fault = fault_of_adapters(model, input))
        return fault;
    if (const char *fault = fault_of_taps(model, input))
        return fault;
    if (input.rows < 0)
        return "a step's rows are fewer than none";
    if (input.token_ids == nullptr || (input.rows > 0 && input.row_indices == nullptr))
        return "a step's array is missing";
    for (int token = 0; token < input.tokens; token++)
        if (input.token_ids[token] < 0 || input.token_ids[token] >= shape.vocab)
            return "a token id is outside the vocabulary";
    for (int row = 0; row < input.rows; row++)
        if (input.row_indices[row] < (row ? input.row_indices[row - 1] + 1 : 0) ||
            input.row_indices[row] >= input.tokens)
            return "a row is outside the step, or not past the row before";
    return fault_of_logits(input);
}

} // namespace penstock
