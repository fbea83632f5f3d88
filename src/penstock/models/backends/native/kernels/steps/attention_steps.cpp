#include "attention_steps.h"

#include <utility>

#include "cpu.h"

namespace penstock {

namespace {

/* Below so many products a step is done before other threads have heard of it. */
constexpr int64_t WORTH_SHARING = 1 << 18;

/* Tokens whose heads are turned as one piece of work. */
constexpr int TURNED_TOGETHER = 8;

int64_t element_bytes(const pn_torch_cache &cache) { return cache.element == PN_F32 ? 4 : 2; }

char *at(void *first, int64_t elements, const pn_torch_cache &cache) {
    return static_cast<char *>(first) + elements * element_bytes(cache);
}

const char *at(const void *first, int64_t elements, const pn_torch_cache &cache) {
    return static_cast<const char *>(first) + elements * element_bytes(cache);
}

} // namespace

struct AttentionSteps::Attending {
    const pn_torch_cache &cache;
    const void *queries;
    int64_t token_stride;
    int64_t head_stride;
    void *out;
    int group;       /* heads that share a head of keys and values */
    int64_t scratch; /* floats a thread */

    /* Of a token whose splits are computed apart: where those of a head of keys begin. */
    int64_t partials_of(const Apart &apart, int head) const {
        const int64_t one = int64_t(group) * (cache.head_size + 2);
        return apart.partials + head * apart.splits * one;
    }
};

AttentionSteps::AttentionSteps(int isa, pn_parallel parallel)
    : kernels_(kernels_of(isa)), parallel_(parallel) {}

template <typename Each>
void AttentionSteps::share(int total, int some, int threads, Each each) {
    if (threads < 2 || parallel_ == nullptr || total <= some) {
        each(0, total, 0);
        return;
    }
    struct Shared {
        Each &each;
        int total;
        int some;
        std::atomic<int> next{0};
        std::atomic<int> threads{0};
    } shared{each, total, some};
    parallel_(
        [](void *context) {
            Shared &own = *static_cast<Shared *>(context);
            const int thread = own.threads.fetch_add(1);
            for (;;) {
                const int begin = own.next.fetch_add(own.some);
                if (begin >= own.total)
                    return;
                const int end = begin + own.some;
                own.each(begin, end < own.total ? end : own.total, thread);
            }
        },
        &shared, unsigned(threads), 0);
}

void AttentionSteps::begin(const pn_step_input &input, int block_size) {
    plan_.reset();
    input_ = pn_step_input{};
    const size_t sequences = size_t(input.sequences);
    past_lens_.assign(input.past_lens, input.past_lens + sequences);
    begins_.assign(input.subsequence_begins, input.subsequence_begins + sequences + 1);
    block_begins_.assign(input.block_indices_begins, input.block_indices_begins + sequences + 1);
    blocks_.assign(input.block_indices, input.block_indices + block_begins_[sequences]);
    block_size_ = block_size;
    longest_ = 0;
    most_block_ = 0;
    owner_.resize(size_t(input.tokens));
    for (size_t owner = 0; owner < sequences; owner++) {
        const int length = past_lens_[owner] + begins_[owner + 1] - begins_[owner];
        longest_ = length > longest_ ? length : longest_;
        for (int token = begins_[owner]; token < begins_[owner + 1]; token++)
            owner_[size_t(token)] = int32_t(owner);
    }
    for (const int32_t block : blocks_)
        most_block_ = block > most_block_ ? block : most_block_;
    input_.tokens = input.tokens;
    input_.sequences = input.sequences;
    input_.past_lens = past_lens_.data();
    input_.subsequence_begins = begins_.data();
    input_.block_indices = blocks_.data();
    input_.block_indices_begins = block_begins_.data();
}

const char *AttentionSteps::fault_of(const pn_torch_cache &cache) const {
    if (input_.tokens == 0)
        return "no step was begun";
    if (cache.keys == nullptr || cache.values == nullptr)
        return "there is no cache";
    if (cache.element < PN_F32 || cache.element > PN_BF16)
        return "elements are fp32, fp16 or bf16";
    if (cache.heads < 1 || cache.kv_heads < 1 || cache.heads % cache.kv_heads)
        return "the heads of keys do not divide those of queries";
    if (cache.head_size < 16 || cache.head_size % 16 || cache.head_size > MAX_HEAD_SIZE)
        return "a head's size is a multiple of 16, up to 512";
    if (cache.block_size != block_size_)
        return "the cache's blocks are of another size than the step's";
    if (most_block_ >= cache.blocks)
        return "a block is outside the cache";
    if (cache.window < 0)
        return "a window is negative";
    return nullptr;
}

void AttentionSteps::rotate(const pn_torch_cache &cache, const pn_rotation &rotation, void *qkv,
                            int threads) {
    const int heads = cache.heads + 2 * cache.kv_heads;
    const int64_t row = int64_t(heads) * cache.head_size;
    const int half = cache.head_size / 2;
    if (input_.tokens * row < WORTH_SHARING / 8)
        threads = 1;
    share(input_.tokens, TURNED_TOGETHER, threads, [&](int begin, int end, int) {
        for (int token = begin; token < end; token++) {
            const int owner = owner_[size_t(token)];
            const int64_t position =
                past_lens_[size_t(owner)] + token - begins_[size_t(owner)];
            const int32_t *blocks = blocks_.data() + block_begins_[size_t(owner)];
            const int64_t place = blocks[position / block_size_] * cache.block_stride +
                                  position % block_size_ * cache.slot_stride;
            kernels_.torch_heads({at(qkv, token * row, cache), cache.element, cache.heads,
                                  cache.kv_heads, cache.head_size, rotation.query_norm,
                                  rotation.key_norm, rotation.epsilon,
                                  rotation.cosines + position * half,
                                  rotation.sines + position * half, at(cache.keys, place, cache),
                                  at(cache.values, place, cache), cache.head_stride});
        }
    });
}

/* The step's pieces of attention for so many heads. Layers mostly have the same. */
void AttentionSteps::cut(const pn_torch_cache &cache) {
    if (plan_ != nullptr && heads_.heads == cache.heads && heads_.kv_heads == cache.kv_heads &&
        heads_.head_size == cache.head_size)
        return;
    plan_.reset();
    heads_.heads = cache.heads;
    heads_.kv_heads = cache.kv_heads;
    heads_.head_size = cache.head_size;
    auto plan = std::make_unique<Plan>(heads_.heads / heads_.kv_heads,
                                       int64_t(heads_.heads) * (heads_.head_size + 2), input_);
    const size_t left = plan->apart.size() * size_t(cache.kv_heads);
    if (left_.size() < left)
        left_ = std::vector<std::atomic<int32_t>>(left);
    partials_.need(plan->partials);
    work_ = 0;
    for (const Piece &piece : plan->pieces) {
        const int end = plan->position[size_t(piece.first_token)] + piece.tokens;
        const int keys = end - piece.first_split * SPLIT;
        work_ += int64_t(piece.tokens) * (keys < SPLIT || piece.partials < 0 ? keys : SPLIT);
    }
    work_ *= int64_t(cache.heads) * cache.head_size;
    plan_ = std::move(plan);
}

void AttentionSteps::attend(const pn_torch_cache &cache, const void *queries,
                            int64_t token_stride, int64_t head_stride, void *out, int threads) {
    cut(cache);
    int most = 1;
    for (const Piece &piece : plan_->pieces)
        most = piece.tokens > most ? piece.tokens : most;
    const int group = cache.heads / cache.kv_heads;
    const Attending call{cache, queries, token_stride, head_stride, out, group,
                         torch_scratch(most * group, cache.head_size)};
    if (work_ < WORTH_SHARING)
        threads = 1;
    scratch_.need(call.scratch * threads);
    for (size_t token = 0; token < plan_->apart.size(); token++)
        for (int head = 0; head < cache.kv_heads; head++)
            left_[token * size_t(cache.kv_heads) + size_t(head)].store(plan_->apart[token].splits);
    const int pieces = int(plan_->pieces.size()) * cache.kv_heads;
    share(pieces, 1, threads, [&](int begin, int end, int thread) {
        for (int number = begin; number < end; number++)
            piece(call, pieces - 1 - number, thread); /* the longest first, as in step.cpp */
    });
}

void AttentionSteps::piece(const Attending &call, int number, int thread) {
    const pn_torch_cache &cache = call.cache;
    const Piece &piece = plan_->pieces[size_t(number / cache.kv_heads)];
    const int head = number % cache.kv_heads;
    const int64_t first_head = int64_t(head) * call.group;
    const int64_t row = int64_t(cache.heads) * cache.head_size;
    TorchAttention of;
    of.queries = at(call.queries,
                    piece.first_token * call.token_stride + first_head * call.head_stride, cache);
    of.token_stride = call.token_stride;
    of.head_stride = call.head_stride;
    of.element = cache.element;
    of.tokens = piece.tokens;
    of.first_position = plan_->position[size_t(piece.first_token)];
    of.heads = call.group;
    of.size = cache.head_size;
    of.scale = cache.scale;
    of.keys = at(cache.keys, head * cache.head_stride, cache);
    of.values = at(cache.values, head * cache.head_stride, cache);
    of.block_stride = cache.block_stride;
    of.slot_stride = cache.slot_stride;
    of.blocks = blocks_.data() + block_begins_[size_t(piece.sequence)];
    of.block_size = block_size_;
    of.window = cache.window;
    of.first_split = piece.first_split;
    of.last_split = piece.last_split;
    of.out = at(call.out, piece.first_token * row + first_head * cache.head_size, cache);
    of.out_stride = row;
    const int apart = plan_->apart_of[size_t(piece.first_token)];
    of.partials = nullptr;
    if (apart >= 0)
        of.partials = partials_.get() + call.partials_of(plan_->apart[size_t(apart)], head) +
                      int64_t(piece.first_split) * call.group * (cache.head_size + 2);
    of.scratch = scratch_.get() + thread * call.scratch;
    kernels_.attend_torch(of);
    if (apart >= 0)
        join(call, apart, head, thread);
}

/* Whoever adds the last split of a token's heads joins them. */
void AttentionSteps::join(const Attending &call, int index, int head, int thread) {
    const pn_torch_cache &cache = call.cache;
    if (left_[size_t(index * cache.kv_heads + head)].fetch_sub(1) > 1)
        return;
    const Apart &apart = plan_->apart[size_t(index)];
    float *joined = scratch_.get() + thread * call.scratch;
    kernels_.join(partials_.get() + call.partials_of(apart, head), apart.splits, call.group,
                  cache.head_size, nullptr, joined);
    const int64_t place = (int64_t(apart.token) * cache.heads + head * call.group) * cache.head_size;
    kernels_.narrow(joined, call.group * cache.head_size, cache.element,
                    at(call.out, place, cache));
}

} // namespace penstock
