/* A layer's experts with some rows, phase by phase. Every thread of `Crew` goes through the same
 * phases, which its `phase` hands out and ends, as `Team` does.
 *
 * An expert's rows are one product; each matrix is read once, and only of experts that were chosen. A
 * row's result is the sum of what all share and of its experts by their numbers, so that its bits hang
 * on nothing else in the step. */
#pragma once

#include <string.h>

#include "experts.h"

namespace penstock {

/* What all tokens share, beside the experts: an MLP whose rows are those of the step. */
struct SharedExpert {
    const Matrix *gate_up = nullptr; /* null: there is none */
    const Matrix *down = nullptr;
    const float *gate_up_bias = nullptr;
    const float *down_bias = nullptr;
    float *gated = nullptr; /* (rows, intermediate) */
    int64_t intermediate = 0;
    Outlet outlet = Outlet::gated; /* or activated */
    Gate gate = {};
};

template <typename Crew> class Mixture {
  public:
    /* `inputs`: the rows as inputs of `gate_up`, also of `shared`. */
    Mixture(Crew &crew, const Kernels &kernels, const Experts &experts, ExpertRoom &room,
            const Quantised &inputs, const SharedExpert &shared, int rows, int hidden)
        : crew_(crew), kernels_(kernels), experts_(experts), shape_(experts.shape), room_(room),
          inputs_(inputs), shared_(shared), rows_(rows), hidden_(hidden) {}

    /* Which experts have which rows, by `room.normed`. */
    void choose() {
        score();
        if (rows_ == 1)
            return crew_.phase(1, 1, [&](int, int) {
                route(0);
                room_.sort(shape_, 1);
            });
        crew_.phase(rows_, 1, [&](int begin, int end) {
            for (int row = begin; row < end; row++)
                route(row);
        });
        arrange();
    }

    /* The same where `room.chosen` and its weights are given. */
    void arrange() {
        crew_.phase(1, 1, [&](int, int) { room_.sort(shape_, rows_); });
        if (rows_ > 1)
            crew_.phase(assignments(), 1, [&](int begin, int end) {
                for (int at = begin; at < end; at++)
                    gather(at);
            });
    }

    void gate_up() {
        const int panels = experts_.gate_up.panels;
        const int routed = room_.used_count * panels;
        const int total = routed + (shared_.gate_up == nullptr ? 0 : shared_.gate_up->panels);
        crew_.phase(rows_ == 0 ? 0 : total, 1, [&](int begin, int end) {
            while (begin < end && begin < routed) {
                const int panel = begin % panels;
                const int rest = panels - panel;
                const int count = rest < end - begin ? rest : end - begin;
                if (begin / panels + 1 < room_.used_count)
                    ask_for(experts_.gate_up, room_.by_size.get()[begin / panels + 1], 0);
                gate_up_of(room_.by_size.get()[begin / panels], panel, panel + count);
                begin += count;
            }
            if (begin < end)
                shared_gate_up(begin - routed, end - routed);
        });
    }

    /* What gates let through, as inputs of `down`, and of `shared.down`: `shared_inner`. */
    void quantise(const Quantised &shared_inner) {
        const int total = assignments() + (shared_.gate_up == nullptr ? 0 : rows_);
        crew_.phase(total, 1, [&](int begin, int end) {
            for (int at = begin; at < end; at++)
                quantise_one(at, shared_inner);
        });
    }

    /* Add the results to `hidden`, (rows, hidden). */
    void down(const Quantised &shared_inner, float *hidden) {
        crew_.phase(rows_ == 0 ? 0 : experts_.down.panels, 1, [&](int begin, int end) {
            if (shared_.gate_up != nullptr)
                shared_down(shared_inner, hidden, begin, end);
            for (int at = 0; at < room_.used_count; at++) {
                if (at + 1 < room_.used_count)
                    ask_for(experts_.down, room_.used.get()[at + 1], begin);
                down_of(room_.used.get()[at], hidden, begin, end);
            }
        });
    }

  private:
    /* Rows and experts whose logits are one piece of work. */
    static constexpr int SCORED_ROWS = 32;
    static constexpr int SCORED_EXPERTS = 16;
    static constexpr int ASKED_LINES = 32; /* as far as a product looks ahead */

    int assignments() const { return rows_ * shape_.chosen; }
    int count_of(int expert) const {
        return room_.begins.get()[expert + 1] - room_.begins.get()[expert];
    }

    void score() {
        const Scores scores{room_.normed.get(),   hidden_,          hidden_,
                            experts_.router,      experts_.element, experts_.router_bias,
                            room_.scores.get(),   routing_room(shape_.experts)};
        const int across = (shape_.experts + SCORED_EXPERTS - 1) / SCORED_EXPERTS;
        const int along = (rows_ + SCORED_ROWS - 1) / SCORED_ROWS;
        crew_.phase(across * along, 1, [&](int begin, int end) {
            for (int at = begin; at < end; at++) {
                const int row = at / across * SCORED_ROWS;
                const int expert = at % across * SCORED_EXPERTS;
                kernels_.scores(scores, row, lesser(row + SCORED_ROWS, rows_), expert,
                                lesser(expert + SCORED_EXPERTS, shape_.experts));
            }
        });
    }

    void route(int row) {
        const int64_t first = int64_t(row) * shape_.chosen;
        kernels_.route(experts_.routing(),
                       room_.scores.get() + row * routing_room(shape_.experts),
                       room_.chosen.get() + first, room_.chosen_weights.get() + first);
    }

    void gather(int assignment) {
        const int row = room_.tokens.get()[assignment];
        const Quantised to = room_.inputs.of(experts_.gate_up, assignment);
        const int64_t from = int64_t(row) * inputs_.groups;
        const int64_t bytes = inputs_.stride * input_bytes(experts_.gate_up);
        memcpy(to.values, inputs_.values + row * bytes, size_t(bytes));
        memcpy(to.scales, inputs_.scales + from, size_t(inputs_.groups) * sizeof(float));
        const int each = corrections_a_group(inputs_.offset);
        memcpy(to.corrections, inputs_.corrections + from * each,
               size_t(inputs_.groups * each) * sizeof(int32_t));
    }

    /* Ask memory for the begin of an expert's panel, as no product that comes before it does. */
    static void ask_for(const Matrix &first, int expert, int panel) {
        const Matrix matrix = of_expert(first, expert);
        const uint8_t *bytes = matrix.packed + panel * matrix.panel_bytes;
        for (int line = 0; line < ASKED_LINES; line++)
            __builtin_prefetch(bytes + 64 * line, 0, 2);
    }

    void gate_up_of(int expert, int panel, int panel_end) {
        const Matrix matrix = of_expert(experts_.gate_up, expert);
        const int64_t first = room_.begins.get()[expert];
        const Quantised own =
            rows_ == 1 ? inputs_ : room_.inputs.of(experts_.gate_up, first);
        const float *bias = experts_.gate_up_bias;
        const int64_t outputs = (shape_.gated ? 2 : 1) * int64_t(shape_.intermediate);
        Product product{&matrix, &own, shape_.gated ? Outlet::gated : Outlet::activated,
                        room_.gated.get() + first * shape_.intermediate, shape_.intermediate,
                        bias == nullptr ? nullptr : bias + expert * outputs};
        product.gate = experts_.gate();
        kernels_.product(product, panel, panel_end, 0, count_of(expert));
    }

    void shared_gate_up(int panel, int panel_end) {
        Product product{shared_.gate_up, &inputs_,     shared_.outlet, shared_.gated,
                        shared_.intermediate, shared_.gate_up_bias};
        product.gate = shared_.gate;
        kernels_.product(product, panel, panel_end, 0, rows_);
    }

    void quantise_one(int at, const Quantised &shared_inner) {
        const int row = at - assignments();
        if (row < 0)
            return kernels_.quantise(room_.gated.get() + int64_t(at) * shape_.intermediate,
                                     shape_.intermediate, room_.inner.of(experts_.down), at);
        kernels_.quantise(shared_.gated + row * shared_.intermediate, int(shared_.intermediate),
                          shared_inner, row);
    }

    void shared_down(const Quantised &inner, float *hidden, int panel, int panel_end) {
        Product product{shared_.down, &inner, Outlet::add, hidden, hidden_, shared_.down_bias};
        product.weights = room_.shared_weights.get();
        kernels_.product(product, panel, panel_end, 0, rows_);
    }

    void down_of(int expert, float *hidden, int panel, int panel_end) {
        const Matrix matrix = of_expert(experts_.down, expert);
        const int64_t first = room_.begins.get()[expert];
        const Quantised own = room_.inner.of(experts_.down, first);
        const float *bias = experts_.down_bias;
        Product product{&matrix,     &own,    Outlet::add,
                        hidden,      hidden_, bias == nullptr ? nullptr
                                                              : bias + int64_t(expert) * hidden_};
        product.rows = room_.tokens.get() + first;
        product.weights = room_.weights.get() + first;
        kernels_.product(product, panel, panel_end, 0, count_of(expert));
    }

    static int lesser(int one, int other) { return one < other ? one : other; }

    Crew &crew_;
    const Kernels &kernels_;
    const Experts &experts_;
    const pn_experts &shape_;
    ExpertRoom &room_;
    const Quantised inputs_;
    const SharedExpert shared_;
    const int rows_;
    const int hidden_;
};

} // namespace penstock
