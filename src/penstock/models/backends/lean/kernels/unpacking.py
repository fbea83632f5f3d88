# Triton has no types, and a CPU-only environment has no Triton.
# pyright: basic, reportMissingImports=false, reportIndexIssue=false, reportCallIssue=false
# pyright: reportArgumentType=false, reportAttributeAccessIssue=false, reportOperatorIssue=false
"""Codes as numbers of the matrix units: experts' of 4 bit, and e4m3.

On NVIDIA's GPUs from Hopper on (FAST) codes become bf16 by a few instructions for two or four of them:
by conversions they would take longer than their memory is read.
"""

from __future__ import annotations

import triton
import triton.language as tl

from penstock.models.backends.lean.kernels.products import MAGIC, number_of, weights_of

PLAIN: tl.constexpr = tl.constexpr(0)
FP8: tl.constexpr = tl.constexpr(1)
INT4: tl.constexpr = tl.constexpr(2)
E2M1: tl.constexpr = tl.constexpr(3)
"""Forms: a model's own type, e4m3, codes of 4 bit, and such codes of MXFP4."""

PAST: tl.constexpr = tl.constexpr(2)
"""Codes of a word from this one on are in its second byte."""

TWICE: tl.constexpr = tl.constexpr(0xC8643210 - (1 << 32))
"""Two times what E2M1's codes 0 to 7 stand for, four bits each."""

CODES_0: tl.constexpr = tl.constexpr("""
lop3.b32 $0, $1, 0x000F000F, 0x43004300, 0xEA;
sub.rn.bf16x2 $0, $0, $2;
""")
CODES_1: tl.constexpr = tl.constexpr(
    CODES_0.value.replace("lop3.b32 $0, $1", "shr.b32 $0, $1, 4;\nlop3.b32 $0, $0")
)
CODES_2: tl.constexpr = tl.constexpr(CODES_1.value.replace("$1, 4;", "$1, 8;"))
CODES_3: tl.constexpr = tl.constexpr(CODES_1.value.replace("$1, 4;", "$1, 12;"))
"""Of two words' codes in PTX: 128 and a code is a bf16 with the code in its lowest bits, less 136."""

FLOATS_0: tl.constexpr = tl.constexpr("""{
.reg .b32 c, s;
mov.b32 c, 0x7F007F00;
shl.b32 s, $1, 12;
and.b32 s, s, 0x80008000;
shl.b32 $0, $1, 6;
lop3.b32 $0, $0, 0x01C001C0, s, 0xEA;
mul.rn.bf16x2 $0, $0, c;
}""")
FLOATS_1: tl.constexpr = tl.constexpr(
    FLOATS_0.value.replace("$1, 12;", "$1, 8;").replace("$1, 6;", "$1, 2;")
)
FLOATS_2: tl.constexpr = tl.constexpr(
    FLOATS_0.value.replace("$1, 12;", "$1, 4;").replace("shl.b32 $0, $1, 6;", "shr.b32 $0, $1, 2;")
)
FLOATS_3: tl.constexpr = tl.constexpr(
    FLOATS_0.value.replace("$1, 12;", "$1, 0;").replace("shl.b32 $0, $1, 6;", "shr.b32 $0, $1, 6;")
)
"""Of E2M1: its bits lie as a bf16's, whose exponent is then corrected by a product with 2**127."""

BYTES: tl.constexpr = tl.constexpr("""{
.reg .b32 c, s;
mov.b32 c, 0x7B807B80;
prmt.b32 $0, $1, 0, 0x1404;
and.b32 s, $0, 0x80008000;
shr.b32 $0, $0, 4;
lop3.b32 $0, $0, 0x07F007F0, s, 0xEA;
mul.rn.bf16x2 $0, $0, c;
}""")
"""Of two bytes of e4m3 likewise, by a product with 2**120."""


@triton.jit
def _integers(words, excess, ASM: tl.constexpr):
    """Two words of 16 bits -> two bf16: 128 and a code, less the excess."""
    return tl.inline_asm_elementwise(
        ASM, "=r,r,r", [words, excess], dtype=tl.bfloat16, is_pure=True, pack=2
    )


@triton.jit
def _floats(words, ASM: tl.constexpr):
    return tl.inline_asm_elementwise(ASM, "=r,r", [words], dtype=tl.bfloat16, is_pure=True, pack=2)


@triton.jit
def codes_of(
    words, zero, K: tl.constexpr, FORM: tl.constexpr, kind: tl.constexpr, FAST: tl.constexpr
):
    """The numbers, in `kind`, of words' K-th codes of four; those of E2M1 are twice as large.

    `zero` is by how much each row's differs from 8.
    """
    half: tl.constexpr = K % 2
    if FORM == INT4:
        if FAST and kind == tl.bfloat16:
            excess = (zero + 136.0).to(kind)[:, None]
            if K < PAST:
                numbers = _integers(words, excess, CODES_1 if half else CODES_0)
            else:
                numbers = _integers(words, excess, CODES_3 if half else CODES_2)
        else:
            numbers = (weights_of(words.to(tl.int32), K) - zero[:, None]).to(kind)
    elif FAST and kind == tl.bfloat16:
        if K < PAST:
            numbers = _floats(words, FLOATS_1 if half else FLOATS_0)
        else:
            numbers = _floats(words, FLOATS_3 if half else FLOATS_2)
    else:
        code = words.to(tl.int32) >> 4 * K
        table = code * 0 + TWICE
        twice = number_of(table >> ((code & 7) * 4), 0, MAGIC) - 8388608.0
        numbers = tl.where(code & 8 != 0, -twice, twice).to(kind)
    return numbers


@triton.jit
def bytes_of(weight, kind: tl.constexpr, FAST: tl.constexpr):
    """E4m3 as numbers in `kind`."""
    if FAST and kind == tl.bfloat16:
        numbers = tl.inline_asm_elementwise(
            BYTES, "=r,r", [weight], dtype=tl.bfloat16, is_pure=True, pack=2
        )
    else:
        numbers = weight.to(kind)
    return numbers
