/* Products by a model's threads. */
#pragma once

#include "model.h"
#include "packing.h"

namespace penstock {

/* Rows of a product that are one piece of work. */
constexpr int ROWS_AT_ONCE = PRODUCT_ROWS;

/* The model's room for quantised rows, as the input of a matrix. */
inline Quantised input_of(Model &model, const Matrix &matrix) {
    return {model.quantised.get(),
            model.scales.get(),
            model.corrections.get(),
            int64_t(matrix.groups) * matrix.group,
            matrix.group,
            matrix.groups,
            offset_of(matrix),
            matrix.order};
}

/* A product of `rows` rows, by all threads of the model, each of which calls this. */
inline void multiply(Model &model, const Product &product, int rows) {
    const Matrix &matrix = *product.matrix;
    const int parts = (rows + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;
    if (parts <= 1) {
        model.team.phase(rows == 0 ? 0 : matrix.panels, 1, [&](int begin, int end) {
            model.kernels.product(product, begin, end, 0, rows);
        });
        return;
    }
    const int each = (rows + parts - 1) / parts;
    model.team.phase(matrix.panels * parts, 1, [&](int begin, int end) {
        for (int at = begin; at < end; at++) {
            const int panel = at / parts;
            const int row = at % parts * each;
            const int last = row + each < rows ? row + each : rows;
            model.kernels.product(product, panel, panel + 1, row, last);
        }
    });
}

/* See `pn_project`; throws std::bad_alloc before anything was written. */
void project(Model &model, const Matrix &matrix, int rows, const float *inputs, float *out);

} // namespace penstock
