/* How a block of the KV cache lies, in fp16 elements: by layer with attention, by head of keys and values,
 * its keys (padded, block_size), then its values (block_size, padded). Keys stand by dimension, so
 * that one vector holds the same dimension of neighbouring tokens and scores need no sums across
 * lanes. `padded` is the head's size filled up to sixteens. */
#pragma once

#include <stdint.h>

#include "penstock_native.h"

namespace penstock {

struct CacheLayout {
    int padded;
    int64_t values_offset; /* from a head's keys to its values */
    int64_t head_stride;
    int64_t layer_stride;
    int64_t block_stride;

    explicit CacheLayout(const pn_shape &shape)
        : padded((shape.head_size + 15) / 16 * 16),
          values_offset(int64_t(padded) * shape.block_size), head_stride(2 * values_offset),
          layer_stride(shape.kv_heads * head_stride),
          block_stride((shape.cached_layers == 0 ? shape.layers : shape.cached_layers) *
                       layer_stride) {}
};

} // namespace penstock
