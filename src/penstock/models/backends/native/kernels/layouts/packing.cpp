#include "packing.h"

#include <string.h>

namespace penstock {

namespace {

/* Where an output of a part lies. */
struct Place {
    int panel;
    int half;
    int lane;
};

Place place_of(const pn_packing &packing, int part, int row) {
    if (packing.layout == PN_PAIRED)
        return {row / HALF_PANEL, part, row % HALF_PANEL};
    return {row / PANEL, row % PANEL / HALF_PANEL, row % HALF_PANEL};
}

void pack_row_i4(const Matrix &matrix, const uint8_t *values, const uint16_t *scales, Place place,
                 uint8_t *panel) {
    const int64_t group_bytes = 2 * PANEL + matrix.group / QUADRUPLE * 64;
    const int shift = place.half * 4;
    const uint8_t others = place.half ? 0x0F : 0xF0;
    for (int group = 0; group < matrix.groups; group++) {
        uint8_t *to = panel + group * group_bytes;
        memcpy(to + 2 * (place.half * HALF_PANEL + place.lane), scales + group, 2);
        to += 2 * PANEL;
        for (int at = 0; at < matrix.group; at++) {
            const int column = group * matrix.group + at;
            const int nibble = (values[column / 2] >> (column % 2 * 4) & 15) ^ OFFSET_I4;
            uint8_t &byte = to[at / QUADRUPLE * 64 + place.lane * QUADRUPLE + at % QUADRUPLE];
            byte = uint8_t((byte & others) | nibble << shift);
        }
    }
}

void pack_row_i8(const Matrix &matrix, const int8_t *values, const float *scale, Place place,
                 uint8_t *panel) {
    memcpy(panel + 4 * (place.half * HALF_PANEL + place.lane), scale, 4);
    uint8_t *to = panel + 4 * PANEL + place.half * 64 + place.lane * QUADRUPLE;
    for (int column = 0; column < matrix.columns; column++)
        to[column / QUADRUPLE * 128 + column % QUADRUPLE] = uint8_t(values[column] + OFFSET_I8);
}

/* Bytes of a scale or an offset; of a kind that has both. */
int64_t number_bytes(int kind) { return kind == PN_A4 || kind == PN_A8 ? 4 : 2; }

bool is_small(int kind) { return kind == PN_I4 || kind == PN_Z4 || kind == PN_A4; }

int64_t affine_group_bytes(const Matrix &matrix) {
    const int64_t line = is_small(matrix.kind) ? 64 : 128;
    return 2 * PANEL * number_bytes(matrix.kind) + matrix.group / QUADRUPLE * line;
}

void pack_row_affine(const Matrix &matrix, const uint8_t *values, const uint8_t *scales, Place place,
                     uint8_t *panel) {
    const int64_t number = number_bytes(matrix.kind);
    const bool small = is_small(matrix.kind);
    const int output = place.half * HALF_PANEL + place.lane;
    for (int group = 0; group < matrix.groups; group++) {
        uint8_t *to = panel + group * affine_group_bytes(matrix);
        const uint8_t *own = scales + 2 * number * group;
        memcpy(to + number * output, own, size_t(number));
        memcpy(to + number * (PANEL + output), own + number, size_t(number));
        to += 2 * PANEL * number;
        for (int at = 0; at < matrix.group; at++) {
            const int column = group * matrix.group + at;
            const int lane = place.lane * QUADRUPLE + at % QUADRUPLE;
            if (!small) {
                to[at / QUADRUPLE * 128 + place.half * 64 + lane] = values[column];
                continue;
            }
            const int nibble = values[column / 2] >> (column % 2 * 4) & 15;
            to[at / QUADRUPLE * 64 + lane] |= uint8_t(nibble << (place.half * 4));
        }
    }
}

int64_t weight_bytes(int kind) { return kind == PN_W32 ? 4 : 2; }

void pack_row_plain(const Matrix &matrix, const uint8_t *values, Place place, uint8_t *panel) {
    const int64_t size = weight_bytes(matrix.kind);
    uint8_t *to = panel + size * (place.half * HALF_PANEL + place.lane);
    for (int column = 0; column < matrix.columns; column++)
        memcpy(to + column * PANEL * size, values + column * size, size_t(size));
}

/* Bytes of 256 columns of a panel; and of a row's scales for them. */
int64_t superblock_bytes(int kind) {
    if (kind == PN_K4)
        return 2 * 64 + SUPERBLOCK_GROUPS * (64 + 8 * 64);
    if (kind == PN_K5)
        return 2 * 64 + SUPERBLOCK_GROUPS * (64 + 10 * 64);
    return 64 + SUPERBLOCK_GROUPS * (64 + 12 * 64);
}
int64_t level_bytes(int kind) { return kind == PN_K6 ? 18 : 20; }

/* A code of column `at` of a group to its place among the group's lines. */
void place_code(int kind, int code, int at, Place place, uint8_t *lines) {
    const int byte = place.lane * QUADRUPLE + at % QUADRUPLE;
    const int quadruple = at / QUADRUPLE;
    const int nibble = (code & 15) << (place.half * 4);
    if (kind == PN_K4) {
        lines[quadruple * 64 + byte] |= uint8_t(nibble);
        return;
    }
    const int each = kind == PN_K5 ? 4 : 2; /* quadruples that share a line of higher bits */
    const int width = kind == PN_K5 ? 1 : 2;
    uint8_t *own = lines + quadruple / each * (each + 1) * 64;
    own[byte] |= uint8_t((code >> 4) << (width * (2 * (quadruple % each) + place.half)));
    own[(1 + quadruple % each) * 64 + byte] |= uint8_t(nibble);
}

void pack_row_nested(int kind, int columns, const uint8_t *values, const uint8_t *levels,
                     Place place, uint8_t *to) {
    const int output = place.half * HALF_PANEL + place.lane;
    const int64_t group_bytes =
        (superblock_bytes(kind) - (kind == PN_K6 ? 64 : 128)) / SUPERBLOCK_GROUPS;
    for (int column = 0; column < columns; levels += level_bytes(kind)) {
        memcpy(to + 2 * output, levels, 2);
        if (kind != PN_K6)
            memcpy(to + 64 + 2 * output, levels + 2, 2);
        to += kind == PN_K6 ? 64 : 128;
        for (int group = 0; group < SUPERBLOCK_GROUPS; group++, to += group_bytes) {
            to[output] = kind == PN_K6 ? levels[2 + 2 * group] : levels[4 + group];
            to[PANEL + output] = kind == PN_K6 ? levels[3 + 2 * group] : levels[12 + group];
            for (int at = 0; at < SUPERBLOCK / SUPERBLOCK_GROUPS; at++, column++) {
                const int code =
                    kind == PN_K4 ? values[column / 2] >> (column % 2 * 4) & 15 : values[column];
                place_code(kind, code, at, place, to + 64);
            }
        }
    }
}

/* Where a row of a matrix with a tail, or without one, begins: its panel, and of which kind it is. */
struct Home {
    uint8_t *panel;
    int kind;
};

Home home_of(const Matrix &matrix, int panel, uint8_t *packed) {
    if (matrix.tail_panel == 0 || panel < matrix.tail_panel)
        return {packed + panel * matrix.panel_bytes, matrix.kind};
    return {packed + matrix.tail_panel * matrix.panel_bytes +
                (panel - matrix.tail_panel) * matrix.tail_bytes,
            matrix.tail_kind};
}

void pack_part_nested(const pn_packing &packing, const Matrix &matrix, const pn_part &part,
                      int number, int before, uint8_t *packed) {
    const uint8_t *values = static_cast<const uint8_t *>(part.values);
    const uint8_t *levels = static_cast<const uint8_t *>(part.scales);
    for (int row = 0; row < part.rows; row++) {
        const Place place = place_of(packing, number, before + row);
        const Home home = home_of(matrix, place.panel, packed);
        pack_row_nested(home.kind, matrix.columns, values, levels, place, home.panel);
        values += home.kind == PN_K4 ? matrix.columns / 2 : matrix.columns;
        levels += matrix.columns / SUPERBLOCK * level_bytes(home.kind);
    }
}

const char *fault_of_tail(const pn_packing &packing) {
    if (packing.tail_kind == 0 && packing.tail_rows == 0)
        return nullptr;
    const int before = packing.rows - packing.tail_rows;
    if (!is_nested(packing.kind) || !is_nested(packing.tail_kind) ||
        packing.tail_kind > PN_K6 || packing.layout != PN_STACKED)
        return "a tail is of PN_K4 to PN_K6, as the rows before it, which are stacked";
    if (packing.tail_rows < 1 || before < PANEL || before % PANEL != 0)
        return "a tail's rows begin behind whole panels";
    return nullptr;
}

const char *fault_of_group(const pn_packing &packing) {
    const int group = packing.group;
    if (is_nested(packing.kind))
        return group == 32 && packing.columns % SUPERBLOCK == 0
                   ? nullptr
                   : "of PN_K4 to PN_K6 the group is 32, and columns are whole 256s";
    if (group != 32 && group != 64 && group != 128 && !(group == 16 && is_affine(packing.kind)))
        return "a packing's group is 32, 64 or 128, or 16 of codes with offsets";
    if (packing.kind != PN_I8 && !is_plain(packing.kind) && packing.columns % group != 0)
        return "columns are whole groups, but of PN_I8 and what is not quantised";
    return nullptr;
}

} // namespace

const char *fault_of(const pn_packing &packing) {
    if (packing.kind < PN_I4 || packing.kind > PN_K6)
        return "a packing's kind is PN_I4 to PN_K6";
    if (packing.layout != PN_STACKED && packing.layout != PN_PAIRED)
        return "a packing's layout is PN_STACKED or PN_PAIRED";
    if (packing.rows < 1 || packing.columns < 1 || packing.columns > 1 << 24)
        return "a packing's rows or columns are out of range";
    if (const char *fault = fault_of_group(packing))
        return fault;
    if (packing.layout == PN_PAIRED && packing.rows % 2 != 0)
        return "a paired matrix has an even number of rows";
    return fault_of_tail(packing);
}

int64_t packed_bytes(const Matrix &matrix) {
    const int tails = matrix.tail_panel > 0 ? matrix.panels - matrix.tail_panel : 0;
    return (matrix.panels - tails) * matrix.panel_bytes + tails * matrix.tail_bytes;
}

Matrix matrix_of(const pn_packing &packing) {
    Matrix matrix;
    if (fault_of(packing) != nullptr)
        return matrix;
    matrix.kind = packing.kind;
    matrix.layout = packing.layout;
    matrix.rows = packing.rows;
    matrix.columns = packing.columns;
    matrix.group = packing.group;
    matrix.groups = (packing.columns + packing.group - 1) / packing.group;
    const int outputs = packing.layout == PN_PAIRED ? packing.rows / 2 : packing.rows;
    const int each = packing.layout == PN_PAIRED ? HALF_PANEL : PANEL;
    matrix.panels = (outputs + each - 1) / each;
    const int64_t quadruples = packing.group / QUADRUPLE;
    if (is_nested(packing.kind))
        matrix.panel_bytes = packing.columns / SUPERBLOCK * superblock_bytes(packing.kind);
    else if (is_plain(packing.kind))
        matrix.panel_bytes =
            int64_t(matrix.groups) * packing.group * PANEL * weight_bytes(packing.kind);
    else if (is_affine(packing.kind))
        matrix.panel_bytes = matrix.groups * affine_group_bytes(matrix);
    else if (packing.kind == PN_I4)
        matrix.panel_bytes = matrix.groups * (2 * PANEL + quadruples * 64);
    else
        matrix.panel_bytes = 4 * PANEL + matrix.groups * quadruples * 128;
    if (packing.tail_rows > 0) {
        matrix.tail_panel = (packing.rows - packing.tail_rows) / PANEL;
        matrix.tail_kind = packing.tail_kind;
        matrix.tail_bytes = packing.columns / SUPERBLOCK * superblock_bytes(packing.tail_kind);
    }
    return matrix;
}

void pack(const pn_packing &packing, const pn_part *parts, int part_count, uint8_t *packed) {
    const Matrix matrix = matrix_of(packing);
    if (is_nested(packing.kind)) {
        memset(packed, 0, size_t(packed_bytes(matrix)));
        for (int part = 0, before = 0; part < part_count; part++) {
            pack_part_nested(packing, matrix, parts[part], part, before, packed);
            before += packing.layout == PN_STACKED ? parts[part].rows : 0;
        }
        return;
    }
    const bool small = packing.kind == PN_I4;
    for (int panel = 0; panel < matrix.panels; panel++) {
        uint8_t *at = packed + panel * matrix.panel_bytes;
        if (is_affine(packing.kind) || is_plain(packing.kind)) {
            memset(at, 0, size_t(matrix.panel_bytes));
            continue;
        }
        const int64_t header = small ? 0 : 4 * PANEL;
        memset(at, 0, size_t(header));
        memset(at + header, small ? 0x88 : OFFSET_I8, size_t(matrix.panel_bytes - header));
        for (int group = 0; small && group < matrix.groups; group++)
            memset(at + group * (matrix.panel_bytes / matrix.groups), 0, 2 * PANEL);
    }
    int before = 0;
    for (int part = 0; part < part_count; part++) {
        for (int row = 0; row < parts[part].rows; row++) {
            const Place place = place_of(packing, part, before + row);
            uint8_t *panel = packed + place.panel * matrix.panel_bytes;
            if (is_plain(packing.kind))
                pack_row_plain(matrix,
                               static_cast<const uint8_t *>(parts[part].values) +
                                   int64_t(row) * matrix.columns * weight_bytes(packing.kind),
                               place, panel);
            else if (is_affine(packing.kind))
                pack_row_affine(matrix,
                                static_cast<const uint8_t *>(parts[part].values) +
                                    int64_t(row) * matrix.columns / (is_small(packing.kind) ? 2 : 1),
                                static_cast<const uint8_t *>(parts[part].scales) +
                                    int64_t(row) * matrix.groups * 2 * number_bytes(packing.kind),
                                place, panel);
            else if (small)
                pack_row_i4(matrix,
                            static_cast<const uint8_t *>(parts[part].values) +
                                int64_t(row) * (matrix.columns / 2),
                            static_cast<const uint16_t *>(parts[part].scales) +
                                int64_t(row) * matrix.groups,
                            place, panel);
            else
                pack_row_i8(matrix,
                            static_cast<const int8_t *>(parts[part].values) +
                                int64_t(row) * matrix.columns,
                            static_cast<const float *>(parts[part].scales) + row, place, panel);
        }
        if (packing.layout == PN_STACKED)
            before += parts[part].rows;
    }
}

} // namespace penstock
