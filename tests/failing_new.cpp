// In a process that preloads it, one request of C++ for memory fails: the one after so many others.
#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<long> left{-1};  // negative: none fails
std::atomic<long> failed{0};

void* get(std::size_t size, std::size_t alignment) {
    if (left.load() >= 0 && left.fetch_sub(1) == 0) {
        ++failed;
        throw std::bad_alloc();
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, alignment < sizeof(void*) ? sizeof(void*) : alignment, size == 0 ? 1 : size) != 0) {
        throw std::bad_alloc();
    }
    return memory;
}

}  // namespace

extern "C" void fail_after(long requests) {
    failed = 0;
    left = requests;
}
// Whether one has failed; from now on none does.
extern "C" long failures() {
    left = -1;
    return failed;
}

constexpr std::size_t usual = __STDCPP_DEFAULT_NEW_ALIGNMENT__;
void* operator new(std::size_t size) { return get(size, usual); }
void* operator new[](std::size_t size) { return get(size, usual); }
void* operator new(std::size_t size, std::align_val_t alignment) { return get(size, static_cast<std::size_t>(alignment)); }
void* operator new[](std::size_t size, std::align_val_t alignment) { return get(size, static_cast<std::size_t>(alignment)); }
void operator delete(void* memory) noexcept { std::free(memory); }
void operator delete[](void* memory) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { std::free(memory); }
void operator delete(void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
void operator delete[](void* memory, std::size_t, std::align_val_t) noexcept { std::free(memory); }
