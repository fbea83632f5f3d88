/* Memory that is handed out piece by piece and freed as a whole, in large pages where the system has
 * them: what a step reads from it does not wait for page tables. */
#pragma once

#include <new>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <vector>

namespace penstock {

class Arena {
  public:
    Arena() = default;
    ~Arena() {
        for (uint8_t *chunk : chunks_)
            free(chunk);
    }
    Arena(const Arena &) = delete;
    Arena &operator=(const Arena &) = delete;

    /* Bytes that begin at a cache line. Throws std::bad_alloc. */
    uint8_t *take(size_t bytes) {
        bytes = (bytes + LINE_BYTES - 1) / LINE_BYTES * LINE_BYTES;
        if (bytes > room_)
            grow(bytes);
        uint8_t *taken = next_;
        next_ += bytes;
        room_ -= bytes;
        return taken;
    }

  private:
    static constexpr size_t LINE_BYTES = 64;
    static constexpr size_t PAGE_BYTES = size_t(2) << 20;

    void grow(size_t bytes) {
        const size_t size = (bytes + PAGE_BYTES - 1) / PAGE_BYTES * PAGE_BYTES;
        void *memory = nullptr;
        chunks_.reserve(chunks_.size() + 1);
        if (posix_memalign(&memory, PAGE_BYTES, size) != 0)
            throw std::bad_alloc();
        madvise(memory, size, MADV_HUGEPAGE); /* a wish: small pages are right too */
        chunks_.push_back(static_cast<uint8_t *>(memory));
        next_ = chunks_.back();
        room_ = size;
    }

    std::vector<uint8_t *> chunks_;
    uint8_t *next_ = nullptr;
    size_t room_ = 0;
};

} // namespace penstock
