/* An index of the keys before a token, which chooses those that it sees. */
#pragma once

#include "mixers.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

void index_heads(const IndexHeads &of) {
    const int rotated = of.cosines == nullptr ? 0 : of.turned;
    const LatentTurn turning{rotated, rotated, of.cosines, of.sines};
    for (int head = 0; head < of.heads; head++)
        turn(of.queries + int64_t(head) * of.size, turning, 1.0F);
    norm_some(of.key, of.norm, moments_of(of.key, of.size, of.norm), 0, of.size, of.key);
    turn(of.key, turning, 1.0F);
    halves(of.key, of.size, of.to);
}

void index_scores(const IndexScores &of, int begin, int end) {
    float key[MAX_HEAD_SIZE];
    for (int position = begin; position < end; position++) {
        const int64_t block = of.blocks[position / of.block_size];
        widen(of.cache + block * of.block_stride + int64_t(position % of.block_size) * of.size,
              false, of.size, key);
        float sum = 0.0F;
        for (int head = 0; head < of.heads; head++) {
            const float match = dot(of.queries + int64_t(head) * of.size, key, of.size);
            sum = sum + of.weights[head] * (match > 0.0F ? match : 0.0F);
        }
        of.scores[position] = sum;
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
