/* The forward step of decoder-only models on x86-64 CPUs: quantised weights with INT8 activations, or
 * weights as they are stored with activations in fp32.
 *
 * Build: every .cpp file here becomes one object, then one shared library.
 *
 *     common: -std=c++17 -O3 -fPIC -fvisibility=hidden -ffp-contract=off -Wall -Wextra -pthread
 *     kernels_avx2.cpp        adds -mavx2 -mfma -mf16c
 *     kernels_avx_vnni.cpp    adds -mavx2 -mfma -mf16c -mavxvnni
 *     kernels_avx512.cpp      adds -mavx2 -mfma -mf16c -mavx512f -mavx512bw -mavx512vl -mavx512dq
 *                                  -mavx512vnni
 *     all others              no further flags: they run on every x86-64 CPU
 *     link: -shared -pthread, all objects, to libpenstock_native.so
 *
 * (`zig c++ -target x86_64-linux-gnu.2.17` or g++ 12 and later.) -ffp-contract=off matters: a row's
 * result must not hang on which instructions a compiler joins in which variant.
 *
 * What it computes: h += O(attention(norm(h))); h += down(silu(gate(norm(h))) * up(norm(h))), with
 * grouped-query attention over a paged KV cache, RMS norms, rotation by tables, optional biases and
 * optional norms of q and k. `pn_layer` and `pn_traits` have what models differ in: windows, where
 * norms stand and of which kind, activations, parallel residuals, scales, soft caps; of layers with
 * experts just those are computed that a token's router chooses. Every product's input is quantised to INT8, symmetrically, with a scale a group of columns; integer sums inside a
 * group, fp32 across groups and everywhere else.
 *
 * Promise: a token's logits have the same bits whatever else is in its step, however its prompt was
 * cut into chunks, however many threads compute, and with whichever instruction set.
 *
 * Conventions: matrices are row-major, a row is one output of the layer. Pointers given to
 * `pn_set_*` are borrowed: the memory must stay as it is until `pn_destroy`. Functions return a
 * PN_... code; after one that is not PN_OK, `pn_last_error` has a line about it (of the calling
 * thread). Nothing here aborts or throws. One model is one caller's at a time.
 */
#ifndef PENSTOCK_NATIVE_H
#define PENSTOCK_NATIVE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* This header's version: what the caller was written for must equal `pn_abi()`. */
#define PN_ABI 14

/* Return codes. */
enum {
    PN_OK = 0,
    PN_BAD_ARGUMENT = 1, /* a size, pointer or id that cannot be */
    PN_UNSUPPORTED = 2,  /* this CPU or this library lacks it */
    PN_NO_MEMORY = 3,
    PN_INCOMPLETE = 4 /* a step before all weights were set */
};

/* Instruction sets, best last. All give the same bits. */
enum { PN_ISA_BEST = 0, PN_ISA_AVX2 = 1, PN_ISA_AVX_VNNI = 2, PN_ISA_AVX512_VNNI = 3 };

/* How a matrix is quantised. */
enum {
    PN_I4 = 1, /* (rows, columns / 2) bytes, two's complement nibbles, even columns low; scales
                  (rows, columns / group) fp16; group 32, 64 or 128 divides columns */
    PN_I8 = 2, /* (rows, columns) int8; scales (rows) fp32; group 32, 64 or 128 is the activations'
                  own and need not divide columns */
    /* Codes without sign: of 4 bits (rows, columns / 2) bytes, even columns low; of up to 8 bits
     * (rows, columns). Scales (rows, groups, 2): each with a zero, scale * (code - zero), in fp16; or
     * with an offset, scale * code + offset, in fp32. Group 16, 32, 64 or 128 divides columns. */
    PN_Z4 = 3,
    PN_Z8 = 4,
    PN_A4 = 5,
    PN_A8 = 6,
    /* Not quantised: (rows, columns) of fp16, bf16 or fp32, no scales. Inputs are fp32 then; group 32, 64
     * or 128 need not divide columns. */
    PN_W16 = 7,
    PN_WB16 = 8,
    PN_W32 = 9,
    /* GGUF's Q4_K, Q5_K and Q6_K: codes without sign, of 4 bits as above, of 5 and 6 a byte each. Scales
     * (rows, columns / 256) runs of bytes: of the first two, with groups of 32 columns, an fp16 d and an
     * fp16 m, then 8 bytes s and 8 bytes t, one of each a group: d s * code - m t. Of the last, with
     * groups of 16, an fp16 d, then 16 signed bytes s: d s * (code - 32). Group 32 (the activations'),
     * columns whole 256s. */
    PN_K4 = 10,
    PN_K5 = 11,
    PN_K6 = 12
};

/* How the parts of a fused matrix lie: one after another (q, k, v), or rows in turn (gate, up). */
enum { PN_STACKED = 0, PN_PAIRED = 1 };

/* Which matrix. Rows x columns in terms of `pn_shape`: */
enum {
    PN_QKV = 0,     /* (heads + 2 kv_heads) head_size x hidden (of a wide layer 2 hidden), stacked q,
                       k, v; where attention is
                       gated heads head_size more, the gates; of a layer that reads another's keys q
                       alone; of latent attention see pn_latent; of a layer that detours x 2 hidden */
    PN_OUTPUT = 1,  /* hidden x heads head_size, or of latent attention heads value */
    PN_GATE_UP = 2, /* 2 intermediate x hidden, paired gate, up; without a gate up, stacked */
    PN_DOWN = 3,    /* hidden x intermediate */
    PN_HEAD = 4,    /* vocabulary x hidden; layer is ignored */
    /* Of a layer with experts (`pn_set_experts`): one packing for each of them, the packed matrices
     * of all one after another. The layer's PN_GATE_UP and PN_DOWN are what all tokens share. */
    PN_EXPERTS_GATE_UP = 5, /* 2 experts.intermediate x hidden, paired; without gates half, stacked */
    PN_EXPERTS_DOWN = 6,    /* hidden x experts.intermediate */
    /* Of a layer that mixes (`pn_set_mixer`), packed as its PN_QKV is: */
    PN_MIXER_IN = 7, /* stacked: see pn_mixer */
    PN_MIXER_OUT = 8, /* hidden x value_heads value_size */
    PN_QUERY_UP = 9,  /* of latent attention: heads (plain + turned) x query_rank; with an index
                         index_heads index_size rows more, its queries */
    /* Of a model with inputs by layer (`pn_traits.layer_inputs`): */
    PN_LAYER_INPUTS = 10, /* layers layer_inputs x hidden; layer is ignored */
    PN_INPUT_GATE = 11,   /* layer_inputs x hidden */
    PN_INPUT_UP = 12,     /* hidden x layer_inputs */
    PN_DETOUR = 13,        /* hidden x hidden: of a layer that detours */
    /* Of PN_KEYED_DELTA: */
    PN_STEP_UP = 14,       /* key_heads key_size x step_rank */
    PN_MIXER_GATE_UP = 15, /* value_heads value_size x gate_rank */
    PN_MATRICES = 16
};

/* Which vector, fp32. */
enum {
    PN_INPUT_NORM = 0,     /* hidden: before attention; of a layer that detours 2 hidden */
    PN_ATTENTION_NORM = 1, /* hidden: after attention, before gate and up */
    PN_FINAL_NORM = 2,     /* hidden; layer is ignored */
    PN_QUERY_NORM = 3,     /* head_size, or with norms_by_head heads head_size */
    PN_KEY_NORM = 4,       /* head_size, or with norms_by_head kv_heads head_size */
    PN_QKV_BIAS = 5,       /* as many as PN_QKV has rows; optional */
    PN_OUTPUT_BIAS = 6,    /* hidden; optional */
    PN_GATE_UP_BIAS = 7,   /* 2 intermediate, gate's then up's; optional */
    PN_DOWN_BIAS = 8,      /* hidden; optional */
    /* Of a layer with experts, all optional: */
    PN_ROUTER_BIAS = 9,           /* experts */
    PN_ROUTER_CORRECTION = 10,    /* experts: added to scores as they choose, not as they weigh */
    PN_EXPERTS_GATE_UP_BIAS = 11, /* experts x 2 intermediate, each gate's, then up's */
    PN_EXPERTS_DOWN_BIAS = 12,    /* experts x hidden */
    PN_SHARED_GATE = 13,          /* hidden: what all share, times the sigmoid of its product */
    PN_ATTENTION_OUT_NORM = 20,   /* hidden: of what attention adds */
    PN_MLP_OUT_NORM = 21,         /* hidden: of what the MLP adds */
    PN_INPUT_NORM_BIAS = 22,      /* hidden; optional, as the next two */
    PN_ATTENTION_NORM_BIAS = 23,  /* hidden */
    PN_FINAL_NORM_BIAS = 24,      /* hidden; layer is ignored */
    PN_SINKS = 25,                /* heads: logits that take part in the softmax; optional */
    /* Of a layer that mixes: */
    PN_CONVOLUTION = 30,      /* width x channels */
    PN_CONVOLUTION_BIAS = 31, /* channels; optional */
    PN_DECAY_RATES = 32,      /* value_heads: e to A_log */
    PN_STEP_BIAS = 33,        /* value_heads; of PN_KEYED_DELTA key_heads key_size */
    PN_SKIP = 34,             /* value_heads; of PN_STATE_SPACE */
    PN_MIXER_NORM = 35,       /* value_heads value_size; unless PN_GATE_ALONE */
    PN_MIXER_IN_BIAS = 36,    /* as many as PN_MIXER_IN has rows; optional */
    PN_MIXER_OUT_BIAS = 37,   /* hidden; optional */
    PN_VALUE_NORM = 40,       /* head_size: of each head's values, RMS; optional */
    PN_LAYER_SCALE = 41,      /* 1: of hidden states behind the layer; optional */
    PN_QUERY_RANK_NORM = 42,  /* query_rank; of latent attention, as the next */
    PN_LATENT_NORM = 43,      /* rank */
    PN_LAYER_INPUTS_NORM = 44, /* layer_inputs; layer is ignored */
    PN_INPUT_OUT_NORM = 45,   /* hidden: of what a layer's own input adds */
    /* Of a layer whose experts and MLP are normed apart (`pn_experts.apart`): */
    PN_ROUTER_NORM = 46,      /* hidden: of what the router sees */
    PN_EXPERTS_IN_NORM = 47,  /* hidden: of what experts take */
    PN_DENSE_OUT_NORM = 48,   /* hidden: of the MLP's outputs */
    PN_EXPERTS_OUT_NORM = 49, /* hidden: of the experts' */
    PN_EXPERT_SCALES = 50,    /* experts: of the weights of those chosen; optional */
    PN_MIXER_INPUT_NORM = 51, /* hidden: before the mixer of a layer that detours */
    /* Of latent attention with an index: */
    PN_INDEX_NORM = 52,     /* index_size: of its keys, a layer norm */
    PN_INDEX_NORM_BIAS = 53 /* index_size */
};

/* Kinds of norms. */
enum {
    PN_NO_NORM = 0,
    PN_RMS_NORM = 1,  /* w x / rms(x) */
    PN_LAYER_NORM = 2 /* w (x - mean) / deviation + b */
};

/* Where a layer has norms; `pn_layer.norms` is the sum. */
enum {
    PN_BEFORE_ATTENTION = 1,
    PN_AFTER_ATTENTION = 2,
    PN_BEFORE_MLP = 4, /* a parallel MLP without it takes what stands before attention */
    PN_AFTER_MLP = 8
};

/* What is computed of a gate g, times its up u; or without a gate of u. */
enum {
    PN_SILU = 0,
    PN_CLAMPED_SILU = 1, /* of experts: (u + 1) g sigmoid(alpha g), g at most limit, u within both */
    PN_GELU = 2,
    PN_GELU_TANH = 3,
    PN_RELU = 4,
    PN_RELU_SQUARED = 5
};

/* What a layer has in place of attention. Of all tokens before it keeps a state.
 *
 * PN_GATED_DELTA: PN_MIXER_IN's rows are q, k (key_heads key_size each), v, a gate of the result
 * (value_heads value_size each), and a weight and a step by value head. q, k and v go through the
 * convolution together; q and k are normed to length 1. Of a head S = decay S + k w (v - k decay S)
 * and its result q S / sqrt(key_size); decay = e^(-rate softplus(step + bias)), w = sigmoid(weight).
 * PN_STATE_SPACE: Mamba 2. The same rows without weights, where q is C, k is B and v is x.
 * S = decay S + k step v, and its result q S + skip v.
 * PN_SHORT_CONVOLUTION: rows x, B, C (value_heads value_size each); C times the convolution of B x.
 * PN_KEYED_DELTA: PN_GATED_DELTA with a step for each element of a key, as many heads of keys as of
 * values, and each row of S with its element's decay. Rows are q, k, v, a weight by head, then
 * step_rank and gate_rank values: PN_STEP_UP makes steps of the former, PN_MIXER_GATE_UP gates of the
 * latter.
 * Channels of the convolution are q, k and v, or x. */
enum {
    PN_NO_MIXER = 0,
    PN_GATED_DELTA = 1,
    PN_STATE_SPACE = 2,
    PN_SHORT_CONVOLUTION = 3,
    PN_KEYED_DELTA = 4
};

/* How a mixer's result is gated by silu of its gate, or its sigmoid (a switch), and RMS-normed in
 * parts. */
enum {
    PN_GATE_ALONE = 0,
    PN_NORM_THEN_GATE = 1,
    PN_GATE_THEN_NORM = 2,
    PN_NORM_THEN_SWITCH = 3
};

/* Rotary tables that a model may have, and a layer that does not see positions. */
enum { PN_ROTATIONS = 8, PN_NOT_TURNED = -1 };

/* Element types: of the embedding table, and of a cache that torch keeps. */
enum { PN_F32 = 0, PN_F16 = 1, PN_BF16 = 2 };

/* What a step's time goes into. ROWS: embeddings, norms, quantisation, joining of attention;
 * ROTATION: of queries and keys, and their way into the cache. */
enum {
    PN_PHASE_QKV = 0,
    PN_PHASE_OUTPUT = 1,
    PN_PHASE_GATE_UP = 2,
    PN_PHASE_DOWN = 3,
    PN_PHASE_HEAD = 4,
    PN_PHASE_ROTATION = 5,
    PN_PHASE_ATTENTION = 6,
    PN_PHASE_ROWS = 7,
    PN_PHASES = 8
};

/* What makes of a router's logits the scores by which experts are chosen and weighed. */
enum {
    PN_SOFTMAX = 0,           /* of all experts */
    PN_SOFTMAX_OF_CHOSEN = 1, /* chosen by logits */
    PN_SIGMOID = 2
};

typedef struct pn_model pn_model;

typedef struct {
    int32_t layers;
    int32_t hidden;
    int32_t intermediate;
    int32_t heads;
    int32_t kv_heads;  /* divides heads */
    int32_t head_size; /* even */
    int32_t vocab;
    int32_t block_size; /* tokens a block of the KV cache: 16 or 32 */
    int32_t qk_norm;    /* 0 or 1: RMS norms of q and k by head, in all layers */
    float norm_epsilon;
    const int32_t *sliding_windows; /* (layers), 0 for full attention; NULL: all full. Copied. */
    int32_t small_cache; /* 1: keys and values in INT8, with an fp32 scale a token and head each */
} pn_shape;

/* A layer's mixture of experts: h += shared(x) + the sum of its chosen experts' outputs by weight.
 *
 * A token's weights are its experts' scores; where `normalise`, over their sum, which is at least
 * `least_sum`, plus `added_sum`; then times `scale`. */
typedef struct {
    int32_t experts;
    int32_t chosen;        /* by each token */
    int32_t intermediate;  /* of one expert */
    int32_t shared;        /* intermediate size of what all tokens share; 0: there is none */
    int32_t scoring;       /* PN_SOFTMAX, PN_SOFTMAX_OF_CHOSEN, PN_SIGMOID */
    int32_t normalise;     /* 0 or 1 */
    int32_t groups;        /* of neighbouring experts; divides them; 1: all are one */
    int32_t chosen_groups; /* whose experts may be chosen */
    int32_t group_best;    /* a group's score is the sum of so many of its best experts' */
    int32_t gate;          /* PN_SILU, ... */
    int32_t gated;         /* 0: experts have no gates; `gate` is their activation */
    int32_t apart;         /* 1: h += out(dense(MLP) + experts(...)), each with norms of its own; the
                              layer's MLP, and the experts, read h */
    float least_sum;
    float added_sum;
    float scale;
    float shared_scale; /* of what all share */
    float gate_alpha;   /* of PN_CLAMPED_SILU */
    float gate_limit;
} pn_experts;

/* What differs from layer to layer. Without it a layer is Llama's, as the shape has it. */
typedef struct {
    int32_t window;         /* keys that a query sees; 0: all */
    int32_t rotation;       /* number of its rotary table, or PN_NOT_TURNED */
    int32_t intermediate;   /* of gate_up and down; `pn_set_experts`, which comes later, sets it */
    int32_t gated;          /* 0 or 1 */
    int32_t activation;     /* PN_SILU, ... */
    int32_t norms;          /* the sum of PN_BEFORE_ATTENTION, ... */
    int32_t head_norms;     /* of q and k: PN_NO_NORM, PN_RMS_NORM, PN_LAYER_NORM (without bias) */
    int32_t norms_by_head;  /* 1: each head has weights of its own */
    int32_t norms_together; /* 1: means are over all heads; then norms_by_head is 1 too */
    int32_t parallel;       /* 1: the MLP reads h as it was before attention; no norms after */
    int32_t grows;          /* 1: queries are multiplied by the growth of their position */
    int32_t attends;        /* 0: it has no attention */
    int32_t gated_attention; /* 1: attention's result is times the sigmoid of gates beside q, k, v */
    int32_t heads;           /* as the shape has them; 0: the shape's */
    int32_t kv_heads;
    int32_t head_size;
    int32_t keys_of; /* the earlier layer whose keys and values it reads, or -1: its own */
    float scale;            /* of scores */
    float soft_cap;         /* c: scores become c tanh(score / c); 0: they do not */
    float residual_scale;   /* of what attention, a mixer and the MLP add */
    float attention_scale;  /* of what attention adds, beside that */
    float gate_scale;       /* of the MLP's gates, before their activation; experts have none */
    float mlp_scale;        /* of what the MLP adds, experts excepted */
    int32_t slides; /* 1: its keys and values lie in the window cache (`pn_step`); it has a window */
    /* 1: attention sees the hidden states and the embeddings, one behind the other; its result goes
     * through the MLP and PN_DETOUR, and is added to what the mixer sees, to nothing else. */
    int32_t detours;
    int32_t wide;   /* 1: PN_QKV's input is what the step has `beside`, then normed hidden states */
} pn_layer;

/* A layer's mixer; see PN_GATED_DELTA. Sizes are multiples of 16. */
typedef struct {
    int32_t kind;        /* PN_GATED_DELTA, ... */
    int32_t key_heads;   /* divides value_heads; a convolution has none */
    int32_t value_heads; /* of a convolution 1 */
    int32_t key_size;    /* of a convolution 0 */
    int32_t value_size;  /* of a convolution what goes through it */
    int32_t width;       /* tokens that the convolution sees, 2 to 8 */
    int32_t silu;        /* 1: the convolution's results go through it */
    int32_t order;       /* PN_GATE_ALONE, ...; of a convolution ignored, as the rest */
    int32_t norm_size;   /* values that are normed together; divides value_heads value_size */
    int32_t step_rank;   /* of PN_KEYED_DELTA, else 0, as the next */
    int32_t gate_rank;
    float norm_epsilon;
    float least_step; /* bounds of a state space's steps */
    float most_step;
    float step_scale; /* of steps, before their bias is added */
    float gate_scale; /* of gates, before silu */
    float scale;      /* of what the mixer adds */
} pn_mixer;

/* Latent attention: all heads see one compressed key of a token, which is also its value. Of `rank`
 * normed values, and `turned` ones that are rotated, which only the key has. A layer's PN_QKV is a
 * query of query_rank (0: heads (plain + turned), with no PN_QUERY_UP behind), then rank + turned.
 * Of a head's plain + turned query values the plain ones are multiplied by a matrix (plain x rank)
 * before attention, its results by one (rank x value) behind.
 *
 * Where a token may see but `most_keys` of more, an index chooses them: those of the greatest sums over
 * its heads of a weight times what is above 0 of its query's product with the index's key. Its key
 * (index_size), and a weight a head, are the last rows of PN_QKV; of both queries and keys the first
 * `turned` values are rotated. Without heads of its own, a layer sees what the nearest one before it
 * with some has chosen. */
typedef struct {
    int32_t query_rank;
    int32_t rank;   /* a multiple of 16, up to 512 */
    int32_t turned; /* even, up to 256 */
    int32_t plain;
    int32_t value;
    int32_t most_keys;   /* 0: a token sees all */
    int32_t index_heads; /* with a query_rank; 0: it has no index of its own */
    int32_t index_size;  /* a multiple of 16, up to 512, and at least turned */
    float epsilon; /* of its norms */
} pn_latent;

/* What a whole model has beside its shape. */
typedef struct {
    int32_t norm; /* PN_RMS_NORM or PN_LAYER_NORM, of all but q and k */
    float embedding_scale;
    float logit_scale;
    float logit_cap; /* as soft_cap */
    int32_t layer_inputs; /* values of a token that each layer has as an input of its own; 0: none */
    int32_t input_activation; /* PN_SILU, ...: of its gate */
    float input_scale;        /* of the table of pn_set_input_embeddings */
    float projection_scale;   /* of PN_LAYER_INPUTS' products, before their norm */
    float sum_scale;          /* of the sum of both */
} pn_traits;

typedef struct {
    int32_t kind;    /* PN_I4, ... */
    int32_t layout;  /* PN_STACKED or PN_PAIRED */
    int32_t rows;    /* of the whole matrix, all parts */
    int32_t columns;
    int32_t group;
    int32_t tail_kind; /* of the last rows, where these are held as another of PN_K4 to PN_K6; else 0 */
    int32_t tail_rows; /* STACKED; the rows before are whole panels of 32 */
} pn_packing;

typedef struct {
    int32_t rows;
    const void *values;
    const void *scales;
} pn_part;

typedef struct pn_adapter pn_adapter;

/* The highest rank of an adapter. */
#define PN_MOST_RANK 512

/* A LoRA pair: `scale` up (down x) is added to outputs `first` to `first` + `outputs` - 1 of a
 * matrix, x being its input; in fp32, with the same bits whatever else is in the step. */
typedef struct {
    int32_t rank;
    int32_t columns; /* the matrix's */
    int32_t first;   /* of a paired matrix gates come first, then ups */
    int32_t outputs; /* of a paired matrix all gates, or all ups */
    int32_t element; /* of both: PN_F32, PN_F16 or PN_BF16 */
    float scale;
    const void *down; /* (rank, columns); it and the next are copied */
    const void *up;   /* (outputs, rank) */
} pn_low_rank;

/* One step: N tokens of S sequences, one sequence after another. */
typedef struct {
    int32_t tokens;                      /* N, at least 1 */
    int32_t sequences;                   /* S, at least 1 */
    int32_t rows;                        /* R, tokens whose logits are wanted, 0 or more */
    const int64_t *token_ids;            /* (N) */
    const int32_t *past_lens;            /* (S) tokens of each that are in the cache already */
    const int32_t *subsequence_begins;   /* (S + 1) from 0 to N */
    const int32_t *block_indices;        /* blocks of all sequences, enough for past and new tokens */
    const int32_t *block_indices_begins; /* (S + 1) */
    const int32_t *row_indices;          /* (R) tokens, each past the one before */
    const int32_t *states; /* (S) places of the sequences' states; NULL in a model without them */
    /* For images, each NULL in a step of text; a NULL within leaves a token as it is. */
    const float *const *embedded; /* (N) rows of `hidden` in place of the embedding of a token's id */
    const float *const *turned;   /* (N) a rotary table's row in place of the position's: cosines,
                                     then sines */
    const float *const *added;    /* (added_layers, N) rows to add behind each of the first layers */
    int32_t added_layers;         /* fewer than the model has */
    const pn_adapter *const *adapters; /* (S), each NULL for the model as it is; or NULL */
    /* Blocks of the window cache, as many as block_indices has; NULL in a model without layers that
     * slide. Those wholly behind the window of a sequence's first token are not read. */
    const int32_t *window_indices;
    /* Which of the rows have logits, `logits` of them, each past the one before; NULL: all. Not in a
     * step with adapters. */
    const int32_t *logit_rows;
    int32_t logits;
    int32_t before_norm;   /* 1: hidden states are returned as they are before the final norm */
    /* Hidden states of all tokens before some layers go to `tapped`, (taps, N, hidden). */
    int32_t taps;
    const int32_t *tap_layers; /* (taps), each past the one before */
    float *tapped;
    const float *beside; /* (N, hidden), for wide layers; NULL in a model without them */
} pn_step_input;

/* PN_ABI of the library as it was built. */
int32_t pn_abi(void);

/* Grows whenever packed bytes mean something else: belongs into the key of a cache of them. */
int32_t pn_packed_version(void);

/* The best PN_ISA_... that this CPU has; 0 where it has none of them. */
int32_t pn_best_isa(void);

/* What went wrong in the calling thread's last call that failed. */
const char *pn_last_error(void);

/* Bytes of the packed matrix; negative: the packing makes no sense. */
int64_t pn_packed_bytes(const pn_packing *packing);

/* Write the packed matrix, `pn_packed_bytes` long, to `packed` (at a multiple of 64 bytes). PAIRED
 * takes two parts of equal rows. Safe from several threads at once. */
int32_t pn_pack(const pn_packing *packing, const pn_part *parts, int32_t part_count, void *packed);

/* Bytes of one block of the KV cache, all layers but those that slide, or these alone where `slides`;
 * fp16, or INT8. The cache is `blocks` of them, one after another, at a multiple of 64 bytes; its
 * contents need no initialising. A block is copied by copying these bytes. It is known once the
 * layers' traits are set. */
int64_t pn_cache_block_bytes(const pn_model *model, int32_t slides);

/* `threads` computing threads, the caller of `pn_step` being one of them. `cpus` (threads), or NULL
 * for no pinning: thread i is bound to cpus[i]; the caller, thread 0, binds itself. */
int32_t pn_create(const pn_shape *shape, int32_t isa, int32_t threads, const int32_t *cpus,
                  pn_model **model);

/* A model that computes by the threads and instruction set of another one; the two are one caller's,
 * by turns, and may be destroyed in any order. */
int32_t pn_create_beside(const pn_shape *shape, const pn_model *other, pn_model **model);

void pn_destroy(pn_model *model);

/* Come before the matrices and vectors that depend on them. */
int32_t pn_set_traits(pn_model *model, const pn_traits *traits);
int32_t pn_set_layer(pn_model *model, int32_t layer, const pn_layer *traits);

/* Give a layer experts; comes before their matrices and vectors. */
int32_t pn_set_experts(pn_model *model, int32_t layer, const pn_experts *experts);

/* Give a layer a mixer; comes before its matrices and vectors. */
int32_t pn_set_mixer(pn_model *model, int32_t layer, const pn_mixer *mixer);

/* Make a layer's attention latent; comes before its matrices and vectors. */
int32_t pn_set_latent(pn_model *model, int32_t layer, const pn_latent *latent);

/* A latent layer's matrices beside attention, of PN_F32, PN_F16 or PN_BF16: keys (heads, rank, plain)
 * and values (heads, value, rank). */
int32_t pn_set_latent_matrices(pn_model *model, int32_t layer, int32_t element, const void *keys,
                               const void *values);

/* Bytes of one sequence's state, all layers; a multiple of 64; 0 in a model without mixers. States
 * are fp32, one after another, at a multiple of 64 bytes. That of a sequence without past tokens
 * needs no initialising. A state is copied by copying these bytes. */
int64_t pn_state_bytes(const pn_model *model);

/* (experts, hidden) of PN_F32, PN_F16 or PN_BF16. */
int32_t pn_set_router(pn_model *model, int32_t layer, int32_t element, const void *weights);

int32_t pn_set_matrix(pn_model *model, int32_t which, int32_t layer, const pn_packing *packing,
                      const void *packed);
/* Column i of a matrix that is set, but none of experts', belongs to column order[i] of its input. */
int32_t pn_set_order(pn_model *model, int32_t which, int32_t layer, const int32_t *order,
                     int32_t columns);
int32_t pn_set_vector(pn_model *model, int32_t which, int32_t layer, const float *values,
                      int32_t size);

/* (vocab, hidden) of PN_F32, PN_F16 or PN_BF16. */
int32_t pn_set_embeddings(pn_model *model, int32_t element, const void *table);

/* The inputs of all layers by token id, (vocab, layers layer_inputs) of PN_F32, PN_F16 or PN_BF16. */
int32_t pn_set_input_embeddings(pn_model *model, int32_t element, const void *table);

/* (positions, size) each, of the first `size` elements of a head; the second half of a row equals the
 * first, as Transformers has it. `table` is below PN_ROTATIONS. */
int32_t pn_set_rotary(pn_model *model, int32_t table, const float *cosines, const float *sines,
                      int32_t positions, int32_t size);

/* (positions): what queries of a layer that `grows` are multiplied by. */
int32_t pn_set_growth(pn_model *model, const float *growth, int32_t positions);

/* An adapter of this model, which must be destroyed before it. Without pairs it changes nothing. */
int32_t pn_adapter_create(const pn_model *model, pn_adapter **adapter);

/* Add a pair to a matrix that the layer has, but no expert's, nor what experts share. */
int32_t pn_adapter_add(pn_model *model, pn_adapter *adapter, int32_t which, int32_t layer,
                       const pn_low_rank *pair);

void pn_adapter_destroy(pn_adapter *adapter);

/* Compute a step: write its keys and values to `cache` (of `blocks` blocks), those of layers that
 * slide to `window_cache` (of `window_blocks`; NULL in a model without them), move the states of its
 * sequences among the `places` in `states` (NULL in a model without them), write logits to `logits`
 * (R, vocab) fp32, or (logits, vocab), and the last hidden states, after the final norm, to `hidden`
 * (R, hidden) fp32 unless it is NULL. `logits` may be NULL where R is 0, or where only hidden states are wanted. */
int32_t pn_step(pn_model *model, const pn_step_input *step, void *cache, int32_t blocks,
                void *window_cache, int32_t window_blocks, void *states, int32_t places, float *logits, float *hidden);

/* `out` (rows, packing.rows) = `inputs` (rows, packing.columns) times a stacked matrix that is no part
 * of the model, by the model's threads, with the bits that it would have in a step. */
int32_t pn_project(pn_model *model, const pn_packing *packing, const void *packed, int32_t rows,
                   const float *inputs, float *out);

/* Seconds of all steps so far, by phase: `seconds` (PN_PHASES). */
int32_t pn_phases(const pn_model *model, double *seconds);

/* Products of a weight and an activation that one thread can issue a second, from registers alone,
 * with an instruction set that this CPU has; 0 where it lacks it. Takes some milliseconds. */
double pn_peak(int32_t isa);

/* Attention alone, over a KV cache that torch keeps, for models whose products torch computes: fp32
 * inside, the same bits whatever else is in the step and however a prompt was cut. One is one
 * caller's at a time. */
typedef struct pn_attention pn_attention;

/* Runs `work(context)` on up to `threads` threads, the caller's among them, and returns when all are
 * done: `GOMP_parallel` of the OpenMP that torch computes with, whose threads wait for work anyway. */
typedef void (*pn_parallel)(void (*work)(void *context), void *context, unsigned threads,
                            unsigned flags);

/* One layer's cache. The key of token `slot` of a block is `head_size` elements in a row at
 * `keys` + block * block_stride + head * head_stride + slot * slot_stride; values likewise. */
typedef struct {
    void *keys;
    void *values;
    int64_t block_stride; /* in elements */
    int64_t head_stride;
    int64_t slot_stride;
    int32_t element; /* PN_F32, PN_F16 or PN_BF16; queries and results have the same */
    int32_t blocks;
    int32_t block_size; /* a multiple of 16 */
    int32_t heads;
    int32_t kv_heads;  /* divides heads */
    int32_t head_size; /* a multiple of 16, up to 512 */
    int32_t window;    /* keys that a query sees at most; 0: all */
    float scale;       /* of the queries */
} pn_torch_cache;

/* How queries and keys are turned on their way. */
typedef struct {
    const void *query_norm; /* (head_size) elements, or NULL */
    const void *key_norm;
    const float *cosines; /* (positions, head_size / 2) */
    const float *sines;
    int32_t positions;
    float epsilon;
} pn_rotation;

/* `parallel` may be NULL: the caller's thread computes alone. */
int32_t pn_attention_create(int32_t isa, pn_parallel parallel, pn_attention **attention);

void pn_attention_destroy(pn_attention *attention);

/* What the next calls compute: a step's sequences. Its token_ids, rows and row_indices are not read;
 * the arrays are copied. */
int32_t pn_attention_begin(pn_attention *attention, const pn_step_input *step, int32_t block_size);

/* Norm and turn queries and keys of `qkv` (N, heads + 2 kv_heads, head_size) in place, and write
 * keys and values into the cache. */
int32_t pn_attention_rotate(pn_attention *attention, const pn_torch_cache *cache,
                            const pn_rotation *rotation, void *qkv, int32_t threads);

/* Attend: the query of a token's head is at `queries` + token * token_stride + head * head_stride;
 * results go to `out` (N, heads, head_size). */
int32_t pn_attention_attend(pn_attention *attention, const pn_torch_cache *cache,
                            const void *queries, int64_t token_stride, int64_t head_stride,
                            void *out, int32_t threads);

/* A layer's experts alone, for models whose other parts torch computes: who has chosen and weighed
 * the experts is the caller. One is one caller's at a time. */
typedef struct pn_mixture pn_mixture;

/* Of `experts` its sizes count, and its gate. `parallel` may be NULL. */
int32_t pn_mixture_create(int32_t isa, pn_parallel parallel, int32_t hidden,
                          const pn_experts *experts, pn_mixture **mixture);

void pn_mixture_destroy(pn_mixture *mixture);

/* PN_EXPERTS_GATE_UP and PN_EXPERTS_DOWN, as `pn_set_matrix` takes them. */
int32_t pn_mixture_set_matrix(pn_mixture *mixture, int32_t which, const pn_packing *packing,
                              const void *packed);

/* PN_EXPERTS_GATE_UP_BIAS and PN_EXPERTS_DOWN_BIAS. */
int32_t pn_mixture_set_vector(pn_mixture *mixture, int32_t which, const float *values,
                              int32_t size);

/* `out` (rows, hidden) = the sum of each row's chosen experts' outputs by weight, of `inputs` (rows,
 * hidden); `chosen` and `weights` (rows, experts.chosen). */
int32_t pn_mixture_compute(pn_mixture *mixture, int32_t rows, const float *inputs,
                           const int32_t *chosen, const float *weights, float *out,
                           int32_t threads);

#ifdef __cplusplus
}
#endif

#endif
