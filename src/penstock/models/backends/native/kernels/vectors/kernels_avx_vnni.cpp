/* The kernels for one instruction set; penstock_native.h has this file's flags. */
#define PENSTOCK_VARIANT avx_vnni
#define PENSTOCK_LANES 8
#include "vector_avx2.h"

#include "attention.inl.h"
#include "mixers.inl.h"
#include "products.inl.h"
#include "routing.inl.h"
#include "rows.inl.h"
#include "torch_attention.inl.h"

namespace penstock {

const Kernels KERNELS_AVX_VNNI = {
    avx_vnni::norm,
    avx_vnni::add_normed,
    avx_vnni::widen,
    avx_vnni::quantise,
    avx_vnni::product,
    avx_vnni::heads,
    avx_vnni::latent_heads,
    avx_vnni::attend,
    avx_vnni::join,
    avx_vnni::dots,
    avx_vnni::torch_heads,
    avx_vnni::attend_torch,
    avx_vnni::narrow,
    avx_vnni::scores,
    avx_vnni::route,
    avx_vnni::switched,
    avx_vnni::convolve,
    avx_vnni::gating,
    avx_vnni::recur,
    avx_vnni::give_out,
    avx_vnni::multiply,
    avx_vnni::index_heads,
    avx_vnni::index_scores,
};

} // namespace penstock
