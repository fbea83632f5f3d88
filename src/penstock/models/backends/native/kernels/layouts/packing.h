/* The bytes of packed matrices.
 *
 * A matrix is a run of panels of 32 outputs, low half and high half. STACKED: outputs 32 p to
 * 32 p + 31. PAIRED: low half gate rows 16 p to 16 p + 15, high half the up rows of the same
 * numbers. What is past the end is zeros. Four columns (a quadruple) of one output are one lane.
 *
 * INT4 panel, by group: 32 fp16 scales; then by quadruple 64 bytes, low nibbles the low half's
 * sixteen lanes, high nibbles the high half's, each value with 8 added.
 *
 * INT8 panel: 32 fp32 scales; then by quadruple 64 bytes for the low half and 64 for the high, each
 * value with 128 added. Columns are filled up with zeros to whole groups.
 *
 * Codes with offsets, by group: 32 scales and 32 zeros or offsets, fp16 (Z) or fp32 (A); then lines
 * as INT4 or INT8 have them.
 *
 * PN_K4 to PN_K6, by 256 columns: 32 fp16 d and (but PN_K6) 32 fp16 m; then by 32 columns 32 bytes s
 * and 32 bytes t, or of PN_K6 those of either half; then lines as INT4 has them, without the 8. Higher
 * bits of codes are in lines of their own, one before each four lines (PN_K5, the lowest bit is the
 * first line's low half, the next its high half) or each two (PN_K6, two bits each likewise).
 * Panels of the tail, if there is one, follow those of the first rows.
 *
 * What is not quantised, by column: 32 weights, filled up with zeros to whole groups.
 *
 * So a product reads a panel from its first byte to its last, once.
 */
#pragma once

#include "kernels.h"
#include "penstock_native.h"

namespace penstock {

constexpr int PACKED_VERSION = 2;
constexpr int SUPERBLOCK = 256; /* columns, of PN_K4 to PN_K6 */

inline bool is_affine(int kind) { return kind >= PN_Z4 && kind <= PN_A8; }
inline bool is_plain(int kind) { return kind >= PN_W16 && kind <= PN_W32; }
inline bool is_nested(int kind) { return kind >= PN_K4; }

/* Bytes of a value of a matrix's input. */
inline int input_bytes(const Matrix &matrix) { return is_plain(matrix.kind) ? 4 : 1; }

/* What was added to a matrix's values to make them unsigned. */
inline int offset_of(const Matrix &matrix) {
    if (is_plain(matrix.kind))
        return OFFSET_PLAIN;
    if (is_nested(matrix.kind))
        return OFFSET_NESTED;
    if (is_affine(matrix.kind))
        return OFFSET_AFFINE;
    return matrix.kind == PN_I4 ? OFFSET_I4 : OFFSET_I8;
}

/* The matrix that a packing describes, without bytes; `panels` 0 where it makes no sense. */
Matrix matrix_of(const pn_packing &packing);

/* Bytes of all panels. */
int64_t packed_bytes(const Matrix &matrix);

/* A line about why a packing makes no sense, or null. */
const char *fault_of(const pn_packing &packing);

void pack(const pn_packing &packing, const pn_part *parts, int part_count, uint8_t *packed);

} // namespace penstock
