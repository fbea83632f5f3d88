#include "team.h"

#include <emmintrin.h>
#include <limits.h>
#include <linux/futex.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace penstock {

namespace {

/* Pauses before a thread sleeps: 40 to 140 cycles each, by CPU. Within a step the others come as
 * soon as their last piece is done, some dozens of microseconds with many rows; who slept would be
 * woken late. Much longer would burn, on a shared machine, the time that the others wait for. The
 * next step comes when the caller likes. */
constexpr int SPINS_WITHIN = 4000;
constexpr int SPINS_BETWEEN = 400;

void bind(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    sched_setaffinity(0, sizeof set, &set); /* a wish: computing elsewhere is right too */
}

} // namespace

void Team::Signal::raise() {
    value.fetch_add(1);
    if (sleepers.load() > 0)
        syscall(SYS_futex, &value, FUTEX_WAKE_PRIVATE, INT_MAX, nullptr, nullptr, 0);
}

void Team::Signal::wait(uint32_t old, int spins) {
    for (int spin = 0; spin < spins; spin++) {
        if (value.load(std::memory_order_acquire) != old)
            return;
        _mm_pause();
    }
    sleepers.fetch_add(1);
    while (value.load() == old)
        syscall(SYS_futex, &value, FUTEX_WAIT_PRIVATE, old, nullptr, nullptr, 0);
    sleepers.fetch_sub(1);
}

Team::Team(int threads, const std::vector<int> &cpus) : threads_(threads) {
    try {
        for (int thread = 1; thread < threads; thread++) {
            const int cpu = cpus.empty() ? -1 : cpus[size_t(thread)];
            workers_.emplace_back([this, thread, cpu] { serve(thread, cpu); });
        }
    } catch (...) {
        ending_ = true;
        started_.raise();
        for (std::thread &worker : workers_)
            worker.join();
        throw;
    }
}

Team::~Team() {
    ending_ = true;
    started_.raise();
    for (std::thread &worker : workers_)
        worker.join();
}

void Team::run(Work work, void *context) {
    work_ = work;
    context_ = context;
    if (threads_ > 1)
        started_.raise();
    work(context, 0);
    if (threads_ > 1)
        meet();
}

void Team::serve(int thread, int cpu) {
    if (cpu >= 0)
        bind(cpu);
    for (uint32_t seen = 0;; seen++) {
        started_.wait(seen, SPINS_BETWEEN);
        if (ending_)
            return;
        work_(context_, thread);
        meet();
    }
}

void Team::meet() {
    const uint32_t old = met_.value.load(std::memory_order_relaxed);
    if (arrived_.fetch_add(1) + 1 < threads_) {
        met_.wait(old, SPINS_WITHIN);
        return;
    }
    arrived_.store(0, std::memory_order_relaxed);
    next_.store(0, std::memory_order_relaxed);
    met_.raise();
}

} // namespace penstock
