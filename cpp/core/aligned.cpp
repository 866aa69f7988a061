#include "core/aligned.hpp"

#include <cstring>
#include <new>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace fastopt {

namespace {
constexpr Index huge_page = Index{1} << 21;
}

void* allocate_aligned(Index bytes) {
#if defined(__linux__)
    if (bytes >= 2 * huge_page) {
        // Anonymous pages come zeroed and are only paid for when touched.
        void* memory = mmap(nullptr, static_cast<std::size_t>(bytes), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) {
            throw std::bad_alloc();
        }
        madvise(memory, static_cast<std::size_t>(bytes), MADV_HUGEPAGE);
        return memory;
    }
#endif
    void* memory = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{cache_line});
    std::memset(memory, 0, static_cast<std::size_t>(bytes));
    return memory;
}

void release_aligned(void* memory, Index bytes) noexcept {
#if defined(__linux__)
    if (bytes >= 2 * huge_page) {
        munmap(memory, static_cast<std::size_t>(bytes));
        return;
    }
#endif
    (void)bytes;
    ::operator delete (memory, std::align_val_t{cache_line});
}

}  // namespace fastopt
