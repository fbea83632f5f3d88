/* The kernels for one instruction set; penstock_native.h has this file's flags. */
#define PENSTOCK_VARIANT avx2
#define PENSTOCK_LANES 8
#include "vector_avx2.h"

#include "attention.inl.h"
#include "mixers.inl.h"
#include "products.inl.h"
#include "routing.inl.h"
#include "rows.inl.h"
#include "torch_attention.inl.h"

namespace penstock {

const Kernels KERNELS_AVX2 = {
    avx2::norm,
    avx2::add_normed,
    avx2::widen,
    avx2::quantise,
    avx2::product,
    avx2::heads,
    avx2::latent_heads,
    avx2::attend,
    avx2::join,
    avx2::dots,
    avx2::torch_heads,
    avx2::attend_torch,
    avx2::narrow,
    avx2::scores,
    avx2::route,
    avx2::switched,
    avx2::convolve,
    avx2::gating,
    avx2::recur,
    avx2::give_out,
    avx2::multiply,
    avx2::index_heads,
    avx2::index_scores,
};

} // namespace penstock
