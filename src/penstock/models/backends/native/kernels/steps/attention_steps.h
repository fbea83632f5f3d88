/* Attention over a cache that torch keeps, step by step, by torch's own threads. */
#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "buffer.h"
#include "kernels.h"
#include "penstock_native.h"
#include "plan.h"

namespace penstock {

class AttentionSteps {
  public:
    AttentionSteps(int isa, pn_parallel parallel);

    /* See pn_attention_...; `begin` and `attend` throw std::bad_alloc. */
    void begin(const pn_step_input &input, int block_size);
    void rotate(const pn_torch_cache &cache, const pn_rotation &rotation, void *qkv, int threads);
    void attend(const pn_torch_cache &cache, const void *queries, int64_t token_stride,
                int64_t head_stride, void *out, int threads);

    /* A line about why a cache cannot be this step's, or null. */
    const char *fault_of(const pn_torch_cache &cache) const;

    int longest() const { return longest_; } /* of the step's sequences, in tokens */

  private:
    struct Attending; /* one call of `attend` */

    /* `each(begin, end, thread)` for all of 0 to `total`, `some` at a time, by up to `threads`. */
    template <typename Each> void share(int total, int some, int threads, Each each);

    void cut(const pn_torch_cache &cache);
    void piece(const Attending &call, int at, int thread);
    void join(const Attending &call, int index, int head, int thread);

    const Kernels &kernels_;
    pn_parallel parallel_;
    pn_step_input input_{};
    int block_size_ = 0;
    int longest_ = 0;
    int most_block_ = 0;
    std::vector<int32_t> past_lens_;
    std::vector<int32_t> begins_;
    std::vector<int32_t> blocks_;
    std::vector<int32_t> block_begins_;
    std::vector<int32_t> owner_; /* by token: its sequence */

    /* Of the step and one number of heads. */
    pn_shape heads_{};
    std::unique_ptr<Plan> plan_;
    int64_t work_ = 0; /* keys times queries times their size */
    std::vector<std::atomic<int32_t>> left_; /* splits that a token's head still lacks */
    Buffer<float> partials_;
    Buffer<float> scratch_;
};

} // namespace penstock
