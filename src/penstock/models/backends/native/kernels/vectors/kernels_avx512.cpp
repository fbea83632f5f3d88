/* The kernels for one instruction set; penstock_native.h has this file's flags. */
#define PENSTOCK_VARIANT avx512
#define PENSTOCK_LANES 16
#include "vector_avx512.h"

#include "attention.inl.h"
#include "mixers.inl.h"
#include "products.inl.h"
#include "routing.inl.h"
#include "rows.inl.h"
#include "torch_attention.inl.h"

namespace penstock {

const Kernels KERNELS_AVX512 = {
    avx512::norm,
    avx512::add_normed,
    avx512::widen,
    avx512::quantise,
    avx512::product,
    avx512::heads,
    avx512::latent_heads,
    avx512::attend,
    avx512::join,
    avx512::dots,
    avx512::torch_heads,
    avx512::attend_torch,
    avx512::narrow,
    avx512::scores,
    avx512::route,
    avx512::switched,
    avx512::convolve,
    avx512::gating,
    avx512::recur,
    avx512::give_out,
    avx512::multiply,
    avx512::index_heads,
    avx512::index_scores,
};

} // namespace penstock
