/* A product with a matrix that is no part of a model, by its threads. */
#include "products.h"

namespace penstock {

namespace {

struct Projection {
    Model &model;
    const Matrix &matrix;
    int rows;
    const float *inputs;
    float *out;

    void work() {
        const Quantised in = input_of(model, matrix);
        model.team.phase(rows, 1, [&](int begin, int end) {
            for (int row = begin; row < end; row++)
                model.kernels.quantise(inputs + int64_t(row) * matrix.columns, matrix.columns, in,
                                       row);
        });
        multiply(model, {&matrix, &in, Outlet::store, out, matrix.rows, nullptr}, rows);
    }
};

} // namespace

void project(Model &model, const Matrix &matrix, int rows, const float *inputs, float *out) {
    const int64_t columns = int64_t(matrix.groups) * matrix.group * input_bytes(matrix);
    model.quantised.need(rows * columns + 64);
    model.scales.need(int64_t(rows) * matrix.groups);
    model.corrections.need(int64_t(rows) * matrix.groups * 2); /* two a group at most */
    Projection projection{model, matrix, rows, inputs, out};
    model.team.run([](void *self, int) { static_cast<Projection *>(self)->work(); }, &projection);
}

} // namespace penstock
