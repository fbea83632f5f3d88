/* Latent attention around attention itself: a token's compressed key into the cache, queries to the
 * space of compressed keys, and results from there. */
#include "stepping.h"

namespace penstock {

namespace {

/* Tokens whose products with one head's matrix are one piece of work. */
constexpr int ROWS = 32;

const void *at(const void *first, int64_t elements, int element) {
    return static_cast<const char *>(first) + elements * (element == PN_F32 ? 4 : 2);
}

} // namespace

void Step::turn_latent(int index) {
    const Layer &layer = model_.layers[size_t(index)];
    const Latent &own = layer.latent;
    float *queries = model_.heads.get();
    int64_t stride = layer.head_rows();
    if (own.shape.query_rank > 0) {
        const Quantised in = quantised(own.query_up);
        const int rank = own.shape.query_rank;
        float *plain = adapters_.any() ? model_.plain.get() : nullptr;
        each_row(input_.tokens, [&](int token) {
            const float *row = model_.heads.get() + token * int64_t(layer.head_rows());
            kernels_.norm(row, own.query_norm, rank, in, token,
                          plain == nullptr ? nullptr : plain + int64_t(token) * rank);
        });
        queries = model_.queries.get();
        stride = own.query_rows(layer.traits.heads);
        Product of{&own.query_up, &in, Outlet::store, queries, stride, nullptr};
        of.added = added_to(PN_QUERY_UP, index, plain, rank, false, true);
        product(of, input_.tokens);
    }
    each_row(input_.tokens, [&](int token) {
        turn_latent(layer, queries + token * stride, token);
        if (own.indexes())
            turn_index(layer, queries + token * stride, token);
    });
    absorb(layer, queries, stride);
}

void Step::turn_latent(const Layer &layer, float *queries, int token) {
    const Latent &own = layer.latent;
    const int heads = layer.traits.heads;
    const Turning turning = turning_of(layer, token);
    LatentHeads of;
    of.queries = queries;
    of.key = model_.heads.get() + int64_t(token) * layer.head_rows() + layer.latent_key();
    of.heads = heads;
    of.rank = own.shape.rank;
    of.turned = own.shape.turned;
    of.plain = own.shape.plain;
    of.norm = own.norm;
    of.cosines = turning.cosines;
    of.sines = turning.sines;
    of.scale = query_scale(layer, token);
    of.attending = model_.attending.get() + int64_t(token) * heads * own.key_size();
    of.cache = cache_of(layer, token);
    of.small_cache = shape_.small_cache != 0;
    of.values_offset = layer.cache.values_offset;
    of.block_size = shape_.block_size;
    of.slot = plan_.position[size_t(token)] % shape_.block_size;
    kernels_.latent_heads(of);
}

/* The plain part of each query times its head's keys: what it finds in a compressed key. */
void Step::absorb(const Layer &layer, const float *queries, int64_t stride) {
    const Latent &own = layer.latent;
    const int heads = layer.traits.heads;
    const int64_t out_stride = int64_t(heads) * own.key_size();
    const int parts = (input_.tokens + ROWS - 1) / ROWS;
    model_.team.phase(heads * parts, 1, [&](int begin, int end) {
        for (int piece = begin; piece < end; piece++) {
            const int head = piece / parts;
            const int first = piece % parts * ROWS;
            const int last = first + ROWS < input_.tokens ? first + ROWS : input_.tokens;
            const int64_t matrix = int64_t(own.shape.rank) * own.shape.plain;
            const Scores of{queries + int64_t(head) * own.query_size(),
                            stride,
                            own.shape.plain,
                            at(own.keys, head * matrix, own.element),
                            own.element,
                            nullptr,
                            model_.attending.get() + int64_t(head) * own.key_size(),
                            out_stride};
            kernels_.scores(of, first, last, 0, own.shape.rank);
        }
    });
}

/* Attention's results in the space of compressed keys times each head's values, by row. */
void Step::expand(const Layer &layer, const Rows &rows) {
    const Latent &own = layer.latent;
    const int heads = layer.traits.heads;
    const int64_t size = layer.attended_size();
    each_row(rows.count, [&](int row) { attended(layer, token_of(rows, row)); });
    /* Rows that are wanted alone stand apart. */
    const int each = rows.wanted ? 1 : ROWS;
    const int parts = (rows.count + each - 1) / each;
    model_.team.phase(heads * parts, 1, [&](int begin, int end) {
        for (int piece = begin; piece < end; piece++) {
            const int head = piece / parts;
            const int row = piece % parts * each;
            const int count = row + each < rows.count ? each : rows.count - row;
            const int64_t matrix = int64_t(own.shape.value) * own.shape.rank;
            const int64_t out_stride = layer.output_columns();
            const Scores of{model_.attended.get() + token_of(rows, row) * size +
                                int64_t(head) * own.shape.rank,
                            size,
                            own.shape.rank,
                            at(own.values, head * matrix, own.element),
                            own.element,
                            nullptr,
                            model_.expanded.get() + row * out_stride +
                                int64_t(head) * own.shape.value,
                            out_stride};
            kernels_.scores(of, 0, count, 0, own.shape.value);
        }
    });
}

} // namespace penstock
