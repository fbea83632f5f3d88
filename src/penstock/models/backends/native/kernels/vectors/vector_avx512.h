/* Sixteen lanes: AVX512 with VNNI. */
#pragma once

#include <immintrin.h>
#include <stdint.h>

#if defined(__GNUC__) && !defined(__clang__)
/* GCC's own headers, up to 12, warn of the undefined lanes that they ask for. */
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

namespace penstock {
namespace PENSTOCK_VARIANT {

constexpr int LANES = 16;
constexpr int TILE_ROWS = 6;   /* whose sums, integer and fp32, fit into the registers */
constexpr int TILE_QUERIES = 8;

using Floats = __m512;
using Integers = __m512i;

inline Floats zero() { return _mm512_setzero_ps(); }
inline Floats spread(float x) { return _mm512_set1_ps(x); }
inline Floats load(const float *from) { return _mm512_loadu_ps(from); }
inline void store(float *to, Floats x) { _mm512_storeu_ps(to, x); }
inline Floats add(Floats a, Floats b) { return _mm512_add_ps(a, b); }
inline Floats sub(Floats a, Floats b) { return _mm512_sub_ps(a, b); }
inline Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
inline Floats div(Floats a, Floats b) { return _mm512_div_ps(a, b); }
inline Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
inline Floats max(Floats a, Floats b) { return _mm512_max_ps(a, b); }
inline Floats min(Floats a, Floats b) { return _mm512_min_ps(a, b); }
inline Floats absolute(Floats a) { return _mm512_abs_ps(a); }
inline Floats rounded(Floats a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
inline float greatest(Floats a) { return _mm512_reduce_max_ps(a); }

/* The sum of sixteen lanes, halves upon halves. */
inline float sum_wide(const Floats *lanes) {
    const __m256 eight =
        _mm256_add_ps(_mm512_castps512_ps256(*lanes), _mm512_extractf32x8_ps(*lanes, 1));
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

/* `x` where `test` is not below `limit`, else 0. */
inline Floats unless_below(Floats test, Floats limit, Floats x) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(test, limit, _CMP_GE_OQ), x);
}

/* 2 to the power of a whole number. */
inline Floats power_of_two(Floats whole) {
    const Integers biased = _mm512_add_epi32(_mm512_cvtps_epi32(whole), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}

inline Floats load_half(const uint16_t *from) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i *>(from)));
}
inline Floats load_brain(const uint16_t *from) {
    const __m256i some = _mm256_loadu_si256(reinterpret_cast<const __m256i *>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(some), 16));
}
inline Floats load_signed(const int8_t *from) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(some));
}
inline Floats load_unsigned(const uint8_t *from) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(some));
}
inline void store_half(uint16_t *to, Floats x) {
    _mm256_storeu_si256(reinterpret_cast<__m256i *>(to),
                        _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

inline Integers none() { return _mm512_setzero_si512(); }
inline Integers spread_integer(int32_t x) { return _mm512_set1_epi32(x); }
inline Integers load_bytes(const void *from) { return _mm512_loadu_si512(from); }
inline Integers low_nibbles(Integers x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
inline Integers high_nibbles(Integers x) {
    return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
}
/* `x`, and of `bits` what `mask` leaves once bit FROM of each byte is bit TO. */
template <int FROM, int TO> inline Integers with_bits(Integers x, Integers bits, Integers mask) {
    const Integers moved = FROM < TO ? _mm512_slli_epi16(bits, TO > FROM ? TO - FROM : 0)
                                     : _mm512_srli_epi16(bits, FROM > TO ? FROM - TO : 0);
    return _mm512_ternarylogic_epi32(x, moved, mask, 0xF8); /* x | (moved & mask) */
}
inline Integers spread_byte(int x) { return _mm512_set1_epi8(char(x)); }
inline Floats to_floats(Integers x) { return _mm512_cvtepi32_ps(x); }
inline Integers to_integers(Floats x) { return _mm512_cvtps_epi32(x); }
inline Integers add_integers(Integers a, Integers b) { return _mm512_add_epi32(a, b); }
inline Integers sub_integers(Integers a, Integers b) { return _mm512_sub_epi32(a, b); }
template <int BITS> inline Integers shift_up(Integers x) { return _mm512_slli_epi32(x, BITS); }
/* Negative numbers too, downwards. */
template <int BITS> inline Integers shift_down(Integers x) { return _mm512_srai_epi32(x, BITS); }
inline int32_t total(Integers x) { return _mm512_reduce_add_epi32(x); }
inline void store_bytes(int8_t *to, Integers x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to), _mm512_cvtepi32_epi8(x));
}

/* sum + unsigned bytes times signed bytes, four a lane; weights below 64, or of any size. */
inline Integers dot_small(Integers sum, Integers weights, Integers activations) {
    return _mm512_dpbusd_epi32(sum, weights, activations);
}
inline Integers dot(Integers sum, Integers weights, Integers activations) {
    return _mm512_dpbusd_epi32(sum, weights, activations);
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
