/* The threads of one model. A step is one run: all of them go through the same phases, take pieces
 * of a phase from a common counter, and meet at its end. */
#pragma once

#include <atomic>
#include <stdint.h>
#include <thread>
#include <vector>

namespace penstock {

class Team {
  public:
    using Work = void (*)(void *context, int thread);

    /* `cpus`: empty, or one a thread. Throws std::system_error where threads are not to be had. */
    Team(int threads, const std::vector<int> &cpus);
    ~Team();
    Team(const Team &) = delete;
    Team &operator=(const Team &) = delete;

    int threads() const { return threads_; }

    /* Call `work` on every thread, the caller's among them, and wait until all are done. */
    void run(Work work, void *context);

    /* From within `work`, by every thread alike: `piece(begin, end)` for all of 0 to `total`, each
     * by one thread; all are done when it returns. A thread takes many at once at first, so that it
     * reads memory in its order, and `least` towards the end, so that none waits long. */
    template <typename Piece> void phase(int total, int least, Piece piece) {
        if (threads_ == 1) {
            if (total > 0)
                piece(0, total);
            return;
        }
        int begin = next_.load(std::memory_order_relaxed);
        while (begin < total) {
            const int some = (total - begin) / (2 * threads_);
            const int wanted = begin + (some > least ? some : least);
            const int end = wanted < total ? wanted : total;
            if (!next_.compare_exchange_weak(begin, end, std::memory_order_relaxed))
                continue;
            piece(begin, end);
            begin = next_.load(std::memory_order_relaxed);
        }
        meet();
    }

  private:
    /* A number that threads wait upon: they spin for a while, since phases are short, then sleep. */
    struct Signal {
        std::atomic<uint32_t> value{0};
        std::atomic<int> sleepers{0};

        void raise();
        void wait(uint32_t old, int spins);
    };

    void meet();
    void serve(int thread, int cpu);

    int threads_;
    Work work_ = nullptr;
    void *context_ = nullptr;
    bool ending_ = false;
    std::vector<std::thread> workers_;
    alignas(64) std::atomic<int> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) Signal met_;
    alignas(64) Signal started_;
};

} // namespace penstock
