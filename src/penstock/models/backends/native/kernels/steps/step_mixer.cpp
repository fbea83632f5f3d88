#include <string.h>

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

/* A mixer's first product, of what is quantised, and as it was in `plain`. */
void Step::mix_in(int index, const float *plain) {
    const Mixer &mixer = model_.layers[size_t(index)].mixer;
    const Quantised in = quantised(mixer.in);
    Product of{&mixer.in, &in, Outlet::store, model_.mixed.get(), mixer.stride(), mixer.in_bias};
    of.added = added_to(PN_MIXER_IN, index, plain, shape_.hidden, false, true);
    product(of, input_.tokens);
}

/* Steps and gates, of what the first product has of them. */
void Step::widen(int index) {
    const Mixer &mixer = model_.layers[size_t(index)].mixer;
    const struct {
        const Matrix &matrix;
        int which;
        int from;
        int rank;
        int to;
    } ups[] = {{mixer.step_up, PN_STEP_UP, mixer.low_steps(), mixer.shape.step_rank, mixer.steps()},
               {mixer.gate_up, PN_MIXER_GATE_UP, mixer.low_gates(), mixer.shape.gate_rank,
                mixer.gates()}};
    for (const auto &up : ups) {
        const Quantised in = quantised(up.matrix);
        const float *plain = model_.mixed.get() + up.from;
        each_row(input_.tokens, [&](int token) {
            kernels_.quantise(plain + int64_t(token) * mixer.stride(), up.rank, in, token);
        });
        Product of{&up.matrix, &in, Outlet::store, model_.mixed.get() + up.to, mixer.stride(),
                   nullptr};
        of.added = added_to(up.which, index, plain, mixer.stride(), false, true);
        product(of, input_.tokens);
    }
}

/* From the rows of its first product to the results of all heads, in `mixed_out`. */
void Step::mix(int index, int thread) {
    const Mixer &mixer = model_.layers[size_t(index)].mixer;
    if (mixer.keyed())
        widen(index);
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
            of.inputs = model_.mixed.get() + int64_t(token) * mixer.stride();
            of.before = alone ? of.inputs + mixer.values() : nullptr;
            of.after = alone ? of.inputs + 2 * int64_t(mixer.values()) : nullptr;
            of.stride = mixer.stride();
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
    of.row = model_.mixed.get() + int64_t(token) * mixer.stride();
    of.key_heads = mixer.shape.key_heads;
    of.value_heads = mixer.shape.value_heads;
    of.key_size = mixer.shape.key_size;
    of.delta = mixer.delta();
    of.keyed = mixer.keyed();
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
            const float *row = model_.mixed.get() + int64_t(token) * mixer.stride();
            Recurrence of;
            of.queries = row + key_head * shape.key_size;
            of.keys = of.queries + mixer.keys();
            of.values = row + 2 * int64_t(mixer.keys()) + int64_t(head) * shape.value_size;
            of.stride = mixer.stride();
            of.decays = mixer.keyed() ? row + mixer.steps() + key_head * shape.key_size : nullptr;
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
    const float *in = model_.mixed.get() + int64_t(token) * mixer.stride();
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

/* From the hidden states to the results of all heads of the layer's mixer. */
void Step::detour(int index, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    const int hidden = shape_.hidden;
    const int64_t both = 2 * int64_t(hidden);
    const size_t bytes = size_t(hidden) * sizeof(float);
    float *aside = model_.aside.get();
    float *plain = adapters_.any() ? model_.plain.get() : nullptr;
    const Rows rows{input_.tokens, aside, false};

    const Quantised in = quantised(layer.qkv);
    each_row(rows.count, [&](int token) {
        float *row = model_.beside.get() + token * both;
        memcpy(row, model_.hidden.get() + int64_t(token) * hidden, bytes);
        memcpy(row + hidden, model_.embedded.get() + int64_t(token) * hidden, bytes);
        kernels_.norm(row, layer.input_norm, int(both), in, token,
                      plain == nullptr ? nullptr : plain + token * both);
    });
    lap(thread, PN_PHASE_ROWS);
    Product first{&layer.qkv, &in, Outlet::store, model_.heads.get(), layer.head_rows(),
                  layer.qkv_bias};
    first.added = added_to(PN_QKV, index, plain, both, false, true);
    product(first, rows.count);
    lap(thread, PN_PHASE_QKV);
    attention(index, thread, false);
    lap(thread, PN_PHASE_ATTENTION);

    quantise_attended(layer, rows);
    const Quantised attended = quantised(layer.output);
    Product output{&layer.output, &attended, Outlet::store, aside, hidden, layer.output_bias, {},
                   layer.traits.attention_scale};
    output.added = added_to_output(index, rows);
    product(output, rows.count);
    lap(thread, PN_PHASE_OUTPUT);

    take_in(layer.attention_norm, layer.gate_up, rows.count, aside);
    lap(thread, PN_PHASE_ROWS);
    up(index, rows, plain_inputs(layer.attention_norm, aside), thread);
    const Quantised inner = quantised(layer.down);
    Product down{&layer.down, &inner, Outlet::store, aside, hidden, layer.down_bias, {},
                 layer.traits.mlp_scale};
    down.added = added_to_down(index, rows);
    product(down, rows.count);
    lap(thread, PN_PHASE_DOWN);

    take_in({}, layer.detour, rows.count, aside);
    const Quantised last = quantised(layer.detour);
    Product behind{&layer.detour, &last, Outlet::store, aside, hidden, nullptr};
    behind.added = added_to(PN_DETOUR, index, aside, hidden, false, true);
    product(behind, rows.count);
    lap(thread, PN_PHASE_OUTPUT);

    add_rows(model_.hidden.get(), {}, rows.count, 1.0F, aside);
    take_in(layer.mixer_norm, layer.mixer.in, rows.count, aside);
    lap(thread, PN_PHASE_ROWS);
    mix_in(index, plain_inputs(layer.mixer_norm, aside));
    lap(thread, PN_PHASE_QKV);
    mix(index, thread);
}

} // namespace penstock
