/* The element types of torch's tensors. Eight at a time they are one AVX2 register in every variant. */
#pragma once

#include "lanes.inl.h"

namespace penstock {
namespace PENSTOCK_VARIANT {

struct Half {
    uint16_t bits;
};
struct Brain {
    uint16_t bits;
};

inline Floats load(const Half *from) { return load_half(&from->bits); }
inline Floats load(const Brain *from) { return load_brain(&from->bits); }

inline float widened(const float *from) { return *from; }
inline float widened(const Half *from) { return _cvtsh_ss(from->bits); }
inline float widened(const Brain *from) {
    const uint32_t bits = uint32_t(from->bits) << 16;
    float x;
    __builtin_memcpy(&x, &bits, sizeof x);
    return x;
}

constexpr int EIGHT = 8;

inline __m256 load_eight(const float *from) { return _mm256_loadu_ps(from); }
inline __m256 load_eight(const Half *from) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i *>(from)));
}
inline __m256 load_eight(const Brain *from) {
    const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i *>(from));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(some), 16));
}

inline void store_eight(float *to, __m256 x) { _mm256_storeu_ps(to, x); }
inline void store_eight(Half *to, __m256 x) {
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to),
                     _mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
/* To the nearest, ties to even, as torch rounds; what is no number stays none. */
inline void store_eight(Brain *to, __m256 x) {
    const __m256i bits = _mm256_castps_si256(x);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i half = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
    const __m256i nearest = _mm256_srli_epi32(_mm256_add_epi32(bits, half), 16);
    const __m256i none = _mm256_castps_si256(_mm256_cmp_ps(x, x, _CMP_UNORD_Q));
    const __m256i all = _mm256_blendv_epi8(nearest, _mm256_set1_epi32(0x7FC0), none);
    const __m128i low = _mm256_castsi256_si128(all);
    _mm_storeu_si128(reinterpret_cast<__m128i *>(to),
                     _mm_packus_epi32(low, _mm256_extracti128_si256(all, 1)));
}

/* What an element holds of `x`. */
template <typename Element> inline __m256 as_held(__m256 x) {
    Element some[EIGHT];
    store_eight(some, x);
    return load_eight(some);
}

/* Eight rows of eight to eight columns. */
inline void transpose(__m256 *rows) {
    __m256 pairs[EIGHT];
    for (int at = 0; at < EIGHT; at += 2) {
        pairs[at] = _mm256_unpacklo_ps(rows[at], rows[at + 1]);
        pairs[at + 1] = _mm256_unpackhi_ps(rows[at], rows[at + 1]);
    }
    __m256 fours[EIGHT];
    for (int at = 0; at < EIGHT; at += 4) {
        fours[at] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0x44);
        fours[at + 1] = _mm256_shuffle_ps(pairs[at], pairs[at + 2], 0xEE);
        fours[at + 2] = _mm256_shuffle_ps(pairs[at + 1], pairs[at + 3], 0x44);
        fours[at + 3] = _mm256_shuffle_ps(pairs[at + 1], pairs[at + 3], 0xEE);
    }
    for (int at = 0; at < EIGHT / 2; at++) {
        rows[at] = _mm256_permute2f128_ps(fours[at], fours[at + 4], 0x20);
        rows[at + 4] = _mm256_permute2f128_ps(fours[at], fours[at + 4], 0x31);
    }
}

} // namespace PENSTOCK_VARIANT
} // namespace penstock
