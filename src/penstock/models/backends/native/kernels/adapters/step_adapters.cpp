/* What adapters add to the products of a step. */
#include "stepping.h"

namespace penstock {

namespace {

/* Small results that are one piece of work. */
constexpr int SMALL_AT_ONCE = 8;
constexpr int64_t LINE_BYTES = 64;

/* Whether a pair before it has the same small results, as parts of a fused matrix may. */
bool is_shared(const std::vector<LowRank> &pairs, size_t pair) {
    for (size_t before = 0; before < pair; before++)
        if (pairs[before].first_small == pairs[pair].first_small)
            return true;
    return false;
}

/* The matrix whose product comes after that of another one, in most layers; -1: unknown. */
int next_of(int which) {
    switch (which) {
    case PN_QKV:
        return PN_OUTPUT;
    case PN_OUTPUT:
    case PN_MIXER_OUT:
        return PN_GATE_UP;
    case PN_MIXER_IN:
        return PN_MIXER_OUT;
    case PN_GATE_UP:
        return PN_DOWN;
    default:
        return which == PN_DOWN ? PN_QKV : -1;
    }
}

Span span_of(const LowRank &pair) {
    const int64_t element = pair.element == PN_F32 ? 4 : 2;
    return {static_cast<const uint8_t *>(pair.down),
            (element * pair.rank * pair.columns + LINE_BYTES - 1) / LINE_BYTES};
}

} // namespace

/* What the next product's small results will read of a run's adapter. */
void Step::look_ahead(int which, int layer, const AdapterRows &rows, int run) {
    const int next = next_of(which);
    const int its_layer = which == PN_DOWN ? layer + 1 : layer;
    Span *spans = adapters_.coming.data() + int64_t(run) * adapters_.most_pairs;
    for (int at = 0; at < adapters_.most_pairs; at++)
        spans[at] = {nullptr, 0};
    if (next < 0 || its_layer == shape_.layers)
        return;
    const auto &own = rows.runs[size_t(run)].adapter->at(next, its_layer);
    for (size_t pair = 0; pair < own.size(); pair++)
        if (!is_shared(own, pair))
            spans[pair] = span_of(own[pair]);
}

/* What the step's adapters add to a matrix's outputs: their small results, in a phase before its
 * product. `by_token`: the rows of `inputs` are tokens, whatever the rows of the product are. */
Added Step::added_to(int which, int layer, const float *inputs, int64_t stride, bool wanted,
                     bool by_token) {
    const AdapterRows &rows = wanted ? adapters_.wanted : adapters_.tokens;
    bool any = false;
    for (const AdapterRun &run : rows.runs)
        any = any || !run.adapter->at(which, layer).empty();
    if (!any)
        return {};
    const int runs = int(rows.runs.size());
    const int chunks = (adapters_.rank + SMALL_AT_ONCE - 1) / SMALL_AT_ONCE;
    const int each = adapters_.most_pairs * chunks;
    float *small = model_.small.get();
    model_.team.phase(runs * each, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const AdapterRun &run = rows.runs[size_t(at / each)];
            const auto &own = run.adapter->at(which, layer);
            const int32_t *places = rows.rows.data() + run.first;
            if (at % each == 0) {
                adapters_.runs[size_t(at / each)] = {places, run.count, own.data(), int(own.size())};
                look_ahead(which, layer, rows, at / each);
            }
            const size_t pair = size_t(at % each / chunks);
            const int first = at % chunks * SMALL_AT_ONCE;
            if (pair >= own.size() || first >= own[pair].rank || is_shared(own, pair))
                continue;
            const LowRank &of = own[pair];
            Scores down{inputs, stride, of.columns, of.down, of.element, nullptr,
                        small + of.first_small, adapters_.small, of.scale};
            down.from = by_token ? rows.tokens.data() + run.first : places;
            down.to = places;
            const int rest = of.rank - first;
            kernels_.scores(down, 0, run.count, first,
                            first + (rest < SMALL_AT_ONCE ? rest : SMALL_AT_ONCE));
        }
    });
    return {adapters_.runs.data(), runs,
            small,                 adapters_.small,
            adapters_.coming.data(), runs * adapters_.most_pairs};
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
    int64_t columns = (model_.detours() ? 2 : 1) * int64_t(shape_.hidden);
    for (const Layer &layer : model_.layers) {
        const int rank = layer.latent.shape.query_rank;
        columns = rank > columns ? rank : columns;
    }
    model_.plain.need(int64_t(input_.tokens) * columns);
    model_.small.need(int64_t(input_.tokens) * adapters_.small);
}

} // namespace penstock
