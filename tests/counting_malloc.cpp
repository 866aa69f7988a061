// Counts every request for memory in a process that preloads it: malloc and its relatives, and mappings without a file.
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

extern "C" {

// What glibc calls its own allocator.
void* __libc_malloc(size_t);
void* __libc_calloc(size_t, size_t);
void* __libc_realloc(void*, size_t);
void* __libc_memalign(size_t, size_t);

static long count = 0;
static void seen() { __atomic_fetch_add(&count, 1, __ATOMIC_RELAXED); }
long allocations() { return __atomic_load_n(&count, __ATOMIC_RELAXED); }

void* malloc(size_t size) {
    seen();
    return __libc_malloc(size);
}
void* calloc(size_t items, size_t size) {
    seen();
    return __libc_calloc(items, size);
}
void* realloc(void* memory, size_t size) {
    seen();
    return __libc_realloc(memory, size);
}
void* memalign(size_t alignment, size_t size) {
    seen();
    return __libc_memalign(alignment, size);
}
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
int posix_memalign(void** memory, size_t alignment, size_t size) {
    *memory = memalign(alignment, size);
    return *memory == nullptr ? 12 : 0;  // ENOMEM
}
void* mmap(void* address, size_t size, int protection, int flags, int file, off_t offset) {
    seen();
    return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, file, offset));
}
}
