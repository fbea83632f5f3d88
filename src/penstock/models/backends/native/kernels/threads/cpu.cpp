#include "cpu.h"

#include <cpuid.h>

#include "penstock_native.h"

namespace penstock {

namespace {

/* Which registers the system keeps when it switches threads. */
uint64_t kept_registers() {
    uint32_t low = 0;
    uint32_t high = 0;
    __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return uint64_t(high) << 32 | low;
}

constexpr uint64_t YMM = 0x6;
constexpr uint64_t ZMM = 0xE6;

bool all(uint32_t word, uint32_t bits) { return (word & bits) == bits; }

struct Found {
    bool avx2 = false;
    bool avx_vnni = false;
    bool avx512_vnni = false;
};

Found look() {
    Found found;
    uint32_t a = 0;
    uint32_t b = 0;
    uint32_t c = 0;
    uint32_t d = 0;
    constexpr uint32_t fma = 1U << 12;
    constexpr uint32_t osxsave = 1U << 27;
    constexpr uint32_t f16c = 1U << 29;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, fma | osxsave | f16c))
        return found;
    const uint64_t kept = kept_registers();
    if ((kept & YMM) != YMM || !__get_cpuid_count(7, 0, &a, &b, &c, &d))
        return found;
    constexpr uint32_t avx2 = 1U << 5;
    constexpr uint32_t avx512 = 1U << 16 | 1U << 17 | 1U << 30 | 1U << 31; /* F, DQ, BW, VL */
    constexpr uint32_t vnni512 = 1U << 11;
    found.avx2 = all(b, avx2);
    found.avx512_vnni = found.avx2 && (kept & ZMM) == ZMM && all(b, avx512) && all(c, vnni512);
    constexpr uint32_t vnni256 = 1U << 4;
    found.avx_vnni = found.avx2 && __get_cpuid_count(7, 1, &a, &b, &c, &d) && all(a, vnni256);
    return found;
}

const Found &found() {
    static const Found once = look();
    return once;
}

} // namespace

bool has_isa(int isa) {
    return (isa == PN_ISA_AVX2 && found().avx2) || (isa == PN_ISA_AVX_VNNI && found().avx_vnni) ||
           (isa == PN_ISA_AVX512_VNNI && found().avx512_vnni);
}

int best_isa() {
    for (int isa = PN_ISA_AVX512_VNNI; isa > 0; isa--)
        if (has_isa(isa))
            return isa;
    return 0;
}

const Kernels &kernels_of(int isa) {
    if (isa == PN_ISA_AVX512_VNNI)
        return KERNELS_AVX512;
    return isa == PN_ISA_AVX_VNNI ? KERNELS_AVX_VNNI : KERNELS_AVX2;
}

} // namespace penstock
