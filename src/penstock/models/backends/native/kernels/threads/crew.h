/* Threads that torch computes with, in `Team`'s manner: they come and go with every phase. */
#pragma once

#include <atomic>

#include "penstock_native.h"

namespace penstock {

class Crew {
  public:
    Crew(pn_parallel parallel, int threads) : parallel_(parallel), threads_(threads) {}

    /* See `Team::phase`. Called by one thread. */
    template <typename Piece> void phase(int total, int least, Piece piece) {
        if (total < 1)
            return;
        if (threads_ < 2 || parallel_ == nullptr || total <= least) {
            piece(0, total);
            return;
        }
        struct Shared {
            Piece &piece;
            int total;
            int least;
            int threads;
            std::atomic<int> next{0};
        } shared{piece, total, least, threads_};
        parallel_(
            [](void *context) {
                Shared &own = *static_cast<Shared *>(context);
                int begin = own.next.load();
                while (begin < own.total) {
                    const int some = (own.total - begin) / (2 * own.threads);
                    const int wanted = begin + (some > own.least ? some : own.least);
                    const int end = wanted < own.total ? wanted : own.total;
                    if (!own.next.compare_exchange_weak(begin, end))
                        continue;
                    own.piece(begin, end);
                    begin = own.next.load();
                }
            },
            &shared, unsigned(threads_), 0);
    }

  private:
    pn_parallel parallel_;
    int threads_;
};

} // namespace penstock
