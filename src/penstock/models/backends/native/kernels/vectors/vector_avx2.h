/* Eight lanes: AVX2, with AVX-VNNI where the file's flags have it. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr int LANES = 8;
constexpr int TILE_ROWS = 3;   /* whose integer sums, and what they need, fit into the registers */
constexpr int TILE_QUERIES = 4;

using Floats = __m256;
using Integers = __m256i;

inline Floats zero() { return _mm256_setzero_ps(); }
inline Floats spread(float x) { return _mm256_set1_ps(x); }
inline Floats load(const float *from) { return _mm256_loadu_ps(from); }
inline void store(float *to, Floats x) { _mm256_storeu_ps(to, x); }
inline Floats add(Floats a, Floats b) { return _mm256_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm256_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm256_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm256_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm256_min_ps(a, b); }
inline Floats absolute(Floats a) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0F), a); }
inline Floats rounded(Floats a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline float greatest(Floats a) {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_shuffle_ps(half, half, 1)));
}

/* The sum of sixteen lanes, halves upon halves. */
inline float sum_wide(const Floats *lanes) {
    const __m256 eight = _mm256_add_ps(lanes[0], lanes[1]);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* `x` where `test` is not below `limit`, else 0. */
inline Floats unless_below(Floats test, Floats limit, Floats x) {
    return _mm256_and_ps(_mm256_cmp_ps(test, limit, _CMP_GE_OQ), x);
}

/* 2 to the power of a whole number. */
inline Floats power_of_two(Floats whole) {
    const Integers biased = _mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}

inline Floats load_signed(const int8_t *from) {
    const __m128i some = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(some));
}
inline Floats load_unsigned(const uint8_t *from) {
    const __m128i some = _mm_loadl_epi64(reinterpret_cast<const __m128i *>(from));
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(some));
}
inline Floats load_half(const uint16_t *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline Floats load_brain(const uint16_t *from) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(some), 16));
}
inline void store_half(uint16_t *to, Floats x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to),
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Integers none() { return _mm256_setzero_si256(); }
inline Integers spread_integer(int32_t x) { return _mm256_set1_epi32(x); }
inline Integers load_bytes(const void *from) {
    return _mm256_loadu_si256(static_cast<const __m256i *>(from));
}
inline Integers low_nibbles(Integers x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
inline Integers high_nibbles(Integers x) {
    return _mm256_and_si256(_mm256_srli_epi16(x, 4), _mm256_set1_epi8(15));
}
/* `x`, and of `bits` what `mask` leaves once bit FROM of each byte is bit TO. */
template <int FROM, int TO> inline Integers with_bits(Integers x, Integers bits, Integers mask) {
    const Integers moved = FROM < TO ? _mm256_slli_epi16(bits, TO > FROM ? TO - FROM : 0)
                                     : _mm256_srli_epi16(bits, FROM > TO ? FROM - TO : 0);
    return _mm256_or_si256(x, _mm256_and_si256(moved, mask));
}
inline Integers spread_byte(int x) { return _mm256_set1_epi8(char(x)); }
inline Floats to_floats(Integers x) { return _mm256_cvtepi32_ps(x); }
inline Integers to_integers(Floats x) { return _mm256_cvtps_epi32(x); }
inline Integers add_integers(Integers a, Integers b) { return _mm256_add_epi32(a, b); }
inline Integers sub_integers(Integers a, Integers b) { return _mm256_sub_epi32(a, b); }
template <int BITS> inline Integers shift_up(Integers x) { return _mm256_slli_epi32(x, BITS); }
/* Negative numbers too, downwards. */
template <int BITS> inline Integers shift_down(Integers x) { return _mm256_srai_epi32(x, BITS); }
inline int32_t total(Integers x) {
    __m128i half = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    half = _mm_add_epi32(half, _mm_shuffle_epi32(half, 0x4E));
    return _mm_cvtsi128_si32(_mm_add_epi32(half, _mm_shuffle_epi32(half, 0xB1)));
}
inline void store_bytes(int8_t *to, Integers x) {
    const __m128i words = _mm_packs_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i *>(to), _mm_packs_epi16(words, words));
}

/* sum + unsigned bytes times signed bytes, four a lane; weights below 64, or of any size. */
#ifdef __AVXVNNI__
inline Integers dot_small(Integers sum, Integers weights, Integers activations) {
    return _mm256_dpbusd_avx_epi32(sum, weights, activations);
}
inline Integers dot(Integers sum, Integers weights, Integers activations) {
    return _mm256_dpbusd_avx_epi32(sum, weights, activations);
}
#else
inline Integers dot_small(Integers sum, Integers weights, Integers activations) {
    /* Pairs of products stay below 2 * 63 * 127: the 16-bit sums cannot saturate. */
    const Integers pairs = _mm256_maddubs_epi16(weights, activations);
    return _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
inline Integers dot(Integers sum, Integers weights, Integers activations) {
    /* By nibbles, each of which is small; 16 * 2 * 15 * 127 no longer fits 16 bits, so the high
     * ones are weighted where pairs are joined. */
    const Integers low = _mm256_maddubs_epi16(low_nibbles(weights), activations);
    const Integers high = _mm256_maddubs_epi16(high_nibbles(weights), activations);
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
    return _mm256_add_epi32(sum, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
}
#endif

} // namespace PENSTOCK_VARIANT
} // namespace penstock
