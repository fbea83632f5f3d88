/* What a step asks of the vector units, as a table of functions that each instruction set fills.
 *
 * Files that include this with an instruction set's flags must use nothing of the C++ library: the
 * linker could keep their copy of a template for CPUs that lack the instructions.
 */
#pragma once

#include <stdint.h>

namespace penstock {

/* A panel is what a product computes at once: 32 outputs, along all columns. */
constexpr int PANEL = 32;
constexpr int HALF_PANEL = 16;
constexpr int SUPERBLOCK_GROUPS = 8; /* of PN_K4 to PN_K6 */
constexpr int QUADRUPLE = 4; /* columns that one 32-bit lane holds */
constexpr int OFFSET_I4 = 8; /* stored values are unsigned: what was added to make them so */
constexpr int OFFSET_I8 = 128;
constexpr int OFFSET_K6 = 32;
constexpr int OFFSET_PLAIN = -2; /* of a product whose inputs are fp32: they are not quantised */
constexpr int OFFSET_NESTED = -3; /* of PN_K4 to PN_K6 */
constexpr int OFFSET_AFFINE = -1; /* of codes with offsets of their own: a correction is a plain sum */

/* Rows of a product that are computed with a panel before the next. */
constexpr int PRODUCT_ROWS = 96;

/* Keys whose attention is computed at once. The sum over a context is cut at its multiples, always,
 * so that its bits do not hang on how many threads share it. */
constexpr int SPLIT = 512;

/* A packed matrix; packing.h has its bytes. */
struct Matrix {
    const uint8_t *packed = nullptr;
    int kind = 0;
    int layout = 0;
    int rows = 0;
    int columns = 0;
    int group = 0;
    int groups = 0;
    int panels = 0;
    int64_t panel_bytes = 0;
    const int32_t *order = nullptr; /* (columns): which of the input's columns each one is; or null */
    int tail_panel = 0; /* the first one of rows that are held as another kind; 0: there are none */
    int tail_kind = 0;
    int64_t tail_bytes = 0; /* of one of these panels */
};

/* Rows of a product's input. Row r: `values` + r `stride` (int8, zeros past the columns; with
 * OFFSET_PLAIN fp32), `scales` and `corrections` + r `groups`. A correction is -offset times the sum
 * of a group's values: what the weights' offset has added to its dot product. With OFFSET_NESTED there
 * are two a group, each -OFFSET_K6 times the sum of a half. */
struct Quantised {
    int8_t *values;
    float *scales;
    int32_t *corrections;
    int64_t stride;
    int group;
    int groups;
    int offset;
    const int32_t *order = nullptr; /* the matrix's */

    float *floats() const { return reinterpret_cast<float *>(values); }
};

constexpr int corrections_a_group(int offset) { return offset == OFFSET_NESTED ? 2 : 1; }

enum class Outlet {
    store,    /* out = product + bias */
    add,      /* out += product + bias */
    activated, /* out = activation(product + bias) */
    gated     /* out = activation(gate) * up, for a paired matrix */
};

/* How a row is normed. `bias` may be null. */
struct Norm {
    const float *weight = nullptr; /* null: there is no norm */
    const float *bias = nullptr;
    int kind = 0; /* PN_RMS_NORM or PN_LAYER_NORM */
    float epsilon = 0.0F;
};

/* What a gate does to its up, of a paired matrix; or an activation to its input. */
struct Gate {
    int kind = 0; /* PN_SILU, ... */
    float alpha = 1.0F;
    float limit = 0.0F;
    float scale = 1.0F; /* of a gate, before all else */
};

/* One pair of an adapter's small matrices: up (down x) is added to some outputs of a matrix. */
struct LowRank {
    int rank;
    int element;      /* of both */
    int columns;      /* of `down` */
    float scale;      /* of down x */
    const void *down; /* (rank, columns) */
    const void *up;   /* (blocks, rank, 16): by sixteen outputs, zeros where it adds nothing */
    int first;        /* output; of a paired matrix ups begin behind whole panels of gates */
    int outputs;
    int first_block; /* of sixteen outputs */
    int blocks;
    int first_small; /* its place among the small results of all pairs of its matrix */
};

/* Rows that one adapter changes, rising: MOST_RUN at most. */
struct AddedRun {
    const int32_t *rows;
    int rows_count;
    const LowRank *pairs; /* of the matrix at hand */
    int pairs_count;
};

constexpr int MOST_RUN = 32;

/* Cache lines one after another. */
struct Span {
    const uint8_t *first;
    int64_t lines;
};

/* What adapters add to a product's outputs; row r's small results are `small` + r `stride`.
 * `coming` is what the small results of the next product read: a product of many rows waits for the
 * cores and not for memory, and asks for it on the way. */
struct Added {
    const AddedRun *runs = nullptr;
    int runs_count = 0;
    const float *small = nullptr;
    int64_t stride = 0;
    const Span *coming = nullptr;
    int coming_count = 0;
};

struct Product {
    const Matrix *matrix;
    const Quantised *input;
    Outlet outlet;
    float *out;
    int64_t out_stride;
    const float *bias; /* or null; of a paired matrix the gates', then the ups' */
    Gate gate = {};
    float scale = 1.0F; /* of outputs, their bias included, unless they are gated */
    float cap = 0.0F;   /* c: then outputs become c tanh(output / c); 0: they do not */
    const int32_t *rows = nullptr;  /* where an input row's outputs go; null: its own number */
    const float *weights = nullptr; /* of input rows: outputs, their bias included, times it */
    Added added = {}; /* before the bias */
};

/* Products of rows with a small matrix that stays as it is stored, such as a router's. */
struct Scores {
    const float *rows; /* `size` values each, `stride` apart */
    int64_t stride;
    int size;
    const void *weights; /* (outputs, size) elements */
    int element;
    const float *bias; /* (outputs), or null */
    float *out;
    int64_t out_stride;
    float scale = 1.0F;            /* of what goes out */
    const int32_t *from = nullptr; /* where each row lies; null: at its own number */
    const int32_t *to = nullptr;   /* where its outputs go */
};

constexpr int MAX_GROUPS = 64;
constexpr int MAX_GROUP_BEST = 8;

/* How a router's scores choose experts and weigh them; see `pn_experts`. */
struct Routing {
    int experts;
    int chosen;
    int scoring;
    bool normalise;
    float least_sum;
    float added_sum;
    float scale;
    int groups;
    int chosen_groups;
    int group_best;
    const float *correction; /* (experts), or null: added to scores as they choose, not as they weigh */
    const float *scales = nullptr; /* (experts), or null: of the weights of those chosen */
};

/* One token's queries, keys and values, side by side, after their product. */
struct Heads {
    float *row;
    int heads;
    int kv_heads;
    int size;
    Norm query_norm; /* by head, with weights of `norm_stride` from head to head */
    Norm key_norm;
    Norm value_norm; /* by head, with one weight for all */
    int norm_stride;
    bool norms_together; /* over all heads */
    int rotated;          /* elements of each head that are turned */
    const float *cosines; /* of the token's position */
    const float *sines;
    float scale;     /* of the queries: 1 / sqrt(size) */
    uint16_t *cache; /* the token's block, this layer; see cache.h */
    bool small_cache;
    int64_t values_offset; /* as in `Attention`, and the next from head to head */
    int64_t head_stride;
    int block_size;
    int slot; /* the token's place in its block */
};

/* One token's queries and compressed key of latent attention; see `pn_latent`. */
struct LatentHeads {
    float *queries; /* (heads, plain + turned), in place: turned and scaled */
    float *key;     /* rank + turned, in place */
    int heads;
    int rank;
    int turned;
    int plain;
    Norm norm;
    const float *cosines; /* of the token's position; null: nothing is turned */
    const float *sines;
    float scale;
    float *attending; /* (heads, rank + turned): the last of each head are written */
    uint16_t *cache;  /* the token's block, this layer */
    bool small_cache;
    int64_t values_offset;
    int block_size;
    int slot;
};

/* One token's queries of an index, and its key of it. */
struct IndexHeads {
    float *queries; /* (heads, size), in place: their first `turned` are turned */
    float *key;     /* (size), in place: normed, then the same */
    int heads;
    int size;
    int turned;
    Norm norm;
    const float *cosines; /* of the token's position; null: nothing is turned */
    const float *sines;
    uint16_t *to; /* where its key lies in the cache */
};

/* What an index says of the keys before a token: by position the sum over its heads of a weight times
 * what is above 0 of query times key. */
struct IndexScores {
    const float *queries; /* (heads, size) */
    const float *weights; /* (heads) */
    int heads;
    int size; /* a multiple of 16 */
    const uint16_t *cache; /* this layer's keys of the index in block 0 */
    int64_t block_stride;
    int block_size;
    const int32_t *blocks; /* the sequence's */
    float *scores;
};

/* Attention of some tokens of one sequence, for the heads that share a head of keys and values. */
struct Attention {
    const float *queries; /* the first token's, the first of these heads */
    int64_t query_stride; /* from token to token */
    int tokens;
    int first_position;
    int heads;
    int size;
    int value_size;
    int padded;             /* `value_size` as values lie in the cache */
    const uint16_t *cache;  /* block 0, this layer, keys of this head */
    int64_t block_stride;   /* from block to block */
    int64_t values_offset;  /* from a block's keys to its values */
    bool small_cache;       /* its elements are INT8; offsets and strides count halves all the same */
    const int32_t *blocks;  /* the sequence's */
    int block_size;
    int window;             /* keys that a query sees at most; 0: all */
    const uint64_t *chosen; /* its first token's bits by position: whether it is seen; or null */
    int64_t chosen_stride;  /* from token to token */
    float soft_cap;         /* c: scores become c tanh(score / c); 0: they do not */
    const float *sinks;     /* one of each of these heads, or null */
    int first_split;
    int last_split;         /* one past the end */
    float *out;             /* finished: as queries lie, `out_stride` from token to token */
    int64_t out_stride;
    float *partials;        /* else, by split, head: maximum, sum, `value_size` values. One token only. */
    float *scratch;         /* ATTENTION_SCRATCH floats */
};

/* One token's queries, keys and values as torch holds them, side by side, after their product.
 * Elements, here and below: PN_F32, PN_F16 or PN_BF16; strides count them. */
struct TorchHeads {
    void *row;
    int element;
    int heads;
    int kv_heads;
    int size;               /* a multiple of 16 */
    const void *query_norm; /* or null */
    const void *key_norm;
    float epsilon;
    const float *cosines; /* of the token's position, size / 2 */
    const float *sines;
    void *keys; /* the token's place in the cache, its first head */
    void *values;
    int64_t head_stride; /* from head to head, in the cache */
};

/* The same piece of work as `Attention`, over a cache that torch keeps: a token's key, or value, of
 * a head is `size` elements in a row. */
struct TorchAttention {
    const void *queries; /* the first token's, the first of these heads */
    int64_t token_stride;
    int64_t head_stride;
    int element;
    int tokens;
    int first_position;
    int heads;
    int size;         /* a multiple of 16 */
    float scale;      /* of the queries */
    const void *keys; /* block 0, this head */
    const void *values;
    int64_t block_stride;
    int64_t slot_stride; /* from token to token within a block */
    const int32_t *blocks;
    int block_size;      /* a multiple of 16 */
    int window;
    int first_split;
    int last_split;
    void *out;           /* finished: heads side by side, `out_stride` from token to token */
    int64_t out_stride;
    float *partials;     /* else, as in `Attention` */
    float *scratch;      /* `torch_scratch` floats */
};

constexpr int MAX_CONVOLUTION = 8; /* tokens that a convolution sees */

/* A causal convolution by channel of some tokens of a sequence, in place. `inputs` and what they, and
 * the results, are multiplied by (or null) lie `stride` apart from token to token. */
struct Convolution {
    float *inputs;
    const float *before;
    const float *after;
    int64_t stride;
    int tokens;
    int channels; /* a multiple of 16 */
    int first_channel;
    int last_channel;
    int width;           /* tokens that it sees */
    const float *weight; /* (width, channels) */
    const float *bias;   /* (channels), or null */
    bool swish;          /* of the results, before `after` */
    float *state;        /* (width - 1, channels): the inputs before; they become the last ones */
    bool fresh;          /* there are none */
};

constexpr int GATES = 3; /* of a token and a head: decay, weight of its value, query times key */

/* What a token does to each head's state. */
struct Gating {
    float *row; /* all queries, then all keys */
    int key_heads;
    int value_heads;
    int key_size;
    bool delta;           /* the gated delta rule; else a state space's discretisation */
    bool keyed;           /* of the delta rule: a step for each element of a key */
    float *steps;         /* (value_heads); keyed (key_heads, key_size): decays take their place */
    const float *weights; /* (value_heads); of the delta rule */
    const float *step_bias;
    const float *rates;
    float step_scale; /* before the bias is added */
    float least_step; /* of a state space */
    float most_step;
    float *out; /* (value_heads, GATES) */
};

/* Some columns of one head's state along some tokens of a sequence: S = decay S + key added, where
 * added is the value times its weight; by the delta rule less what the key finds in decay S. Then
 * out = query S, of a state space + skip value. With `decays`, each row of S has its own. */
struct Recurrence {
    const float *queries; /* the first token's, this head's; `stride` to the next */
    const float *keys;
    const float *values;
    int64_t stride;
    const float *decays; /* (key_size) of the first token, `stride` to the next; or null */
    const float *gates;
    int64_t gates_stride;
    int tokens;
    int key_size;   /* a multiple of 16, as the next */
    int value_size;
    int first_column; /* multiples of 16 */
    int last_column;
    bool delta;
    float skip;
    float *state; /* (key_size, value_size) */
    bool fresh;   /* it is all zeros, whatever it holds */
    float *out;
    int64_t out_stride;
};

/* A token's results of all heads, in place: normed by parts and gated, in either order. */
struct Outcome {
    float *row;
    const float *gates;
    float gate_scale;
    int size; /* a multiple of 16 */
    int order;
    struct {
        const float *weight;
        int size; /* of a part; a multiple of 16 that divides `size` */
        float epsilon;
    } norm;
};

constexpr int CHOOSING = 16; /* tokens whose keys are chosen at once */
constexpr int QUERIES = 8; /* that an attention computes side by side */
constexpr int MAX_HEAD_SIZE = 512;
constexpr int MAX_TURNED = 256; /* of latent attention's keys */
constexpr int ATTENTION_SCRATCH = QUERIES * (SPLIT + MAX_HEAD_SIZE * 2 + 16);

constexpr int64_t torch_scratch(int items, int size) {
    return int64_t(items) * (2 * size + 2) + QUERIES * (SPLIT + MAX_HEAD_SIZE) +
           int64_t(SPLIT) * size;
}

/* Floats that `route` needs for so many experts. */
constexpr int64_t routing_room(int experts) { return 2 * ((int64_t(experts) + 15) / 16 * 16); }

struct Kernels {
    /* x normed, quantised as row `row` of `out`; also as it is to `plain` unless null. */
    void (*norm)(const float *x, const Norm &how, int size, const Quantised &out, int row,
                 float *plain);
    /* to += scale * x; x normed unless there is no norm. */
    void (*add)(const float *x, const Norm &how, int size, float scale, float *to);
    /* fp16, or bf16, to fp32. */
    void (*widen)(const uint16_t *from, bool brain, int size, float *to);
    void (*quantise)(const float *x, int size, const Quantised &out, int row);
    /* Rows [row, row_end) of panels [panel, panel_end). */
    void (*product)(const Product &product, int panel, int panel_end, int row, int row_end);
    void (*heads)(const Heads &heads);
    void (*latent_heads)(const LatentHeads &heads);
    void (*attend)(const Attention &attention);
    /* Join what `attend` left of `splits` splits of `heads` heads; out: (heads, size). `sinks`: one a
     * head, or null. */
    void (*join)(const float *partials, int splits, int heads, int size, const float *sinks,
                 float *out);
    /* Do nothing but `times` times PEAK_PRODUCTS products; returns what keeps them from being left
     * out. */
    int32_t (*dots)(int64_t times);
    void (*torch_heads)(const TorchHeads &heads);
    void (*attend_torch)(const TorchAttention &attention);
    /* fp32 to elements, as torch rounds; `size` is a multiple of 8. */
    void (*narrow)(const float *from, int size, int element, void *to);
    /* Rows [row, row_end) with outputs [output, output_end). */
    void (*scores)(const Scores &scores, int row, int row_end, int output, int output_end);
    /* One token's experts and their weights, the likeliest first. `scores` are `routing_room` floats
     * of which the router's logits are the first; they are lost. */
    void (*route)(const Routing &routing, float *scores, int32_t *experts, float *weights);
    /* 1 / (1 + e^-x) of a row's product with `weight`. */
    float (*switched)(const float *row, const float *weight, int size);
    void (*convolve)(const Convolution &convolution);
    void (*gating)(const Gating &gating);
    void (*recur)(const Recurrence &recurrence);
    void (*give_out)(const Outcome &outcome);
    /* x *= by, or 1 / (1 + e^-by); `size` is a multiple of 16. */
    void (*multiply)(float *x, const float *by, int size, bool switches);
    void (*index_heads)(const IndexHeads &heads);
    /* Positions [begin, end). */
    void (*index_scores)(const IndexScores &scores, int begin, int end);
};

constexpr int64_t PEAK_PRODUCTS = 1536;

extern const Kernels KERNELS_AVX2;
extern const Kernels KERNELS_AVX_VNNI;
extern const Kernels KERNELS_AVX512;

} // namespace penstock
