#include "stepping.h"

namespace penstock {

void Step::attention(int index, int thread, bool wanted_only) {
    const Layer &layer = model_.layers[size_t(index)];
    if (layer.latent.any())
        turn_latent(index);
    else
        each_row(input_.tokens, [&](int token) { turn(layer, token); });
    if (layer.latent.indexes() && chooses(layer))
        choose_keys(layer);
    lap(thread, PN_PHASE_ROTATION);
    attend(layer, thread, wanted_only);
}

/* The block table of a sequence in the pool of a layer's keys and values. */
const int32_t *Step::blocks_of(const Layer &layer, int sequence) const {
    const int32_t *tables = layer.cache.pool ? input_.window_indices : input_.block_indices;
    return tables + input_.block_indices_begins[sequence];
}

uint16_t *Step::cache_of(const Layer &layer, int token) const {
    const int32_t *blocks = blocks_of(layer, plan_.sequence[size_t(token)]);
    const int64_t block = blocks[plan_.position[size_t(token)] / shape_.block_size];
    return caches_.pools[layer.cache.pool] + layer.cache.place +
           block * model_.block_strides[layer.cache.pool];
}

Step::Turning Step::turning_of(const Layer &layer, int token) const {
    const int rotation = layer.traits.rotation;
    const Rotary rotary = rotation < 0 ? Rotary{} : model_.rotary[rotation];
    if (rotary.size == 0)
        return {0, nullptr, nullptr};
    if (input_.turned != nullptr && input_.turned[token] != nullptr)
        return {rotary.size, input_.turned[token], input_.turned[token] + rotary.size};
    const int64_t at = int64_t(plan_.position[size_t(token)]) * rotary.size;
    return {rotary.size, rotary.cosines + at, rotary.sines + at};
}

float Step::query_scale(const Layer &layer, int token) const {
    const float scale = layer.traits.scale;
    return layer.traits.grows ? scale * model_.growth[plan_.position[size_t(token)]] : scale;
}

/* A token's queries and keys: normed, turned, and with its values in the cache. */
void Step::turn(const Layer &layer, int token) {
    const pn_layer &own = layer.traits;
    const Turning turning = turning_of(layer, token);
    Heads of;
    of.row = model_.heads.get() + int64_t(token) * layer.head_rows();
    of.heads = own.heads;
    of.kv_heads = layer.reads_others() ? 0 : own.kv_heads;
    of.size = own.head_size;
    of.query_norm = layer.query_norm;
    of.key_norm = layer.key_norm;
    of.value_norm = layer.value_norm;
    of.norm_stride = own.norms_by_head ? own.head_size : 0;
    of.norms_together = own.norms_together != 0;
    of.rotated = turning.size;
    of.cosines = turning.cosines;
    of.sines = turning.sines;
    of.scale = query_scale(layer, token);
    of.cache = cache_of(layer, token);
    of.small_cache = shape_.small_cache != 0;
    of.values_offset = layer.cache.values_offset;
    of.head_stride = layer.cache.head_stride;
    of.block_size = shape_.block_size;
    of.slot = plan_.position[size_t(token)] % shape_.block_size;
    kernels_.heads(of);
}

void Step::attend(const Layer &layer, int thread, bool wanted_only) {
    const int heads = layer.traits.heads;
    const int together = layer.together();
    const int parts = heads / together;
    const int sharing = heads / layer.cached_heads();
    const bool latent = layer.latent.any();
    const float *queries = latent ? model_.attending.get() : model_.heads.get();
    const int64_t stride = latent ? int64_t(heads) * layer.key_size() : layer.head_rows();
    const int size = layer.value_size();
    const int pieces = int(plan_.pieces.size()) * parts;
    const int64_t words = plan_.words();
    const uint64_t *chosen = chooses(layer) ? model_.chosen.get() : nullptr;
    model_.team.phase(pieces, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            /* The longest first: a prompt's last tokens have most to look at. */
            const int reversed = pieces - 1 - at;
            const Piece &piece = plan_.pieces[size_t(reversed / parts)];
            if (wanted_only && !piece.wanted)
                continue;
            const int64_t first_head = int64_t(reversed % parts) * together;
            Attention of;
            of.queries = queries + piece.first_token * stride + first_head * layer.key_size();
            of.query_stride = stride;
            of.tokens = piece.tokens;
            of.first_position = plan_.position[size_t(piece.first_token)];
            of.heads = together;
            of.size = layer.key_size();
            of.value_size = size;
            of.padded = layer.cache.padded;
            of.cache = caches_.pools[layer.cache.pool] + layer.cache.place +
                       first_head / sharing * layer.cache.head_stride;
            of.block_stride = model_.block_strides[layer.cache.pool];
            of.values_offset = layer.cache.values_offset;
            of.small_cache = shape_.small_cache != 0;
            of.blocks = blocks_of(layer, piece.sequence);
            of.block_size = shape_.block_size;
            of.window = layer.traits.window;
            of.chosen = chosen == nullptr ? nullptr : chosen + piece.first_token * words;
            of.chosen_stride = words;
            of.soft_cap = layer.traits.soft_cap;
            of.sinks = layer.sinks == nullptr ? nullptr : layer.sinks + first_head;
            of.first_split = piece.first_split;
            of.last_split = piece.last_split;
            of.out = model_.attended.get() +
                     int64_t(piece.first_token) * layer.attended_size() + first_head * size;
            of.out_stride = layer.attended_size();
            of.partials = nullptr;
            if (piece.partials >= 0)
                of.partials = model_.partials.get() + piece.partials +
                              (int64_t(piece.first_split) * heads + first_head) * (size + 2);
            of.scratch = model_.scratch.get() + int64_t(thread) * ATTENTION_SCRATCH;
            kernels_.attend(of);
        }
    });
}

/* A token's attention as a whole: its splits joined, and gated. */
float *Step::attended(const Layer &layer, int token) {
    float *attended = model_.attended.get() + int64_t(token) * layer.attended_size();
    const int index = plan_.apart_of[size_t(token)];
    if (index >= 0) {
        const Apart &apart = plan_.apart[size_t(index)];
        kernels_.join(model_.partials.get() + apart.partials, apart.splits, layer.traits.heads,
                      layer.value_size(), layer.sinks, attended);
    }
    if (layer.traits.gated_attention) {
        const float *gates = model_.heads.get() + int64_t(token) * layer.head_rows() + layer.gates();
        kernels_.multiply(attended, gates, layer.attended_size(), true);
    }
    return attended;
}

/* Attention's results as rows of the product that follows. */
void Step::quantise_attended(const Layer &layer, const Rows &rows) {
    const Quantised to = quantised(layer.output);
    const int columns = layer.output_columns();
    if (layer.latent.any()) {
        expand(layer, rows);
        return each_row(rows.count, [&](int row) {
            kernels_.quantise(model_.expanded.get() + int64_t(row) * columns, columns, to, row);
        });
    }
    each_row(rows.count, [&](int row) {
        kernels_.quantise(attended(layer, token_of(rows, row)), columns, to, row);
    });
}

} // namespace penstock
