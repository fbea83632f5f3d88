#include "stepping.h"

namespace penstock {

void Step::attention(int index, int thread, bool wanted_only) {
    const Layer &layer = model_.layers[size_t(index)];
    const CacheLayout &layout = model_.cache;
    uint16_t *cache = cache_ + layer.cached * layout.layer_stride;
    const int stride = model_.head_rows(layer);
    const int size = shape_.head_size;
    each_row(input_.tokens, [&](int token) { turn(layer, cache, token); });
    lap(thread, PN_PHASE_ROTATION);
    const int heads = shape_.heads / shape_.kv_heads;
    const int pieces = int(plan_.pieces.size()) * shape_.kv_heads;
    model_.team.phase(pieces, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            /* The longest first: a prompt's last tokens have most to look at. */
            const int reversed = pieces - 1 - at;
            const Piece &piece = plan_.pieces[size_t(reversed / shape_.kv_heads)];
            if (wanted_only && !piece.wanted)
                continue;
            const int head = reversed % shape_.kv_heads;
            const int64_t first_head = int64_t(head) * heads;
            Attention of;
            of.queries = model_.heads.get() +
                         int64_t(piece.first_token) * stride + first_head * size;
            of.query_stride = stride;
            of.tokens = piece.tokens;
            of.first_position = plan_.position[size_t(piece.first_token)];
            of.heads = heads;
            of.size = size;
            of.padded = layout.padded;
            of.cache = cache + head * layout.head_stride;
            of.block_stride = layout.block_stride;
            of.values_offset = layout.values_offset;
            of.blocks = input_.block_indices + input_.block_indices_begins[piece.sequence];
            of.block_size = shape_.block_size;
            of.window = layer.traits.window;
            of.soft_cap = layer.traits.soft_cap;
            of.sinks = layer.sinks == nullptr ? nullptr : layer.sinks + first_head;
            of.first_split = piece.first_split;
            of.last_split = piece.last_split;
            of.out = model_.attended.get() +
                     int64_t(piece.first_token) * model_.attended_size() + first_head * size;
            of.out_stride = model_.attended_size();
            of.partials = nullptr;
            if (piece.partials >= 0)
                of.partials = model_.partials.get() + piece.partials +
                              (int64_t(piece.first_split) * shape_.heads + first_head) * (size + 2);
            of.scratch = model_.scratch.get() + int64_t(thread) * ATTENTION_SCRATCH;
            kernels_.attend(of);
        }
    });
}

/* A token's queries and keys: normed, turned, and with its values in the cache. */
void Step::turn(const Layer &layer, uint16_t *cache, int token) {
    const int position = plan_.position[size_t(token)];
    const int sequence = plan_.sequence[size_t(token)];
    const int32_t *blocks = input_.block_indices + input_.block_indices_begins[sequence];
    const int64_t block = blocks[position / shape_.block_size];
    const pn_layer &own = layer.traits;
    const Rotary rotary = own.rotation < 0 ? Rotary{} : model_.rotary[own.rotation];
    const int64_t at = int64_t(position) * rotary.size;
    Heads of;
    of.row = model_.heads.get() + int64_t(token) * model_.head_rows(layer);
    of.heads = shape_.heads;
    of.kv_heads = shape_.kv_heads;
    of.size = shape_.head_size;
    of.query_norm = layer.query_norm;
    of.key_norm = layer.key_norm;
    of.norm_stride = own.norms_by_head ? shape_.head_size : 0;
    of.norms_together = own.norms_together != 0;
    of.rotated = rotary.size;
    of.cosines = rotary.size == 0 ? nullptr : rotary.cosines + at;
    of.sines = rotary.size == 0 ? nullptr : rotary.sines + at;
    if (rotary.size != 0 && input_.turned != nullptr && input_.turned[token] != nullptr) {
        of.cosines = input_.turned[token];
        of.sines = of.cosines + rotary.size;
    }
    of.scale = own.grows ? own.scale * model_.growth[position] : own.scale;
    of.cache = cache + block * model_.cache.block_stride;
    of.block_size = shape_.block_size;
    of.slot = position % shape_.block_size;
    kernels_.heads(of);
}

/* A token's attention, as row `row` of the product that follows. */
void Step::quantise_attended(const Layer &layer, int token, int row) {
    float *attended = model_.attended.get() + int64_t(token) * model_.attended_size();
    const int index = plan_.apart_of[size_t(token)];
    if (index >= 0) {
        const Apart &apart = plan_.apart[size_t(index)];
        kernels_.join(model_.partials.get() + apart.partials, apart.splits, shape_.heads,
                      shape_.head_size, layer.sinks, attended);
    }
    if (layer.traits.gated_attention) {
        const float *gates = model_.heads.get() + int64_t(token) * model_.head_rows(layer) +
                             model_.head_rows();
        kernels_.multiply(attended, gates, model_.attended_size(), true);
    }
    kernels_.quantise(attended, model_.attended_size(), quantised(layer.output), row);
}

} // namespace penstock
