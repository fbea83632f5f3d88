/* How a layer's part of a block of the KV cache lies, in fp16 elements: by head of keys and values, its
 * keys (padded, block_size), then its values (block_size, padded). Keys stand by dimension, so that one
 * vector holds the same dimension of neighbouring tokens and scores need no sums across lanes. `padded`
 * is the head's size filled up to sixteens. Last come the keys of an index, (block_size, size) fp16.
 *
 * In a small cache these are INT8 with 128 added, four numbers that one product adds up side by side:
 * keys (padded / 4, block_size, 4 dimensions), values (block_size / 4, padded, 4 tokens). Behind each of
 * the two are scales, (block_size) fp32. */
#pragma once

#include <stdint.h>

namespace penstock {

struct LayerCache {
    int pool = 0;      /* 1: blocks of the window cache */
    int64_t place = 0; /* in a block, from its begin */
    int padded = 0;    /* of values */
    int64_t values_offset = 0; /* from a head's keys to its values */
    int64_t index_offset = 0; /* from a head's keys to those of its index */
    int64_t head_stride = 0;

    void lay(int key_size, int value_size, int index_size, int block_size, bool small) {
        padded = filled(value_size);
        const int64_t each = small ? 2 : 1; /* elements that take the place of one */
        const int64_t scales = small ? 2 * int64_t(block_size) : 0;
        values_offset = int64_t(filled(key_size)) * block_size / each + scales;
        index_offset = values_offset + int64_t(padded) * block_size / each + scales;
        head_stride = index_offset + int64_t(index_size) * block_size;
    }

  private:
    static int filled(int size) { return (size + 15) / 16 * 16; }
};

} // namespace penstock
