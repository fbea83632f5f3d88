#include "step.h"

#include <chrono>
#include <math.h>
#include <string.h>

#include "mixture.h"
#include "plan.h"

namespace penstock {

namespace {

/* Rows of a product that are one piece of work. */
constexpr int ROWS_AT_ONCE = PRODUCT_ROWS;

class Step {
  public:
    Step(Model &model, const pn_step_input &input, uint16_t *cache, float *logits, float *hidden)
        : model_(model), shape_(model.shape), kernels_(model.kernels), input_(input),
          cache_(cache), logits_(logits), hidden_out_(hidden), plan_(model.shape, input) {
        make_room();
    }

    void run() {
        model_.team.run([](void *self, int thread) { static_cast<Step *>(self)->work(thread); },
                        this);
    }

  private:
    void make_room();
    void work(int thread);
    void layer(int index, int thread);
    void attention(int index, int thread, bool wanted_only);
    void rest(const Layer &layer, int rows, float *hidden, int thread);
    void mixture(const Layer &layer, int rows, float *hidden, int thread);
    void lap(int thread, int phase);
    void embed(int token);
    void product(const Matrix &matrix, int rows, Outlet outlet, float *out, int64_t stride,
                 const float *bias);
    void quantise_attended(const Layer &layer, int token, int row);
    Quantised quantised(const Matrix &matrix) const;

    template <typename Each> void each_row(int rows, Each each) {
        model_.team.phase(rows, 1, [&](int begin, int end) {
            for (int row = begin; row < end; row++)
                each(row);
        });
    }

    Model &model_;
    const pn_shape &shape_;
    const Kernels &kernels_;
    const pn_step_input &input_;
    uint16_t *cache_;
    float *logits_;
    float *hidden_out_;
    Plan plan_;
    std::chrono::steady_clock::time_point lap_; /* thread 0's last one */
};

void Step::make_room() {
    const int64_t tokens = input_.tokens;
    int64_t columns = 0;
    int64_t groups = 0;
    const auto widen = [&](const Matrix &matrix) {
        const int64_t padded = int64_t(matrix.groups) * matrix.group;
        columns = padded > columns ? padded : columns;
        groups = matrix.groups > groups ? matrix.groups : groups;
    };
    widen(model_.head);
    for (const Layer &layer : model_.layers) {
        widen(layer.qkv);
        widen(layer.output);
        widen(layer.gate_up);
        widen(layer.down);
    }
    const int64_t rows = tokens > input_.rows ? tokens : input_.rows;
    int64_t intermediate = 0;
    for (const Layer &layer : model_.layers) {
        intermediate = layer.intermediate > intermediate ? layer.intermediate : intermediate;
        if (layer.experts.any()) {
            widen(layer.experts.gate_up);
            model_.experts.need(layer.experts, rows, shape_.hidden);
        }
    }
    model_.hidden.need(tokens * shape_.hidden);
    model_.last.need(int64_t(input_.rows) * shape_.hidden);
    model_.heads.need(tokens * model_.head_rows());
    model_.attended.need(tokens * model_.attended_size());
    model_.gated.need(tokens * intermediate);
    model_.partials.need(plan_.partials);
    model_.scratch.need(int64_t(model_.team.threads()) * ATTENTION_SCRATCH);
    model_.quantised.need(rows * columns + 64);
    model_.scales.need(rows * groups);
    model_.corrections.need(rows * groups);
}

void Step::work(int thread) {
    if (thread == 0)
        lap_ = std::chrono::steady_clock::now();
    each_row(input_.tokens, [&](int token) { embed(token); });
    for (int index = 0; index < shape_.layers; index++)
        layer(index, thread);
    const Quantised last = quantised(model_.head);
    each_row(input_.rows, [&](int row) {
        const float *from = model_.last.get() + int64_t(row) * shape_.hidden;
        float *plain =
            hidden_out_ == nullptr ? nullptr : hidden_out_ + int64_t(row) * shape_.hidden;
        kernels_.norm(from, model_.final_norm, shape_.hidden, shape_.norm_epsilon, last, row,
                      plain);
    });
    lap(thread, PN_PHASE_ROWS);
    if (logits_ != nullptr)
        product(model_.head, input_.rows, Outlet::store, logits_, shape_.vocab, nullptr);
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
    const Quantised in = quantised(layer.qkv);
    each_row(input_.tokens, [&](int row) {
        kernels_.norm(model_.hidden.get() + int64_t(row) * shape_.hidden, layer.input_norm,
                      shape_.hidden, shape_.norm_epsilon, in, row, nullptr);
    });
    lap(thread, PN_PHASE_ROWS);
    product(layer.qkv, input_.tokens, Outlet::store, model_.heads.get(), model_.head_rows(),
            layer.qkv_bias);
    lap(thread, PN_PHASE_QKV);
    /* Past the last keys and values only the tokens count whose logits are wanted. */
    const bool last = index + 1 == shape_.layers;
    attention(index, thread, last);
    lap(thread, PN_PHASE_ATTENTION);
    if (!last) {
        each_row(input_.tokens, [&](int row) { quantise_attended(layer, row, row); });
        rest(layer, input_.tokens, model_.hidden.get(), thread);
        return;
    }
    each_row(input_.rows, [&](int row) {
        const int token = input_.row_indices[row];
        memcpy(model_.last.get() + int64_t(row) * shape_.hidden,
               model_.hidden.get() + int64_t(token) * shape_.hidden,
               size_t(shape_.hidden) * sizeof(float));
        quantise_attended(layer, token, row);
    });
    rest(layer, input_.rows, model_.last.get(), thread);
}

/* A layer past its attention, which is quantised: `rows` rows of `hidden`. */
void Step::rest(const Layer &layer, int rows, float *hidden, int thread) {
    lap(thread, PN_PHASE_ROWS);
    product(layer.output, rows, Outlet::add, hidden, shape_.hidden, layer.output_bias);
    lap(thread, PN_PHASE_OUTPUT);
    if (layer.experts.any())
        return mixture(layer, rows, hidden, thread);
    const Quantised in = quantised(layer.gate_up);
    each_row(rows, [&](int row) {
        kernels_.norm(hidden + int64_t(row) * shape_.hidden, layer.attention_norm, shape_.hidden,
                      shape_.norm_epsilon, in, row, nullptr);
    });
    lap(thread, PN_PHASE_ROWS);
    product(layer.gate_up, rows, Outlet::gated, model_.gated.get(), layer.intermediate,
            layer.gate_up_bias);
    lap(thread, PN_PHASE_GATE_UP);
    const Quantised inner = quantised(layer.down);
    each_row(rows, [&](int row) {
        kernels_.quantise(model_.gated.get() + int64_t(row) * layer.intermediate,
                          layer.intermediate, inner, row);
    });
    lap(thread, PN_PHASE_ROWS);
    product(layer.down, rows, Outlet::add, hidden, shape_.hidden, layer.down_bias);
    lap(thread, PN_PHASE_DOWN);
}

/* The same where the layer has experts. */
void Step::mixture(const Layer &layer, int rows, float *hidden, int thread) {
    const Experts &experts = layer.experts;
    ExpertRoom &room = model_.experts;
    SharedExpert shared;
    if (layer.intermediate > 0)
        shared = {&layer.gate_up,      &layer.down,        layer.gate_up_bias,
                  layer.down_bias,     model_.gated.get(), layer.intermediate};
    const Quantised in = quantised(experts.gate_up);
    Mixture<Team> of(model_.team, kernels_, experts, room, in, shared, rows, shape_.hidden);
    each_row(rows, [&](int row) {
        float *normed = room.normed.get() + int64_t(row) * shape_.hidden;
        kernels_.norm(hidden + int64_t(row) * shape_.hidden, layer.attention_norm, shape_.hidden,
                      shape_.norm_epsilon, in, row, normed);
        const float *gate = experts.shared_gate;
        room.shared_weights.get()[row] =
            experts.shape.shared_scale *
            (gate == nullptr ? 1.0F : kernels_.switched(normed, gate, shape_.hidden));
    });
    of.choose();
    lap(thread, PN_PHASE_ROWS);
    of.gate_up();
    lap(thread, PN_PHASE_GATE_UP);
    const Quantised inner = quantised(layer.down);
    of.quantise(inner);
    lap(thread, PN_PHASE_ROWS);
    of.down(inner, hidden);
    lap(thread, PN_PHASE_DOWN);
}

void Step::attention(int index, int thread, bool wanted_only) {
    const Layer &layer = model_.layers[size_t(index)];
    const CacheLayout &layout = model_.cache;
    uint16_t *cache = cache_ + index * layout.layer_stride;
    const int size = shape_.head_size;
    const float scale = 1.0F / sqrtf(float(size));
    each_row(input_.tokens, [&](int token) {
        const int position = plan_.position[size_t(token)];
        const int sequence = plan_.sequence[size_t(token)];
        const int32_t *blocks =
            input_.block_indices + input_.block_indices_begins[sequence];
        const int64_t block = blocks[position / shape_.block_size];
        kernels_.heads({model_.heads.get() + int64_t(token) * model_.head_rows(), shape_.heads,
                        shape_.kv_heads, size, layer.query_norm, layer.key_norm,
                        shape_.norm_epsilon, model_.cosines + int64_t(position) * size,
                        model_.sines + int64_t(position) * size, scale,
                        cache + block * layout.block_stride, shape_.block_size,
                        position % shape_.block_size});
    });
    lap(thread, PN_PHASE_ROTATION);
    const int heads = shape_.heads / shape_.kv_heads;
    const int pieces = int(plan_.pieces.size()) * shape_.kv_heads;
    model_.team.phase(pieces, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            /* The longest first: a prompt's last tokens have most to look at. */
            const int reversed = pieces - 1 - at;
            const Piece &piece = plan_.pieces[size_t(reversed / shape_.kv_heads)];
            if (wanted_only && !piece.wanted)
                continue;
            const int head = reversed % shape_.kv_heads;
            const int64_t first_head = int64_t(head) * heads;
            Attention of;
            of.queries = model_.heads.get() +
                         int64_t(piece.first_token) * model_.head_rows() + first_head * size;
            of.query_stride = model_.head_rows();
            of.tokens = piece.tokens;
            of.first_position = plan_.position[size_t(piece.first_token)];
            of.heads = heads;
            of.size = size;
            of.padded = layout.padded;
            of.cache = cache + head * layout.head_stride;
            of.block_stride = layout.block_stride;
            of.values_offset = layout.values_offset;
            of.blocks = input_.block_indices + input_.block_indices_begins[piece.sequence];
            of.block_size = shape_.block_size;
            of.window = layer.window;
            of.first_split = piece.first_split;
            of.last_split = piece.last_split;
            of.out = model_.attended.get() +
                     int64_t(piece.first_token) * model_.attended_size() + first_head * size;
            of.out_stride = model_.attended_size();
            of.partials = nullptr;
            if (piece.partials >= 0)
                of.partials = model_.partials.get() + piece.partials +
                              (int64_t(piece.first_split) * shape_.heads + first_head) * (size + 2);
            of.scratch = model_.scratch.get() + int64_t(thread) * ATTENTION_SCRATCH;
            kernels_.attend(of);
        }
    });
}

/* A token's attention, as row `row` of the product that follows. */
void Step::quantise_attended(const Layer &layer, int token, int row) {
    float *attended = model_.attended.get() + int64_t(token) * model_.attended_size();
    const int index = plan_.apart_of[size_t(token)];
    if (index >= 0) {
        const Apart &apart = plan_.apart[size_t(index)];
        kernels_.join(model_.partials.get() + apart.partials, apart.splits, shape_.heads,
                      shape_.head_size, attended);
    }
    kernels_.quantise(attended, model_.attended_size(), quantised(layer.output), row);
}

void Step::embed(int token) {
    const int64_t from = input_.token_ids[token] * shape_.hidden;
    float *to = model_.hidden.get() + int64_t(token) * shape_.hidden;
    if (model_.element == PN_F32) {
        memcpy(to, static_cast<const float *>(model_.embeddings) + from,
               size_t(shape_.hidden) * sizeof(float));
        return;
    }
    const uint16_t *table = static_cast<const uint16_t *>(model_.embeddings) + from;
    kernels_.widen(table, model_.element == PN_BF16, shape_.hidden, to);
}

void Step::product(const Matrix &matrix, int rows, Outlet outlet, float *out, int64_t stride,
                   const float *bias) {
    const Quantised input = quantised(matrix);
    const Product product{&matrix, &input, outlet, out, stride, bias};
    const int parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    if (parts <= 1) {
        model_.team.phase(rows == 0 ? 0 : matrix.panels, 1, [&](int begin, int end) {
            kernels_.product(product, begin, end, 0, rows);
        });
        return;
    }
    const int each = (rows + parts - 1) / parts;
    model_.team.phase(matrix.panels * parts, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const int panel = at / parts;
            const int row = at % parts * each;
            const int last = row + each < rows ? row + each : rows;
            kernels_.product(product, panel, panel + 1, row, last);
        }
    });
}

Quantised Step::quantised(const Matrix &matrix) const {
    return {model_.quantised.get(),
            model_.scales.get(),
            model_.corrections.get(),
            int64_t(matrix.groups) * matrix.group,
            matrix.group,
            matrix.groups,
            matrix.kind == PN_I4 ? OFFSET_I4 : OFFSET_I8};
}

} // namespace

void compute(Model &model, const pn_step_input &input, uint16_t *cache, float *logits,
             float *hidden) {
    Step(model, input, cache, logits, hidden).run();
}

} // namespace penstock
