/* Memory for a step's intermediate results: grows, is reused, begins at a cache line. */
#pragma once

#include <new>
#include <stdint.h>
#include <stdlib.h>

namespace penstock {

template <typename T> class Buffer {
  public:
    Buffer() = default;
    ~Buffer() { free(memory_); }
    Buffer(const Buffer &) = delete;
    Buffer &operator=(const Buffer &) = delete;

    /* Room for `count` elements; what was there is lost. */
    T *need(int64_t count) {
        if (count <= count_)
            return memory_;
        free(memory_);
        memory_ = nullptr;
        count_ = 0;
        void *found = nullptr;
        if (posix_memalign(&found, 64, size_t(count) * sizeof(T)) != 0)
            throw std::bad_alloc();
        memory_ = static_cast<T *>(found);
        count_ = count;
        return memory_;
    }

    T *get() const { return memory_; }

  private:
    T *memory_ = nullptr;
    int64_t count_ = 0;
};

} // namespace penstock
