#include "plan.h"

#include "kernels.h"

namespace penstock {

namespace {

/* Tokens of a prompt whose attention is one piece of work: with their heads, some dozens of
 * queries share each read of the keys. */
constexpr int QUERY_ITEMS = 64;

} // namespace

Plan::Plan(int group, int64_t floats, const pn_step_input &input) {
    number_tokens(input);
    cut(group, floats, input);
}

void Plan::number_tokens(const pn_step_input &input) {
    sequence.resize(size_t(input.tokens));
    position.resize(size_t(input.tokens));
    wanted.assign(size_t(input.tokens), 0);
    for (int row = 0; row < input.rows; row++)
        wanted[size_t(input.row_indices[row])] = 1;
    for (int at = 0; at < input.sequences; at++) {
        const int begin = input.subsequence_begins[at];
        for (int token = begin; token < input.subsequence_begins[at + 1]; token++) {
            sequence[size_t(token)] = at;
            position[size_t(token)] = input.past_lens[at] + token - begin;
            longest = position[size_t(token)] + 1 > longest ? position[size_t(token)] + 1 : longest;
        }
    }
}

void Plan::cut(int group, int64_t floats, const pn_step_input &input) {
    const int at_once = group >= QUERY_ITEMS ? 1 : QUERY_ITEMS / group;
    apart_of.assign(size_t(input.tokens), -1);
    for (int owner = 0; owner < input.sequences; owner++) {
        const int end = input.subsequence_begins[owner + 1];
        for (int token = input.subsequence_begins[owner]; token < end; token += at_once) {
            const int tokens = end - token < at_once ? end - token : at_once;
            const int splits = position[size_t(token + tokens - 1)] / SPLIT + 1;
            bool asked = false;
            for (int at = token; at < token + tokens; at++)
                asked = asked || wanted[size_t(at)];
            if (tokens > 1 || splits == 1) {
                pieces.push_back({owner, token, tokens, 0, splits, -1, asked});
                continue;
            }
            apart_of[size_t(token)] = int(apart.size());
            apart.push_back({token, splits, partials});
            for (int split = 0; split < splits; split++)
                pieces.push_back({owner, token, 1, split, split + 1, partials, asked});
            partials += splits * floats;
        }
    }
}

} // namespace penstock
