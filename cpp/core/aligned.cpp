#include "core/aligned.hpp"

#include <cstdint>
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
    if (bytes >= huge_page) {
        // Anonymous pages come zeroed and are only paid for when touched. Whole huge pages: what lies around them is given back.
        const auto size = static_cast<std::size_t>(round_up(bytes, huge_page));
        const auto spare = static_cast<std::size_t>(huge_page);
        void* mapped = mmap(nullptr, size + spare, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (mapped == MAP_FAILED) {
            throw std::bad_alloc();
        }
        auto* memory = static_cast<char*>(mapped);
        const std::size_t before = (spare - reinterpret_cast<std::uintptr_t>(memory) % spare) % spare;
        if (before > 0) {
            munmap(memory, before);
        }
        if (before < spare) {
            munmap(memory + before + size, spare - before);
        }
        madvise(memory + before, size, MADV_HUGEPAGE);
        return memory + before;
    }
#endif
    void* memory = ::operator new (static_cast<std::size_t>(bytes), std::align_val_t{cache_line});
    std::memset(memory, 0, static_cast<std::size_t>(bytes));
    return memory;
}

void release_aligned(void* memory, Index bytes) noexcept {
#if defined(__linux__)
    if (bytes >= huge_page) {
        munmap(memory, static_cast<std::size_t>(round_up(bytes, huge_page)));
        return;
    }
#endif
    (void)bytes;
    ::operator delete (memory, std::align_val_t{cache_line});
}

}  // namespace fastopt
