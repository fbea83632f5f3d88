/* The keys that a token sees where it may see but some: an index chooses them. */
#include <algorithm>
#include <functional>
#include <string.h>

#include "stepping.h"

namespace penstock {

namespace {

/* Keys of a token's scores that are one piece of work. */
constexpr int KEYS = 512;

} // namespace

/* Whether a token of this step has more keys before it than a layer lets it see. */
bool Step::chooses(const Layer &layer) const {
    const int most = layer.latent.shape.most_keys;
    return most > 0 && plan_.longest > most;
}

/* A token's part of the index: its key into the cache, its queries turned. */
void Step::turn_index(const Layer &layer, float *queries, int token) {
    const Latent &own = layer.latent;
    const Turning turning = turning_of(layer, token);
    IndexHeads of;
    of.queries = queries + int64_t(layer.traits.heads) * own.query_size();
    of.key = model_.heads.get() + int64_t(token) * layer.head_rows() + layer.index_key();
    of.heads = own.shape.index_heads;
    of.size = own.shape.index_size;
    of.turned = own.shape.turned;
    of.norm = own.index_norm;
    of.cosines = turning.cosines;
    of.sines = turning.sines;
    const int slot = plan_.position[size_t(token)] % shape_.block_size;
    of.to = cache_of(layer, token) + layer.cache.index_offset + int64_t(slot) * of.size;
    kernels_.index_heads(of);
}

/* What each token sees, for this layer and those behind it that have no index. */
void Step::choose_keys(const Layer &layer) {
    const Latent &own = layer.latent;
    const int64_t stride = own.query_rows(layer.traits.heads);
    const int across = (plan_.longest + KEYS - 1) / KEYS;
    float *scores = model_.index_scores.get();
    float *copies = scores + int64_t(CHOOSING) * plan_.longest;
    for (int first = 0; first < input_.tokens; first += CHOOSING) {
        const int count = std::min(CHOOSING, input_.tokens - first);
        model_.team.phase(count * across, 1, [&](int begin, int end) {
            for (int at = begin; at < end; at++) {
                const int token = first + at / across;
                const int seen = plan_.position[size_t(token)] + 1;
                const int from = at % across * KEYS;
                const int to = std::min(from + KEYS, seen);
                if (seen <= own.shape.most_keys || from >= to)
                    continue;
                IndexScores of;
                of.queries = model_.queries.get() + token * stride +
                             int64_t(layer.traits.heads) * own.query_size();
                of.heads = own.shape.index_heads;
                of.size = own.shape.index_size;
                of.weights = model_.heads.get() + int64_t(token) * layer.head_rows() +
                             layer.index_key() + of.size;
                of.cache = caches_.pools[layer.cache.pool] + layer.cache.place +
                           layer.cache.index_offset;
                of.block_stride = model_.block_strides[layer.cache.pool];
                of.block_size = shape_.block_size;
                of.blocks = blocks_of(layer, plan_.sequence[size_t(token)]);
                of.scores = scores + int64_t(token - first) * plan_.longest;
                kernels_.index_scores(of, from, to);
            }
        });
        model_.team.phase(count, 1, [&](int begin, int end) {
            for (int at = begin; at < end; at++)
                choose_keys_of(layer, first + at, scores + int64_t(at) * plan_.longest,
                               copies + int64_t(at) * plan_.longest);
        });
    }
}

/* The bits of a token's keys with the greatest scores; of equal ones the first. */
void Step::choose_keys_of(const Layer &layer, int token, float *scores, float *copy) {
    const int seen = plan_.position[size_t(token)] + 1;
    const int most = layer.latent.shape.most_keys;
    uint64_t *bits = model_.chosen.get() + token * plan_.words();
    memset(bits, 0, size_t(plan_.words()) * sizeof(uint64_t));
    float least = 0.0F;
    int equal = seen; /* of those with the least score so many are seen */
    if (seen > most) {
        std::copy(scores, scores + seen, copy);
        std::nth_element(copy, copy + most - 1, copy + seen, std::greater<float>());
        least = copy[most - 1];
        equal = most - int(std::count_if(scores, scores + seen,
                                         [&](float score) { return score > least; }));
    }
    for (int position = 0; position < seen; position++) {
        if (seen > most && scores[position] < least)
            continue;
        if (seen > most && scores[position] == least && equal-- <= 0)
            continue;
        bits[position / 64] |= uint64_t(1) << (position % 64);
    }
}

} // namespace penstock
