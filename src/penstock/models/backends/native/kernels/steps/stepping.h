/* One step of one model: what its threads do together. step.cpp has the way through the layers,
 * step_attention.cpp and step_latent.cpp their attention, step_index.cpp the keys that an index
 * chooses, step_mixer.cpp what stands in attention's place, step_inputs.cpp the layers' own inputs,
 * adapters/step_adapters.cpp what adapters add. */
#pragma once

#include <chrono>

#include "adapter.h"
#include "model.h"
#include "plan.h"
#include "step.h"

namespace penstock {

class Step {
  public:
    Step(Model &model, const pn_step_input &input, const Caches &caches, float *states,
         float *logits, float *hidden);
    void run();

  private:
    /* Rows of hidden states on their way through a layer: all tokens', or those that are wanted. */
    struct Rows {
        int count;
        float *hidden;
        bool wanted; /* row r is token input_.row_indices[r], else token r */
    };

    int token_of(const Rows &rows, int row) const {
        return rows.wanted ? input_.row_indices[row] : row;
    }

    void make_room();
    void work(int thread);
    void embed(int token);
    void tap(int index);
    void add_features(int index, int token);
    void layer(int index, int thread);
    void see_others(int index, int thread);
    void detour(int index, int thread);
    void mix_in(int index, const float *plain);
    void take_in(const Norm &norm, const Matrix &matrix, int rows, const float *hidden);
    void take_in_both(const Layer &layer);
    Rows past_attention(bool last);
    void mlp(int index, const Rows &rows, int thread);
    void mlp_beside(int index, const Rows &rows, int thread);
    void up(int index, const Rows &rows, const float *inputs, int thread);
    Added added_to_output(int index, const Rows &rows);
    Added added_to_down(int index, const Rows &rows);
    void mixture(const Layer &layer, const Rows &rows, float *out, int thread);
    void mlp_and_experts(int index, const Rows &rows, int thread);
    void give_back(const Matrix &matrix, const Norm &norm, const Rows &rows, const float *bias,
                   float scale, const Added &added);
    void add_branch(const Norm &norm, const Rows &rows, float scale);
    void add_rows(const float *from, const Norm &norm, int rows, float scale, float *to);
    void head(int thread);
    void lap(int thread, int phase);

    /* A token's row of a rotary table; `size` 0: it is not turned. */
    struct Turning {
        int size;
        const float *cosines;
        const float *sines;
    };

    void make_inputs();
    void take_own_input(int index, const Rows &rows, int thread);
    void look_up(const void *table, int element, int64_t row, int size, float *to);

    void attention(int index, int thread, bool wanted_only);
    const int32_t *blocks_of(const Layer &layer, int sequence) const;
    uint16_t *cache_of(const Layer &layer, int token) const;
    Turning turning_of(const Layer &layer, int token) const;
    float query_scale(const Layer &layer, int token) const;
    void turn(const Layer &layer, int token);
    void attend(const Layer &layer, int thread, bool wanted_only);
    float *attended(const Layer &layer, int token);
    void quantise_attended(const Layer &layer, const Rows &rows);

    void turn_latent(int index);
    void turn_latent(const Layer &layer, float *queries, int token);
    void turn_index(const Layer &layer, float *queries, int token);
    bool chooses(const Layer &layer) const;
    void choose_keys(const Layer &layer);
    void choose_keys_of(const Layer &layer, int token, float *scores, float *copy);
    void absorb(const Layer &layer, const float *queries, int64_t stride);
    void expand(const Layer &layer, const Rows &rows);

    float *state_of(const Mixer &mixer, int sequence) const;
    void mix(int index, int thread);
    void widen(int index);
    void convolve(const Mixer &mixer);
    void gate(const Mixer &mixer, int token);
    void recur(const Mixer &mixer);
    void quantise_mixed(const Mixer &mixer, int token, int row);

    void make_adapters_room();
    void look_ahead(int which, int layer, const AdapterRows &rows, int run);
    float *plain_row(int row);
    const float *plain_inputs(const Norm &norm, const float *hidden) const;
    Added added_to(int which, int layer, const float *inputs, int64_t stride, bool wanted,
                   bool by_token);

    void product(const Product &product, int rows);
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
    Caches caches_;
    float *states_;
    float *logits_;
    float *hidden_out_;
    Plan plan_;
    StepAdapters adapters_;
    std::chrono::steady_clock::time_point lap_; /* thread 0's last one */
};

} // namespace penstock
