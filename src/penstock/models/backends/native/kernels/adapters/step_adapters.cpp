/* What adapters add to the products of a step. */
#include <string.h>

#include "stepping.h"

namespace penstock {

namespace {

/* Small results, and outputs, that are one piece of work. */
constexpr int SMALL_AT_ONCE = 8;
constexpr int OUTPUTS_AT_ONCE = 512;

int pieces_of(int64_t total, int each) { return int((total + each - 1) / each); }

} // namespace

/* What the step's adapters add to a matrix's outputs, before it is computed: two phases. `by_token`:
 * the rows of `inputs` are tokens, whatever the rows of the product are. */
Added Step::added_to(int which, int layer, const float *inputs, int64_t stride, bool wanted,
                     bool by_token) {
    const AdapterRows &rows = wanted ? adapters_.wanted : adapters_.tokens;
    if (rows.runs.empty())
        return {};
    pn_packing packing;
    matrix_place(model_, which, layer, &packing);
    const int64_t outputs = packing.rows;
    const int runs = int(rows.runs.size());
    const int pairs = adapters_.most_pairs;
    const int chunks = pieces_of(adapters_.rank, SMALL_AT_ONCE);
    float *small = model_.small.get();
    float *added = model_.added.get();
    bool any = false;
    for (const AdapterRun &run : rows.runs)
        any = any || !run.adapter->at(which, layer).empty();
    if (!any)
        return {};
    model_.team.phase(runs * pairs * chunks, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const AdapterRun &run = rows.runs[size_t(at / (pairs * chunks))];
            if (at % (pairs * chunks) == 0)
                memset(added + run.first * outputs, 0,
                       size_t(run.rows * outputs) * sizeof(float));
            const auto &own = run.adapter->at(which, layer);
            const size_t pair = size_t(at / chunks % pairs);
            const int first = at % chunks * SMALL_AT_ONCE;
            if (pair >= own.size() || first >= own[pair].of.rank)
                continue;
            const pn_low_rank &of = own[pair].of;
            const int rest = of.rank - first;
            Scores down;
            down.rows = inputs + (by_token ? run.token : run.first) * stride;
            down.stride = stride;
            down.size = of.columns;
            down.weights = of.down;
            down.element = of.element;
            down.bias = nullptr;
            down.out = small + run.first * adapters_.small + own[pair].first_small;
            down.out_stride = adapters_.small;
            kernels_.scores(down, 0, run.rows, first,
                            first + (rest < SMALL_AT_ONCE ? rest : SMALL_AT_ONCE));
        }
    });
    const int across = pieces_of(outputs, OUTPUTS_AT_ONCE);
    model_.team.phase(runs * pairs * across, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const AdapterRun &run = rows.runs[size_t(at / (pairs * across))];
            const auto &own = run.adapter->at(which, layer);
            const size_t pair = size_t(at / across % pairs);
            const int first = at % across * OUTPUTS_AT_ONCE;
            if (pair >= own.size() || first >= own[pair].of.outputs)
                continue;
            const pn_low_rank &of = own[pair].of;
            const int rest = of.outputs - first;
            Widening up;
            up.small = small + run.first * adapters_.small + own[pair].first_small;
            up.small_stride = adapters_.small;
            up.rank = of.rank;
            up.scale = of.scale;
            up.weights = of.up;
            up.stride = of.stride;
            up.element = of.element;
            up.out = added + run.first * outputs + of.first;
            up.out_stride = outputs;
            kernels_.widen_low_rank(up, run.rows, first,
                                    first + (rest < OUTPUTS_AT_ONCE ? rest : OUTPUTS_AT_ONCE));
        }
    });
    return {added, outputs, rows.uses.data()};
}

/* Where a row that a product takes in lies as it is, for the adapters. */
float *Step::plain_row(int row) {
    return adapters_.any() ? model_.plain.get() + int64_t(row) * shape_.hidden : nullptr;
}

const float *Step::plain_inputs(const Norm &norm, const float *hidden) const {
    return norm.weight == nullptr ? hidden : model_.plain.get();
}

/* Room for what adapters take in and give out. */
void Step::make_adapters_room() {
    if (!adapters_.any())
        return;
    int64_t outputs = model_.layer_inputs.rows;
    int64_t columns = shape_.hidden;
    const auto widen = [&](const Matrix &matrix) {
        outputs = matrix.rows > outputs ? matrix.rows : outputs;
    };
    for (const Layer &layer : model_.layers) {
        const int rank = layer.latent.shape.query_rank;
        columns = rank > columns ? rank : columns;
        for (const Matrix *matrix :
             {&layer.qkv, &layer.output, &layer.gate_up, &layer.down, &layer.mixer.in,
              &layer.mixer.out, &layer.latent.query_up, &layer.input_gate, &layer.input_up})
            widen(*matrix);
    }
    for (const auto &runs : {adapters_.tokens.runs, adapters_.wanted.runs})
        for (const AdapterRun &run : runs)
            if (!run.adapter->at(PN_HEAD, 0).empty())
                widen(model_.head);
    model_.plain.need(int64_t(input_.tokens) * columns);
    model_.small.need(int64_t(input_.tokens) * adapters_.small);
    model_.added.need(int64_t(input_.tokens) * outputs);
}

} // namespace penstock
