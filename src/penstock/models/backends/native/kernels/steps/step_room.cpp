#include "stepping.h"

namespace penstock {

namespace {

int64_t most(int64_t one, int64_t other) { return one > other ? one : other; }

} // namespace

/* Memory for what a step computes, as much as its largest layer needs. Throws std::bad_alloc. */
void Step::make_room() {
    const int64_t tokens = input_.tokens;
    const int64_t rows = most(tokens, input_.rows);
    int64_t columns = 0;
    int64_t groups = 0;
    int64_t intermediate = 0;
    int64_t head_rows = 0;
    int64_t mixed = 0;
    int64_t gates = 0;
    int64_t mixed_out = 0;
    bool branches = false;
    const auto widen = [&](const Matrix &matrix) {
        const int64_t padded = int64_t(matrix.groups) * matrix.group;
        columns = most(columns, padded);
        groups = most(groups, matrix.groups);
    };
    widen(model_.head);
    for (const Layer &layer : model_.layers) {
        widen(layer.qkv);
        widen(layer.output);
        widen(layer.gate_up);
        widen(layer.down);
        if (layer.experts.any()) {
            widen(layer.experts.gate_up);
            model_.experts.need(layer.experts, rows, shape_.hidden);
        }
        if (layer.mixer.any()) {
            const Mixer &mixer = layer.mixer;
            widen(mixer.in);
            widen(mixer.out);
            mixed = most(mixed, mixer.rows());
            gates = most(gates, int64_t(mixer.shape.value_heads) * GATES);
            mixed_out = most(mixed_out, mixer.values());
        }
        const pn_layer &own = layer.traits;
        head_rows = most(head_rows, own.attends ? model_.head_rows(layer) : 0);
        intermediate = most(intermediate, own.intermediate);
        branches = branches || own.parallel || (own.norms & (PN_AFTER_ATTENTION | PN_AFTER_MLP)) ||
                   (layer.experts.any() && own.residual_scale != 1.0F);
    }
    model_.hidden.need(tokens * shape_.hidden);
    model_.last.need(int64_t(input_.rows) * shape_.hidden);
    model_.heads.need(tokens * head_rows);
    model_.mixed.need(tokens * mixed);
    model_.gates.need(tokens * gates);
    model_.mixed_out.need(tokens * mixed_out);
    model_.attended.need(tokens * model_.attended_size());
    model_.gated.need(tokens * intermediate);
    model_.branch.need(branches ? tokens * shape_.hidden : 0);
    model_.partials.need(plan_.partials);
    model_.scratch.need(int64_t(model_.team.threads()) * ATTENTION_SCRATCH);
    model_.quantised.need(rows * columns + 64);
    model_.scales.need(rows * groups);
    model_.corrections.need(rows * groups);
}

} // namespace penstock
