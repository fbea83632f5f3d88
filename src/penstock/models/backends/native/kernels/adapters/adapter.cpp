#include "adapter.h"

#include <algorithm>
#include <functional>
#include <string.h>

#include "model.h"

namespace penstock {

namespace {

size_t element_bytes(int element) { return element == PN_F32 ? 4 : 2; }

/* Where a pair's outputs begin, counted as `LowRank.first_block` is. */
int first_place(const pn_packing &matrix, int first) {
    const int half = matrix.rows / 2;
    if (matrix.layout != PN_PAIRED || first < half)
        return first;
    return (half + HALF_PANEL - 1) / HALF_PANEL * HALF_PANEL + first - half;
}

/* A row of a step with an adapter. */
struct Entry {
    const Adapter *adapter;
    int row;
    int token;
};

/* The entries, adapter by adapter. */
AdapterRows grouped(std::vector<Entry> &entries) {
    std::stable_sort(entries.begin(), entries.end(), [](const Entry &one, const Entry &other) {
        return std::less<const Adapter *>()(one.adapter, other.adapter);
    });
    AdapterRows found;
    for (const Entry &entry : entries) {
        const int at = int(found.rows.size());
        if (found.runs.empty() || found.runs.back().adapter != entry.adapter ||
            found.runs.back().count == MOST_RUN)
            found.runs.push_back({entry.adapter, at, 0});
        found.runs.back().count++;
        found.rows.push_back(entry.row);
        found.tokens.push_back(entry.token);
    }
    return found;
}

} // namespace

bool Adapter::changes(int which, int layer, const pn_packing &matrix, int first_output,
                      int outputs) const {
    const int first = first_place(matrix, first_output);
    for (const LowRank &other : at(which, layer))
        if (first < other.first + other.outputs && other.first < first + outputs)
            return true;
    return false;
}

void Adapter::append(int which, int layer, const pn_packing &matrix, const pn_low_rank &pair) {
    std::vector<LowRank> &own = pairs[size_t(layer) * PN_MATRICES + size_t(which)];
    const size_t size = element_bytes(pair.element);
    const size_t down_bytes = size * size_t(pair.rank) * size_t(pair.columns);
    const LowRank *shared = nullptr; /* parts of a fused matrix may have one `down` */
    int count = 0;
    for (const LowRank &other : own) {
        if (other.rank == pair.rank && other.element == pair.element &&
            other.scale == pair.scale && memcmp(other.down, pair.down, down_bytes) == 0)
            shared = &other;
        count = std::max(count, other.first_small + other.rank);
    }
    const int first = first_place(matrix, pair.first);
    const int block = first / HALF_PANEL;
    const int blocks = (first + pair.outputs - 1) / HALF_PANEL - block + 1;
    const void *down = shared == nullptr
                           ? memcpy(memory_.take(down_bytes), pair.down, down_bytes)
                           : shared->down;
    const size_t block_bytes = size * size_t(pair.rank) * HALF_PANEL;
    uint8_t *up = memory_.take(block_bytes * size_t(blocks));
    memset(up, 0, block_bytes * size_t(blocks));
    const uint8_t *from = static_cast<const uint8_t *>(pair.up);
    for (int output = 0; output < pair.outputs; output++) {
        const int place = first - block * HALF_PANEL + output;
        uint8_t *to = up + size_t(place / HALF_PANEL) * block_bytes;
        for (int at = 0; at < pair.rank; at++, from += size)
            memcpy(to + size * size_t(at * HALF_PANEL + place % HALF_PANEL), from, size);
    }
    const int first_small = shared == nullptr ? count : shared->first_small;
    own.push_back({pair.rank, pair.element, pair.columns, pair.scale, down, up, first, pair.outputs,
                   block, blocks, first_small});
    small = std::max(small, own.back().first_small + pair.rank);
    rank = std::max(rank, int(pair.rank));
    most_pairs = std::max(most_pairs, int(own.size()));
}

StepAdapters::StepAdapters(const pn_step_input &input) {
    if (input.adapters == nullptr)
        return;
    std::vector<Entry> all;
    std::vector<Entry> asked;
    int row = 0;
    for (int sequence = 0; sequence < input.sequences; sequence++) {
        const pn_adapter *used = input.adapters[sequence];
        const Adapter *own = used == nullptr ? nullptr : &used->adapter;
        if (own != nullptr) {
            small = std::max(small, own->small);
            rank = std::max(rank, own->rank);
            most_pairs = std::max(most_pairs, own->most_pairs);
        }
        for (int token = input.subsequence_begins[sequence];
             token < input.subsequence_begins[sequence + 1]; token++) {
            if (own != nullptr)
                all.push_back({own, token, token});
            if (row >= input.rows || input.row_indices[row] != token)
                continue;
            if (own != nullptr)
                asked.push_back({own, row, token});
            row++;
        }
    }
    tokens = grouped(all);
    wanted = grouped(asked);
    runs.resize(std::max(tokens.runs.size(), wanted.runs.size()));
    coming.resize(runs.size() * size_t(most_pairs));
}

const char *fault_of_adapters(const Model &model, const pn_step_input &input) {
    if (input.adapters == nullptr)
        return nullptr;
    for (int sequence = 0; sequence < input.sequences; sequence++)
        if (input.adapters[sequence] != nullptr &&
            input.adapters[sequence]->adapter.layers != model.shape.layers)
            return "an adapter is of a model with other layers";
    return nullptr;
}

} // namespace penstock
