#include "step.h"

#include <string.h>

#include "mixture.h"
#include "products.h"
#include "stepping.h"

namespace penstock {

Step::Step(Model &model, const pn_step_input &input, const Caches &caches, float *states,
           float *logits, float *hidden)
    : model_(model), shape_(model.shape), kernels_(model.kernels), input_(input), caches_(caches),
      states_(states), logits_(logits), hidden_out_(hidden),
      plan_(model.most_together(), model.most_split_floats(), input), adapters_(input) {
    make_room();
}

void Step::run() {
    model_.team.run([](void *self, int thread) { static_cast<Step *>(self)->work(thread); }, this);
}

void Step::work(int thread) {
    if (thread == 0)
        lap_ = std::chrono::steady_clock::now();
    const bool detours = model_.detours();
    each_row(input_.tokens, [&](int token) {
        embed(token);
        const int64_t at = int64_t(token) * shape_.hidden;
        if (detours)
            memcpy(model_.embedded.get() + at, model_.hidden.get() + at,
                   size_t(shape_.hidden) * sizeof(float));
    });
    if (model_.traits.layer_inputs > 0)
        make_inputs();
    for (int index = 0; index < shape_.layers; index++) {
        tap(index);
        layer(index, thread);
        if (index < input_.added_layers)
            each_row(input_.tokens, [&](int token) { add_features(index, token); });
    }
    head(thread);
}

/* Hidden states before a layer, as they were asked for. */
void Step::tap(int index) {
    for (int at = 0; at < input_.taps; at++)
        if (input_.tap_layers[at] == index)
            each_row(input_.tokens, [&](int token) {
                const int64_t row = int64_t(at) * input_.tokens + token;
                memcpy(input_.tapped + row * shape_.hidden,
                       model_.hidden.get() + int64_t(token) * shape_.hidden,
                       size_t(shape_.hidden) * sizeof(float));
            });
}

/* What an image adds to a token's hidden states behind one of the first layers. */
void Step::add_features(int index, int token) {
    const float *from = input_.added[int64_t(index) * input_.tokens + token];
    float *to = model_.hidden.get() + int64_t(token) * shape_.hidden;
    if (from != nullptr)
        for (int at = 0; at < shape_.hidden; at++)
            to[at] += from[at];
}

void Step::embed(int token) {
    float *to = model_.hidden.get() + int64_t(token) * shape_.hidden;
    if (input_.embedded != nullptr && input_.embedded[token] != nullptr) {
        memcpy(to, input_.embedded[token], size_t(shape_.hidden) * sizeof(float));
        return;
    }
    look_up(model_.embeddings, model_.element, input_.token_ids[token], shape_.hidden, to);
    if (model_.traits.embedding_scale != 1.0F)
        for (int at = 0; at < shape_.hidden; at++)
            to[at] *= model_.traits.embedding_scale;
}

/* A row of a table of elements as fp32. */
void Step::look_up(const void *table, int element, int64_t row, int size, float *to) {
    const int64_t from = row * size;
    if (element == PN_F32)
        memcpy(to, static_cast<const float *>(table) + from, size_t(size) * sizeof(float));
    else
        kernels_.widen(static_cast<const uint16_t *>(table) + from, element == PN_BF16, size, to);
}

/* The final norm, and logits: of all rows, or of some. */
void Step::head(int thread) {
    const Quantised last = quantised(model_.head);
    float *normed = input_.before_norm ? nullptr : hidden_out_;
    each_row(input_.rows, [&](int row) {
        const int64_t at = int64_t(row) * shape_.hidden;
        const float *from = model_.last.get() + at;
        if (hidden_out_ != nullptr && input_.before_norm)
            memcpy(hidden_out_ + at, from, size_t(shape_.hidden) * sizeof(float));
        kernels_.norm(from, model_.final_norm, shape_.hidden, last, row,
                      normed == nullptr ? plain_row(row) : normed + at);
    });
    if (input_.logit_rows != nullptr)
        each_row(input_.logits, [&](int row) {
            const int64_t from = int64_t(input_.logit_rows[row]) * shape_.hidden;
            kernels_.norm(model_.last.get() + from, model_.final_norm, shape_.hidden, last, row,
                          nullptr);
        });
    lap(thread, PN_PHASE_ROWS);
    if (logits_ != nullptr) {
        Product of{&model_.head, &last, Outlet::store, logits_, shape_.vocab, nullptr, {},
                   model_.traits.logit_scale, model_.traits.logit_cap};
        of.added = added_to(PN_HEAD, 0, normed == nullptr ? model_.plain.get() : normed,
                            shape_.hidden, true, false);
        product(of, input_.logit_rows == nullptr ? input_.rows : input_.logits);
    }
    lap(thread, PN_PHASE_HEAD);
}

/* The time since the last lap went into a phase; one thread tells for all, as they meet. */
void Step::lap(int thread, int phase) {
    if (thread != 0)
        return;
    const auto now = std::chrono::steady_clock::now();
    model_.phase_s[phase] += std::chrono::duration<double>(now - lap_).count();
    lap_ = now;
}

void Step::layer(int index, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    const float scale = layer.traits.residual_scale;
    see_others(index, thread);
    const Rows rows = past_attention(index + 1 == shape_.layers);
    if (layer.traits.parallel)
        mlp_beside(index, rows, thread);
    if (layer.traits.attends && !layer.detours()) {
        quantise_attended(layer, rows);
        lap(thread, PN_PHASE_ROWS);
        give_back(layer.output, layer.attention_out_norm, rows, layer.output_bias,
                  scale * layer.traits.attention_scale,
                  added_to_output(index, rows));
        lap(thread, PN_PHASE_OUTPUT);
    }
    if (layer.mixer.any()) {
        each_row(rows.count,
                 [&](int row) { quantise_mixed(layer.mixer, token_of(rows, row), row); });
        lap(thread, PN_PHASE_ROWS);
        const bool alone = layer.mixer.convolves_alone();
        give_back(layer.mixer.out, layer.attention_out_norm, rows, layer.mixer.out_bias,
                  scale * layer.mixer.shape.scale,
                  added_to(PN_MIXER_OUT, index,
                           alone ? model_.mixed.get() : model_.mixed_out.get(),
                           alone ? layer.mixer.stride() : layer.mixer.values(), rows.wanted,
                           true));
        lap(thread, PN_PHASE_OUTPUT);
    }
    if (layer.traits.parallel)
        add_branch({}, rows, scale);
    else if (!layer.detours())
        mlp(index, rows, thread);
    if (model_.traits.layer_inputs > 0)
        take_own_input(index, rows, thread);
    if (layer.scale != nullptr)
        each_row(rows.count, [&](int row) {
            float *own = rows.hidden + int64_t(row) * shape_.hidden;
            for (int at = 0; at < shape_.hidden; at++)
                own[at] *= *layer.scale;
        });
    lap(thread, PN_PHASE_ROWS);
}

/* What tokens take in of the ones before them, by attention and by a mixer, up to its last product. */
void Step::see_others(int index, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    const Mixer &mixer = layer.mixer;
    if (layer.detours())
        return detour(index, thread);
    const Matrix &first = layer.traits.attends ? layer.qkv : mixer.in;
    if (first.packed == nullptr)
        return;
    if (layer.traits.wide)
        take_in_both(layer);
    else
        take_in(layer.input_norm, first, input_.tokens, model_.hidden.get());
    lap(thread, PN_PHASE_ROWS);
    const Quantised in = quantised(first);
    const float *plain = plain_inputs(layer.input_norm, model_.hidden.get());
    if (layer.traits.attends) {
        Product of{&layer.qkv, &in, Outlet::store, model_.heads.get(), layer.head_rows(),
                   layer.qkv_bias};
        of.added = added_to(PN_QKV, index, plain, shape_.hidden, false, true);
        product(of, input_.tokens);
    }
    if (mixer.any())
        mix_in(index, plain);
    lap(thread, PN_PHASE_QKV);
    /* Past the last keys and values only the tokens count whose logits are wanted. */
    if (layer.traits.attends)
        attention(index, thread, index + 1 == shape_.layers);
    lap(thread, PN_PHASE_ATTENTION);
    if (mixer.any())
        mix(index, thread);
}

/* Rows of `branch` to the hidden states, normed where there is a norm. */
void Step::add_branch(const Norm &norm, const Rows &rows, float scale) {
    add_rows(model_.branch.get(), norm, rows.count, scale, rows.hidden);
}

void Step::add_rows(const float *from, const Norm &norm, int rows, float scale, float *to) {
    each_row(rows, [&](int row) {
        const int64_t at = int64_t(row) * shape_.hidden;
        kernels_.add(from + at, norm, shape_.hidden, scale, to + at);
    });
}

/* Hidden states as a product's input, normed where there is a norm. */
void Step::take_in(const Norm &norm, const Matrix &matrix, int rows, const float *hidden) {
    const Quantised in = quantised(matrix);
    each_row(rows, [&](int row) {
        const float *from = hidden + int64_t(row) * shape_.hidden;
        if (norm.weight == nullptr)
            kernels_.quantise(from, shape_.hidden, in, row);
        else
            kernels_.norm(from, norm, shape_.hidden, in, row, plain_row(row));
    });
}

/* The input of a wide layer's first product: what stands beside hidden states, and these, normed. */
void Step::take_in_both(const Layer &layer) {
    const Quantised in = quantised(layer.qkv);
    const size_t bytes = size_t(shape_.hidden) * sizeof(float);
    each_row(input_.tokens, [&](int token) {
        float *both = model_.wide.get() + int64_t(token) * 2 * shape_.hidden;
        const int64_t at = int64_t(token) * shape_.hidden;
        memcpy(both, input_.beside + at, bytes);
        memset(both + shape_.hidden, 0, bytes);
        kernels_.add(model_.hidden.get() + at, layer.input_norm, shape_.hidden, 1.0F,
                     both + shape_.hidden);
        kernels_.quantise(both, 2 * shape_.hidden, in, token);
    });
}

Step::Rows Step::past_attention(bool last) {
    if (!last)
        return {input_.tokens, model_.hidden.get(), false};
    each_row(input_.rows, [&](int row) {
        const int token = input_.row_indices[row];
        memcpy(model_.last.get() + int64_t(row) * shape_.hidden,
               model_.hidden.get() + int64_t(token) * shape_.hidden,
               size_t(shape_.hidden) * sizeof(float));
    });
    return {input_.rows, model_.last.get(), true};
}

/* A layer's MLP, added to `rows`. */
void Step::mlp(int index, const Rows &rows, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    if (layer.experts.any() && layer.experts.shape.apart)
        return mlp_and_experts(index, rows, thread);
    if (layer.experts.any()) {
        const bool apart =
            layer.mlp_out_norm.weight != nullptr || layer.traits.residual_scale != 1.0F;
        mixture(layer, rows, apart ? model_.branch.get() : rows.hidden, thread);
        if (apart)
            add_branch(layer.mlp_out_norm, rows, layer.traits.residual_scale);
        return lap(thread, PN_PHASE_ROWS);
    }
    if (layer.traits.intermediate == 0)
        return;
    take_in(layer.attention_norm, layer.gate_up, rows.count, rows.hidden);
    lap(thread, PN_PHASE_ROWS);
    up(index, rows, plain_inputs(layer.attention_norm, rows.hidden), thread);
    give_back(layer.down, layer.mlp_out_norm, rows, layer.down_bias,
              layer.traits.residual_scale * layer.traits.mlp_scale, added_to_down(index, rows));
    lap(thread, PN_PHASE_DOWN);
}

/* The same, to `branch`: it reads hidden states to which attention was not added yet. */
void Step::mlp_beside(int index, const Rows &rows, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    if (layer.experts.any())
        return mixture(layer, rows, model_.branch.get(), thread);
    const bool own = layer.attention_norm.weight != nullptr;
    const Norm &norm = own ? layer.attention_norm : layer.input_norm;
    take_in(norm, layer.gate_up, rows.count, rows.hidden);
    lap(thread, PN_PHASE_ROWS);
    up(index, rows, plain_inputs(norm, rows.hidden), thread);
    const Quantised inner = quantised(layer.down);
    Product of{&layer.down, &inner, Outlet::store, model_.branch.get(), shape_.hidden,
               layer.down_bias, {}, layer.traits.mlp_scale};
    of.added = added_to_down(index, rows);
    product(of, rows.count);
    lap(thread, PN_PHASE_DOWN);
}

/* An MLP, and experts that read the same: both normed, and their sum. */
void Step::mlp_and_experts(int index, const Rows &rows, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    float *branch = model_.branch.get();
    float *both = model_.both.get();
    take_in(layer.attention_norm, layer.gate_up, rows.count, rows.hidden);
    up(index, rows, plain_inputs(layer.attention_norm, rows.hidden), thread);
    const Quantised inner = quantised(layer.down);
    Product of{&layer.down, &inner, Outlet::store, branch, shape_.hidden, layer.down_bias, {},
               layer.traits.mlp_scale};
    of.added = added_to_down(index, rows);
    product(of, rows.count);
    lap(thread, PN_PHASE_DOWN);
    each_row(rows.count, [&](int row) {
        memset(both + int64_t(row) * shape_.hidden, 0, size_t(shape_.hidden) * sizeof(float));
    });
    add_rows(branch, layer.dense_out_norm, rows.count, 1.0F, both);
    mixture(layer, rows, branch, thread);
    add_rows(branch, layer.experts_out_norm, rows.count, 1.0F, both);
    add_rows(both, layer.mlp_out_norm, rows.count, layer.traits.residual_scale, rows.hidden);
    lap(thread, PN_PHASE_ROWS);
}

/* A mixture of experts, added to the hidden states, or alone in `branch`. */
void Step::mixture(const Layer &layer, const Rows &rows, float *out, int thread) {
    const Experts &experts = layer.experts;
    ExpertRoom &room = model_.experts;
    const Norm &norm =
        layer.attention_norm.weight == nullptr ? layer.input_norm : layer.attention_norm;
    SharedExpert shared;
    const bool apart = experts.shape.apart != 0;
    if (layer.traits.intermediate > 0 && !apart)
        shared = {&layer.gate_up,
                  &layer.down,
                  layer.gate_up_bias,
                  layer.down_bias,
                  model_.gated.get(),
                  layer.traits.intermediate,
                  layer.traits.gated ? Outlet::gated : Outlet::activated,
                  {layer.traits.activation, 1.0F, 0.0F, layer.traits.gate_scale}};
    const Quantised in = quantised(experts.gate_up);
    Mixture<Team> of(model_.team, kernels_, experts, room, in, shared, rows.count, shape_.hidden);
    each_row(rows.count, [&](int row) {
        const int64_t at = int64_t(row) * shape_.hidden;
        float *normed = room.normed.get() + at;
        if (apart) { /* the router and the experts see different norms */
            kernels_.norm(rows.hidden + at, layer.router_norm, shape_.hidden, in, row, normed);
            kernels_.norm(rows.hidden + at, layer.experts_in_norm, shape_.hidden, in, row, nullptr);
        } else {
            kernels_.norm(rows.hidden + at, norm, shape_.hidden, in, row, normed);
        }
        const float *gate = experts.shared_gate;
        room.shared_weights.get()[row] =
            experts.shape.shared_scale *
            (gate == nullptr ? 1.0F : kernels_.switched(normed, gate, shape_.hidden));
        if (out != rows.hidden)
            memset(out + at, 0, size_t(shape_.hidden) * sizeof(float));
    });
    of.choose();
    lap(thread, PN_PHASE_ROWS);
    of.gate_up();
    lap(thread, PN_PHASE_GATE_UP);
    const Quantised inner = quantised(layer.down);
    of.quantise(inner);
    lap(thread, PN_PHASE_ROWS);
    of.down(inner, out);
    lap(thread, PN_PHASE_DOWN);
}

Added Step::added_to_output(int index, const Rows &rows) {
    const Layer &layer = model_.layers[size_t(index)];
    const bool latent = layer.latent.any(); /* whose results stand by row, not by token */
    return added_to(PN_OUTPUT, index, latent ? model_.expanded.get() : model_.attended.get(),
                    layer.output_columns(), rows.wanted, !latent);
}

Added Step::added_to_down(int index, const Rows &rows) {
    const int size = model_.layers[size_t(index)].traits.intermediate;
    return added_to(PN_DOWN, index, model_.gated.get(), size, rows.wanted, false);
}

/* From an MLP's input, which is quantised, and as it was in `inputs`, to that of its last product. */
void Step::up(int index, const Rows &rows, const float *inputs, int thread) {
    const Layer &layer = model_.layers[size_t(index)];
    const int size = layer.traits.intermediate;
    const Quantised in = quantised(layer.gate_up);
    const Outlet outlet = layer.traits.gated ? Outlet::gated : Outlet::activated;
    Product of{&layer.gate_up, &in, outlet, model_.gated.get(), size, layer.gate_up_bias,
               {layer.traits.activation, 1.0F, 0.0F, layer.traits.gate_scale}};
    of.added = added_to(PN_GATE_UP, index, inputs, shape_.hidden, rows.wanted, false);
    product(of, rows.count);
    lap(thread, PN_PHASE_GATE_UP);
    const Quantised inner = quantised(layer.down);
    each_row(rows.count, [&](int row) {
        kernels_.quantise(model_.gated.get() + int64_t(row) * size, size, inner, row);
    });
    lap(thread, PN_PHASE_ROWS);
}

/* A product of quantised rows, added to the hidden states; first normed where there is a norm. */
void Step::give_back(const Matrix &matrix, const Norm &norm, const Rows &rows, const float *bias,
                     float scale, const Added &added) {
    const Quantised in = quantised(matrix);
    const bool normed = norm.weight != nullptr;
    float *out = normed ? model_.branch.get() : rows.hidden;
    Product of{&matrix, &in, normed ? Outlet::store : Outlet::add, out, shape_.hidden, bias, {},
               normed ? 1.0F : scale};
    of.added = added;
    product(of, rows.count);
    if (normed)
        add_branch(norm, rows, scale);
}

void Step::product(const Product &product, int rows) { multiply(model_, product, rows); }

Quantised Step::quantised(const Matrix &matrix) const { return input_of(model_, matrix); }

void compute(Model &model, const pn_step_input &input, const Caches &caches, float *states,
             float *logits, float *hidden) {
    Step(model, input, caches, states, logits, hidden).run();
}

} // namespace penstock
