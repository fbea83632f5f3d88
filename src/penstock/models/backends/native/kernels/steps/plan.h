/* What a step's tokens are, and how their attention is cut into pieces of work. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <vector>

#include "penstock_native.h"

namespace penstock {

/* A piece of attention: some tokens of a sequence, one head of keys and values, some splits. */
struct Piece {
    int sequence;
    int first_token; /* within the step */
    int tokens;
    int first_split;
    int last_split;
    int64_t partials; /* where they begin for this token, or -1: all splits are in this piece */
    bool wanted;      /* by the last layer: logits are asked of one of its tokens */
};

/* A token whose splits were computed apart. */
struct Apart {
    int token;
    int splits;
    int64_t partials;
};

struct Plan {
    /* `group`: heads that are computed together, at most. `floats`: those of a split of a token, of all
     * heads, at most. */
    Plan(int group, int64_t floats, const pn_step_input &input);

    std::vector<int> sequence; /* by token */
    std::vector<int> position;
    std::vector<char> wanted; /* by token: whether its logits are asked for */
    std::vector<Piece> pieces;
    std::vector<Apart> apart;
    std::vector<int> apart_of; /* by token: its index in `apart`, or -1 */
    int64_t partials = 0;      /* floats */
    int longest = 0;           /* tokens that one sees at most, itself included */

    /* Of 64 bits, one for each of those. */
    int64_t words() const { return (int64_t(longest) + 63) / 64; }

  private:
    void number_tokens(const pn_step_input &input);
    void cut(int group, int64_t floats, const pn_step_input &input);
};

} // namespace penstock
