#include "kernels/dropout.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "core/threads.hpp"
#include "kernels/simd.hpp"

namespace fastopt {

namespace {

// The masks of one row, from chunks of elements that may reach over its ends; the last chunk made is kept for the next row.
template <class T>
class MaskMaker {
   public:
    MaskMaker(double rate, const Stream& stream) : stream_(stream) {
        const double threshold = std::ceil(rate * 0x1p32);
        const bool keeps = threshold < 0x1p32;  // a rate so close to 1 that no word reaches it drops everything
        threshold_ = keeps ? static_cast<std::uint32_t>(threshold) : 0;
        kept_ = static_cast<T>(keeps ? 1.0 / (1.0 - rate) : 0.0);
    }

    void row(Index first, Index count, T* to) {
        while (count > 0) {
            make(first / chunk_elements);
            const Index offset = first % chunk_elements;
            const Index take = std::min(count, chunk_elements - offset);
            std::memcpy(to, chunk_ + offset, static_cast<std::size_t>(take) * sizeof(T));
            first += take;
            to += take;
            count -= take;
        }
    }

   private:
    void make(Index chunk) {
        if (chunk == made_) {
            return;
        }
        std::uint32_t words[chunk_elements];
        random_chunk(stream_, static_cast<std::uint64_t>(chunk), words);
        for (Index i = 0; i < chunk_elements; ++i) {
            chunk_[i] = words[i] >= threshold_ ? kept_ : T(0);
        }
        made_ = chunk;
    }

    Stream stream_;
    std::uint32_t threshold_;
    T kept_;
    Index made_ = -1;
    T chunk_[chunk_elements];
};

}  // namespace

template <class T>
void dropout_forward(In<T> x, double rate, const Stream& stream, Index first, Out<T> mask, Out<T> y) {
    const Index vecs = ceil_div(x.cols, simd::Vec<T>::lanes);
    parallel_for(x.rows, 1, 30.0 * static_cast<double>(x.rows * x.cols), [=](Index begin, Index end) {
        MaskMaker<T> maker(rate, stream);
        for (Index i = begin; i < end; ++i) {
            maker.row((first + i) * x.cols, x.cols, mask.row(i));
            for (Index v = 0; v < vecs; ++v) {
                const Index at = v * simd::Vec<T>::lanes;
                simd::store(y.row(i) + at, simd::load(x.row(i) + at) * simd::load(mask.row(i) + at));
            }
        }
    });
}

template void dropout_forward<float>(ConstMatrix<float>, double, const Stream&, Index, Matrix<float>, Matrix<float>);
template void dropout_forward<double>(ConstMatrix<double>, double, const Stream&, Index, Matrix<double>, Matrix<double>);

}  // namespace fastopt
