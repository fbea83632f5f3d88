#include "stepping.h"

namespace penstock {

namespace {

/* Channels of a convolution, and columns of a state, that are one piece of work. */
constexpr int CHANNELS = 256;
constexpr int COLUMNS = 64;

int pieces_of(int total, int each) { return (total + each - 1) / each; }

} // namespace

/* A mixer's part in the state of a sequence. */
float *Step::state_of(const Mixer &mixer, int sequence) const {
    return states_ + int64_t(input_.states[sequence]) * model_.state_floats + mixer.place;
}

/* From the rows of its first product to the results of all heads, in `mixed_out`. */
void Step::mix(const Mixer &mixer, int thread) {
    convolve(mixer);
    if (!mixer.convolves_alone()) {
        each_row(input_.tokens, [&](int token) { gate(mixer, token); });
        recur(mixer);
    }
    lap(thread, PN_PHASE_ATTENTION);
}

void Step::convolve(const Mixer &mixer) {
    const int across = pieces_of(mixer.channels(), CHANNELS);
    const bool alone = mixer.convolves_alone();
    model_.team.phase(input_.sequences * across, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const int sequence = at / across;
            const int first = at % across * CHANNELS;
            const int token = input_.subsequence_begins[sequence];
            Convolution of;
            of.inputs = model_.mixed.get() + int64_t(token) * mixer.rows();
            of.before = alone ? of.inputs + mixer.values() : nullptr;
            of.after = alone ? of.inputs + 2 * int64_t(mixer.values()) : nullptr;
            of.stride = mixer.rows();
            of.tokens = input_.subsequence_begins[sequence + 1] - token;
            of.channels = mixer.channels();
            of.first_channel = first;
            of.last_channel = first + CHANNELS < of.channels ? first + CHANNELS : of.channels;
            of.width = mixer.shape.width;
            of.weight = mixer.convolution;
            of.bias = mixer.convolution_bias;
            of.swish = mixer.shape.silu != 0;
            of.state = state_of(mixer, sequence);
            of.fresh = input_.past_lens[sequence] == 0;
            if (of.tokens > 0)
                kernels_.convolve(of);
        }
    });
}

/* What a token does to each head's state. */
void Step::gate(const Mixer &mixer, int token) {
    Gating of;
    of.row = model_.mixed.get() + int64_t(token) * mixer.rows();
    of.key_heads = mixer.shape.key_heads;
    of.value_heads = mixer.shape.value_heads;
    of.key_size = mixer.shape.key_size;
    of.delta = mixer.delta();
    of.steps = of.row + mixer.steps();
    of.weights = of.row + mixer.weights();
    of.step_bias = mixer.step_bias;
    of.rates = mixer.rates;
    of.step_scale = mixer.shape.step_scale;
    of.least_step = mixer.shape.least_step;
    of.most_step = mixer.shape.most_step;
    of.out = model_.gates.get() + int64_t(token) * mixer.shape.value_heads * GATES;
    kernels_.gating(of);
}

void Step::recur(const Mixer &mixer) {
    const pn_mixer &shape = mixer.shape;
    const int across = pieces_of(shape.value_size, COLUMNS);
    const int of_sequence = shape.value_heads * across;
    model_.team.phase(input_.sequences * of_sequence, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const int sequence = at / of_sequence;
            const int head = at % of_sequence / across;
            const int first = at % across * COLUMNS;
            const int token = input_.subsequence_begins[sequence];
            const int64_t key_head = head / (shape.value_heads / shape.key_heads);
            const float *row = model_.mixed.get() + int64_t(token) * mixer.rows();
            Recurrence of;
            of.queries = row + key_head * shape.key_size;
            of.keys = of.queries + mixer.keys();
            of.values = row + 2 * int64_t(mixer.keys()) + int64_t(head) * shape.value_size;
            of.stride = mixer.rows();
            of.gates_stride = int64_t(shape.value_heads) * GATES;
            of.gates = model_.gates.get() + token * of.gates_stride + int64_t(head) * GATES;
            of.tokens = input_.subsequence_begins[sequence + 1] - token;
            of.key_size = shape.key_size;
            of.value_size = shape.value_size;
            of.first_column = first;
            of.last_column =
                first + COLUMNS < shape.value_size ? first + COLUMNS : shape.value_size;
            of.delta = mixer.delta();
            of.skip = mixer.skip == nullptr ? 0.0F : mixer.skip[head];
            of.state = state_of(mixer, sequence) + mixer.past() +
                       int64_t(head) * shape.key_size * shape.value_size;
            of.fresh = input_.past_lens[sequence] == 0;
            of.out_stride = mixer.values();
            of.out = model_.mixed_out.get() + token * of.out_stride +
                     int64_t(head) * shape.value_size;
            if (of.tokens > 0)
                kernels_.recur(of);
        }
    });
}

/* A token's results, normed and gated, as row `row` of the product that follows. */
void Step::quantise_mixed(const Mixer &mixer, int token, int row) {
    const float *in = model_.mixed.get() + int64_t(token) * mixer.rows();
    if (mixer.convolves_alone())
        return kernels_.quantise(in, mixer.values(), quantised(mixer.out), row);
    Outcome of;
    of.row = model_.mixed_out.get() + int64_t(token) * mixer.values();
    of.gates = in + mixer.gates();
    of.gate_scale = mixer.shape.gate_scale;
    of.size = mixer.values();
    of.order = mixer.shape.order;
    of.norm = {mixer.norm, mixer.shape.norm_size, mixer.shape.norm_epsilon};
    kernels_.give_out(of);
    kernels_.quantise(of.row, of.size, quantised(mixer.out), row);
}

} // namespace penstock
