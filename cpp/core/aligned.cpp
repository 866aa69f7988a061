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
constexpr Index page = 4096;

// All but the smallest blocks begin with a page. Where one array lies a line or a few behind another, modulo a page, a Zen 4 takes the
// loads of one for what was just stored to the other: an update of 10 000 parameters took up to a quarter longer. And speed is no matter
// of luck then.
std::align_val_t alignment_of(Index bytes) { return std::align_val_t{static_cast<std::size_t>(bytes >= page / 4 ? page : cache_line)}; }

}  // namespace

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
    void* memory = ::operator new(static_cast<std::size_t>(bytes), alignment_of(bytes));
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
    ::operator delete(memory, alignment_of(bytes));
}

}  // namespace fastopt
