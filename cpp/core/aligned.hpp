// Memory: zeroed buffers that own, from a cache line or a page on; everything else in the library is a view of one.
#pragma once

#include <limits>
#include <new>

#include "core/types.hpp"

namespace fastopt {

// Aligned, zero-filled bytes. Large blocks ask for huge pages. Throws std::bad_alloc.
void* allocate_aligned(Index bytes);
void release_aligned(void* memory, Index bytes) noexcept;

template <class T>
class Buffer {
   public:
    Buffer() = default;
    explicit Buffer(Index size) : size_(size) {
        if (size > most) {
            throw std::bad_alloc();
        }
        if (size > 0) {
            data_ = static_cast<T*>(allocate_aligned(bytes()));
        }
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        swap(other);
        return *this;
    }
    ~Buffer() {
        if (data_ != nullptr) {
            release_aligned(data_, bytes());
        }
    }

    T* data() const { return data_; }
    Index size() const { return size_; }

    // Grow (never shrink) to at least `size`; contents are not kept.
    void reserve(Index size) {
        if (size > size_) {
            *this = Buffer();
            *this = Buffer(size);
        }
    }

   private:
    static constexpr Index most = (std::numeric_limits<Index>::max() >> 1) / static_cast<Index>(sizeof(T));

    // One more line than asked for, so that a whole-vector access at the last element stays inside.
    Index bytes() const { return round_up(size_ * static_cast<Index>(sizeof(T)), cache_line) + cache_line; }
    void swap(Buffer& other) noexcept {
        T* data = data_;
        Index size = size_;
        data_ = other.data_;
        size_ = other.size_;
        other.data_ = data;
        other.size_ = size;
    }

    T* data_ = nullptr;
    Index size_ = 0;
};

// Row length for a padded matrix. Long rows get an odd number of cache lines: with a power of two the rows of one tile fall
// into the same cache set and evict each other.
template <class T>
constexpr Index padded_ld(Index cols) {
    const Index lines = ceil_div(cols, line_elements<T>);
    return (lines >= 8 && lines % 2 == 0 ? lines + 1 : lines) * line_elements<T>;
}

// An owned padded matrix with a row capacity that only grows.
template <class T>
class PaddedMatrix {
   public:
    void reserve(Index rows, Index cols) {
        cols_ = cols;
        ld_ = padded_ld<T>(cols);
        if (ld_ > 0 && rows > std::numeric_limits<Index>::max() / ld_) {
            throw std::bad_alloc();
        }
        buffer_.reserve(rows * ld_);
    }
    Matrix<T> view(Index rows) const { return {buffer_.data(), rows, cols_, ld_, true}; }
    // The memory of one column as one without gaps.
    Matrix<T> plain_column(Index rows) const { return {buffer_.data(), rows, 1, 1}; }

   private:
    Buffer<T> buffer_;
    Index cols_ = 0;
    Index ld_ = 0;
};

}  // namespace fastopt
