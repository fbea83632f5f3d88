/* Attention over a cache that torch keeps, keys by token. Sixteen keys at a time are turned to stand
 * by dimension, as our own cache has them, so that scores need no sums across lanes; a prompt's
 * queries share what was turned. Bits: as in attention.inl.h. */
#pragma once

#include "penstock_native.h"
#include "rows.inl.h"
#include "softmax.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

/* Sixteens of keys that few queries score together: one's sums alone would wait for each other. */
constexpr int TOGETHER = 4;

constexpr int AHEAD = 2; /* sixteens of keys that memory is asked for in time */

/* One piece's scratch. `items` are its queries, by token, then by head. */
struct Room {
    float *queries; /* (items, size), scaled; of those side by side, by dimension */
    float *joined;  /* (items, size) */
    float *maxima;  /* (items) */
    float *sums;    /* (items) */
    float *scores;  /* (QUERIES, SPLIT) */
    float *fresh;   /* (QUERIES, MAX_HEAD_SIZE) */
    float *turned;  /* (SPLIT / WIDE, size, WIDE) */

    Room(const TorchAttention &of, int items)
        : queries(of.scratch), joined(queries + items * of.size), maxima(joined + items * of.size),
          sums(maxima + items), scores(sums + items), fresh(scores + QUERIES * SPLIT),
          turned(fresh + QUERIES * MAX_HEAD_SIZE) {}
};

/* Positions of a split that some queries see; none where `first` is not below `last`. */
struct Span {
    int first;
    int last;
};

inline Span span_of(const TorchAttention &of, int item, int start) {
    const int seen = of.first_position + item / of.heads + 1;
    const int hidden = of.window > 0 && seen > of.window ? seen - of.window : 0;
    return {hidden > start ? hidden : start, seen < start + SPLIT ? seen : start + SPLIT};
}

/* Where the keys end that the piece computes with. */
inline int end_of(const TorchAttention &of) {
    const int seen = of.first_position + of.tokens;
    return seen < of.last_split * SPLIT ? seen : of.last_split * SPLIT;
}

/* What any of `count` queries sees, in whole sixteens of keys. */
inline Span whole_span_of(const TorchAttention &of, int item, int count, int start) {
    Span all{start + SPLIT, start};
    for (int q = item; q < item + count; q++) {
        const Span one = span_of(of, q, start);
        if (one.first >= one.last)
            continue;
        all.first = one.first < all.first ? one.first : all.first;
        all.last = one.last > all.last ? one.last : all.last;
    }
    return {all.first / WIDE * WIDE, (all.last + WIDE - 1) / WIDE * WIDE};
}

inline int64_t place_of(const TorchAttention &of, int position) {
    return of.blocks[position / of.block_size] * of.block_stride +
           position % of.block_size * of.slot_stride;
}

/* Ask memory for a row of a head, as no row lies where the hardware would look for it. */
template <typename Element> inline void fetch(const Element *row, int size) {
    constexpr int LINE = 64 / int(sizeof(Element));
    for (int at = 0; at < size; at += LINE)
        _mm_prefetch(reinterpret_cast<const char *>(row + at), _MM_HINT_T0);
}

/* Sixteen keys from `position` on, by dimension. Their values come on the way, and the keys of those
 * after them, of which the last is before `end`. */
template <typename Element>
inline void turn_keys(const TorchAttention &of, int position, int end, float *turned) {
    const int64_t place = place_of(of, position);
    const Element *keys = static_cast<const Element *>(of.keys) + place;
    const Element *values = static_cast<const Element *>(of.values) + place;
    const int next = position + AHEAD * WIDE < end ? position + AHEAD * WIDE : position;
    const Element *later = static_cast<const Element *>(of.keys) + place_of(of, next);
    for (int row = 0; row < WIDE; row++) {
        fetch(later + row * of.slot_stride, of.size);
        fetch(values + row * of.slot_stride, of.size);
    }
    for (int half = 0; half < WIDE; half += EIGHT)
        for (int at = 0; at < of.size; at += EIGHT) {
            __m256 rows[EIGHT];
#pragma GCC unroll 8
            for (int row = 0; row < EIGHT; row++)
                rows[row] = load_eight(keys + (half + row) * of.slot_stride + at);
            transpose(rows);
#pragma GCC unroll 8
            for (int row = 0; row < EIGHT; row++)
                store_eight(turned + (at + row) * WIDE + half, rows[row]);
        }
}

/* Scores of COUNT queries with TILES sixteens of keys. */
template <int COUNT, int TILES>
inline void score(const float *queries, const float *turned, int size, float *scores) {
    Floats sums[TILES][COUNT][PER_WIDE];
    for (int tile = 0; tile < TILES; tile++)
        for (int q = 0; q < COUNT; q++)
            for (int part = 0; part < PER_WIDE; part++)
                sums[tile][q][part] = zero();
    for (int at = 0; at < size; at++) {
#pragma GCC unroll 4
        for (int tile = 0; tile < TILES; tile++) {
#pragma GCC unroll 2
            for (int part = 0; part < PER_WIDE; part++) {
                const Floats key = load(turned + (tile * size + at) * WIDE + part * LANES);
#pragma GCC unroll 8
                for (int q = 0; q < COUNT; q++)
                    sums[tile][q][part] =
                        fma(spread(queries[at * COUNT + q]), key, sums[tile][q][part]);
            }
        }
    }
    for (int tile = 0; tile < TILES; tile++)
        for (int q = 0; q < COUNT; q++)
            for (int part = 0; part < PER_WIDE; part++)
                store(scores + q * SPLIT + tile * WIDE + part * LANES, sums[tile][q][part]);
}

template <int COUNT>
inline void score_all(const float *queries, const float *turned, int tiles, int size,
                      float *scores) {
    constexpr int TILES = COUNT < TOGETHER ? TOGETHER / COUNT : 1;
    int tile = 0;
    for (; tile + TILES <= tiles; tile += TILES)
        score<COUNT, TILES>(queries, turned + tile * size * WIDE, size, scores + tile * WIDE);
    for (; tile < tiles; tile++)
        score<COUNT, 1>(queries, turned + tile * size * WIDE, size, scores + tile * WIDE);
}

/* A split of COUNT queries from the `item`-th on. `turned`: the split's keys lie in the room. */
template <typename Element, int COUNT>
void attend_together(const TorchAttention &of, const Room &room, int item, int start,
                     bool turned) {
    const Span whole = whole_span_of(of, item, COUNT, start);
    if (whole.first >= whole.last)
        return;
    const float *queries = room.queries + item * of.size;
    float *scores = room.scores;
    const int end = end_of(of);
    for (int position = whole.first; position < whole.last; position += TOGETHER * WIDE) {
        const int rest = (whole.last - position) / WIDE;
        const int tiles = rest < TOGETHER ? rest : TOGETHER;
        float *keys = turned ? room.turned + (position - start) * of.size : room.turned;
        for (int tile = 0; !turned && tile < tiles; tile++)
            turn_keys<Element>(of, position + tile * WIDE, end, keys + tile * WIDE * of.size);
        score_all<COUNT>(queries, keys, tiles, of.size, scores + position - start);
    }
    float maxima[COUNT];
    float sums[COUNT];
    Span seen{start + SPLIT, start};
    for (int q = 0; q < COUNT; q++) {
        Span one = span_of(of, item + q, start);
        if (one.first < one.last) {
            seen.first = one.first < seen.first ? one.first : seen.first;
            seen.last = one.last > seen.last ? one.last : seen.last;
        } else {
            one = {whole.last, whole.last};
        }
        maxima[q] = soften(scores + q * SPLIT, one.first - start, one.last - start,
                           whole.first - start, whole.last - start, &sums[q]);
    }
    const Values<Element> values{static_cast<const Element *>(of.values), of.blocks, of.block_size,
                                 of.size, of.block_stride, of.slot_stride};
    weigh_all<COUNT>(values, start, seen.first, seen.last, scores, room.fresh);
    for (int q = 0; q < COUNT; q++)
        join_one(room.maxima + item + q, room.sums + item + q,
                 room.joined + (item + q) * of.size, maxima[q], sums[q],
                 room.fresh + q * MAX_HEAD_SIZE, of.size);
}

template <int COUNT> struct Together {
    static constexpr int value = COUNT;
};

/* Call `each(Together<COUNT>, item)` for all items, as many side by side as the registers hold. */
template <typename Each> inline void each_together(int items, Each each) {
    int item = 0;
    for (; TILE_QUERIES >= 8 && item + 8 <= items; item += 8)
        each(Together<8>(), item);
    for (; item + 4 <= items; item += 4)
        each(Together<4>(), item);
    for (; item + 2 <= items; item += 2)
        each(Together<2>(), item);
    for (; item < items; item++)
        each(Together<1>(), item);
}

template <typename Element>
inline void widen_queries(const TorchAttention &of, const Room &room, int item, int count) {
    const __m256 scale = _mm256_set1_ps(of.scale);
    for (int q = 0; q < count; q++) {
        const Element *query = static_cast<const Element *>(of.queries) +
                               (item + q) / of.heads * of.token_stride +
                               (item + q) % of.heads * of.head_stride;
        float *to = room.queries + item * of.size + q;
        for (int at = 0; at < of.size; at += EIGHT) {
            float some[EIGHT];
            store_eight(some, _mm256_mul_ps(load_eight(query + at), scale));
            for (int lane = 0; lane < EIGHT; lane++)
                to[(at + lane) * count] = some[lane];
        }
    }
}

template <typename Element> inline void narrow_to(const float *from, float factor, int size, Element *to) {
    const __m256 by = _mm256_set1_ps(factor);
    for (int at = 0; at < size; at += EIGHT)
        store_eight(to + at, _mm256_mul_ps(load_eight(from + at), by));
}

template <typename Element>
inline void hand_out(const TorchAttention &of, const Room &room, int item) {
    const float *from = room.joined + item * of.size;
    if (of.partials != nullptr) {
        float *to = of.partials + int64_t(item) * (of.size + 2);
        to[0] = room.maxima[item];
        to[1] = room.sums[item];
        for (int at = 0; at < of.size; at++)
            to[2 + at] = to[0] <= MASKED ? 0.0F : from[at];
        return;
    }
    Element *to = static_cast<Element *>(of.out) + item / of.heads * of.out_stride +
                  int64_t(item % of.heads) * of.size;
    narrow_to(from, 1.0F / room.sums[item], of.size, to);
}

template <typename Element> void attend_elements(const TorchAttention &of) {
    const int items = of.tokens * of.heads;
    const Room room(of, items);
    for (int item = 0; item < items; item++) {
        room.maxima[item] = MASKED;
        room.sums[item] = 0.0F;
    }
    each_together(items, [&](auto count, int item) {
        widen_queries<Element>(of, room, item, decltype(count)::value);
    });
    const bool turned = items > TILE_QUERIES;
    for (int split = of.first_split; split < of.last_split; split++) {
        const int start = split * SPLIT;
        const Span whole = whole_span_of(of, 0, items, start);
        const int end = end_of(of);
        for (int position = whole.first; turned && position < whole.last; position += WIDE)
            turn_keys<Element>(of, position, end, room.turned + (position - start) * of.size);
        each_together(items, [&](auto count, int item) {
            attend_together<Element, decltype(count)::value>(of, room, item, start, turned);
        });
    }
    for (int item = 0; item < items; item++)
        hand_out<Element>(of, room, item);
}

void attend_torch(const TorchAttention &of) {
    if (of.element == PN_F32)
        attend_elements<float>(of);
    else if (of.element == PN_F16)
        attend_elements<Half>(of);
    else
        attend_elements<Brain>(of);
}

void narrow(const float *from, int size, int element, void *to) {
    if (element == PN_F32)
        narrow_to(from, 1.0F, size, static_cast<float *>(to));
    else if (element == PN_F16)
        narrow_to(from, 1.0F, size, static_cast<Half *>(to));
    else
        narrow_to(from, 1.0F, size, static_cast<Brain *>(to));
}

/* In place: the norm of one head, where there is one, then its rotation; rounded where torch's
 * operations round. */
template <typename Element>
inline void turn_held(const TorchHeads &of, Element *head, const Element *weight) {
    if (weight != nullptr) {
        float wide[MAX_HEAD_SIZE];
        for (int at = 0; at < of.size; at += EIGHT)
            store_eight(wide + at, load_eight(head + at));
        const float mean = sum_of_squares(wide, of.size) / float(of.size);
        const __m256 inverse = _mm256_set1_ps(reciprocal_root(mean + of.epsilon));
        for (int at = 0; at < of.size; at += EIGHT) {
            const __m256 normed = as_held<Element>(_mm256_mul_ps(load_eight(wide + at), inverse));
            store_eight(head + at, _mm256_mul_ps(normed, load_eight(weight + at)));
        }
    }
    const int half = of.size / 2;
    for (int at = 0; at < half; at += EIGHT) {
        const __m256 first = load_eight(head + at);
        const __m256 second = load_eight(head + at + half);
        const __m256 cosine = load_eight(of.cosines + at);
        const __m256 sine = load_eight(of.sines + at);
        store_eight(head + at, _mm256_sub_ps(_mm256_mul_ps(first, cosine), _mm256_mul_ps(second, sine)));
        store_eight(head + at + half,
                    _mm256_add_ps(_mm256_mul_ps(second, cosine), _mm256_mul_ps(first, sine)));
    }
}

template <typename Element> void heads_of_elements(const TorchHeads &of) {
    Element *queries = static_cast<Element *>(of.row);
    Element *keys = queries + int64_t(of.heads) * of.size;
    Element *values = keys + int64_t(of.kv_heads) * of.size;
    for (int head = 0; head < of.heads; head++)
        turn_held(of, queries + int64_t(head) * of.size,
                  static_cast<const Element *>(of.query_norm));
    for (int head = 0; head < of.kv_heads; head++) {
        Element *key = keys + int64_t(head) * of.size;
        const Element *value = values + int64_t(head) * of.size;
        turn_held(of, key, static_cast<const Element *>(of.key_norm));
        const int64_t place = head * of.head_stride;
        for (int at = 0; at < of.size; at++) {
            static_cast<Element *>(of.keys)[place + at] = key[at];
            static_cast<Element *>(of.values)[place + at] = value[at];
        }
    }
}

void torch_heads(const TorchHeads &of) {
    if (of.element == PN_F32)
        heads_of_elements<float>(of);
    else if (of.element == PN_F16)
        heads_of_elements<Half>(of);
    else
        heads_of_elements<Brain>(of);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
