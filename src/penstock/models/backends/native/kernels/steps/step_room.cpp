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
    int64_t attended = 0;
    int64_t latent_queries = 0;
    int64_t attending = 0;
    int64_t expanded = 0;
    bool apart = false;
    int64_t mixed = 0;
    int64_t gates = 0;
    int64_t mixed_out = 0;
    bool branches = false;
    bool chooses = false;
    bool wide = false;
    const auto widen = [&](const Matrix &matrix) {
        const int64_t padded = int64_t(matrix.groups) * matrix.group;
        columns = most(columns, padded * input_bytes(matrix));
        groups = most(groups, matrix.groups);
    };
    widen(model_.head);
    widen(model_.layer_inputs);
    for (const Layer &layer : model_.layers) {
        widen(layer.qkv);
        widen(layer.output);
        widen(layer.gate_up);
        widen(layer.down);
        widen(layer.detour);
        widen(layer.input_gate);
        widen(layer.input_up);
        widen(layer.latent.query_up);
        if (layer.experts.any()) {
            widen(layer.experts.gate_up);
            model_.experts.need(layer.experts, rows, shape_.hidden);
            apart = apart || layer.experts.shape.apart;
        }
        if (layer.mixer.any()) {
            const Mixer &mixer = layer.mixer;
            widen(mixer.in);
            widen(mixer.out);
            widen(mixer.step_up);
            widen(mixer.gate_up);
            mixed = most(mixed, mixer.stride());
            gates = most(gates, int64_t(mixer.shape.value_heads) * GATES);
            mixed_out = most(mixed_out, mixer.values());
        }
        const pn_layer &own = layer.traits;
        if (own.attends) {
            head_rows = most(head_rows, layer.head_rows());
            attended = most(attended, layer.attended_size());
        }
        if (layer.latent.any()) {
            latent_queries = most(latent_queries, layer.latent.query_rows(own.heads));
            chooses = chooses || this->chooses(layer);
            attending = most(attending, int64_t(own.heads) * layer.key_size());
            expanded = most(expanded, layer.output_columns());
        }
        intermediate = most(intermediate, own.intermediate);
        wide = wide || own.wide;
        branches = branches || own.parallel || apart || model_.traits.layer_inputs > 0 ||
                   (own.norms & (PN_AFTER_ATTENTION | PN_AFTER_MLP)) ||
                   (layer.experts.any() && own.residual_scale != 1.0F);
    }
    make_adapters_room();
    model_.hidden.need(tokens * shape_.hidden);
    model_.last.need(int64_t(input_.rows) * shape_.hidden);
    model_.heads.need(tokens * head_rows);
    model_.mixed.need(tokens * mixed);
    model_.gates.need(tokens * gates);
    model_.mixed_out.need(tokens * mixed_out);
    model_.attended.need(tokens * attended);
    model_.queries.need(tokens * latent_queries);
    model_.attending.need(tokens * attending);
    model_.expanded.need(tokens * expanded);
    model_.chosen.need(chooses ? tokens * plan_.words() : 0);
    model_.index_scores.need(chooses ? 2 * CHOOSING * plan_.longest : 0);
    model_.inputs.need(tokens * model_.input_values());
    model_.projected.need(tokens * model_.input_values());
    model_.gated.need(tokens * most(intermediate, model_.traits.layer_inputs));
    model_.wide.need(wide ? tokens * 2 * shape_.hidden : 0);
    model_.branch.need(branches ? tokens * shape_.hidden : 0);
    model_.both.need(apart ? tokens * shape_.hidden : 0);
    const int64_t aside = model_.detours() ? tokens * shape_.hidden : 0;
    model_.embedded.need(aside);
    model_.beside.need(2 * aside);
    model_.aside.need(aside);
    model_.partials.need(plan_.partials);
    model_.scratch.need(int64_t(model_.team.threads()) * ATTENTION_SCRATCH);
    model_.quantised.need(rows * columns + 64);
    model_.scales.need(rows * groups);
    model_.corrections.need(rows * groups * 2); /* two a group at most */
}

} // namespace penstock
