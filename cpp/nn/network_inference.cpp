// Network: inference, in blocks of rows.
#include <algorithm>
#include <atomic>

#include "core/threads.hpp"
#include "kernels/copy_row.hpp"
#include "nn/network.hpp"

namespace fastopt {

namespace {

// Rows of one block: activations stay in cache, memory stays constant.
constexpr Index inference_rows = 512;
// Threads take rows of their own through all layers when all weights stay in a core's cache, or each has so many rows; else they share
// every product.
constexpr Index rows_of_a_thread = 256;
// A user's interrupt is looked for between pieces: their work, 20 to 40 ms, and their rows, at least, or weights would be packed too often.
constexpr double piece_work = 4e9;
constexpr Index fewest_of_piece = 512;

}  // namespace

template <class T>
void Network<T>::plan_inference(Index rows, int threads) {
    inference_plan_ = {};  // of no use once memory moves, should there be too little
    InferencePlan plan;
    plan.asked = {rows, get_num_threads()};
    plan.threads = threads;
    plan.block = std::min(inference_rows, round_up(ceil_div(rows, threads), row_grain));
    plan.scratch = scratch_elements(plan.block, threads > 1 ? 1 : plan.asked.threads);
    inference_scratch_.reserve(threads * plan.scratch);
    inference_.resize(std::max(inference_.size(), static_cast<std::size_t>(2 * threads)));
    Index widest = inputs_;
    for (const Stage& stage : stages_) {
        widest = std::max(widest, stage.layer->outputs());
    }
    for (int m = 0; m < 2 * threads; ++m) {
        inference_[static_cast<std::size_t>(m)].reserve(plan.block, widest);
    }
    inference_plan_ = plan;
}

template <class T>
void Network<T>::infer(const Source& source, Matrix<T> out) {
    check(adapted(), "the Standardize layer has not seen data yet");
    if (source.rows == 0) {
        return;
    }
    Index piece = source.rows;
    if (piece > fewest_of_piece && look_ != nullptr) {
        const double work_of_row = inference_work(1) + work_of_element * static_cast<double>(elements_of_row_);
        const Index worth = std::max<Index>(1, static_cast<Index>(piece_work / work_of_row));
        piece = round_up(worth, round_up(fewest_of_piece, inference_rows * get_num_threads()));
    }
    for (Index first = 0; first < source.rows; first += piece) {
        if (first > 0) {
            look_();
        }
        infer_piece(source, {first, std::min(first + piece, source.rows)}, out);
    }
}

template <class T>
void Network<T>::infer_piece(const Source& source, Range piece, Matrix<T> out) {
    const Pass pass{false, 0, 0, precision_};
    for (const Stage& stage : stages_) {
        stage.layer->prepare(pass);
    }
    const Index rows = piece.size();
    int threads = threads_by_rows(rows, inference_work(rows));
    if (threads > 1 && weight_bytes() > cached_bytes && rows < threads * rows_of_a_thread) {
        threads = 1;  // the layers share their products
    }
    const InferencePlan& plan = inference_plan_;
    if (const Shape asked{rows, get_num_threads()}; asked != plan.asked || threads != plan.threads) {
        plan_inference(rows, threads);
    }
    const Index blocks = ceil_div(rows, plan.block);
    // The first blocks belong to threads, of which fewer than asked for may come. Then who is through with one takes the next: threads are
    // not equally fast.
    std::atomic<Index> next{threads};
    parallel(threads, [&](int thread, int all) {
        for (Index b = thread; b < blocks; b = b + all < threads ? b + all : next.fetch_add(1, std::memory_order_relaxed)) {
            const Index first = piece.begin + b * plan.block;
            infer_block(source, first, std::min(plan.block, piece.end - first), out, &inference_[static_cast<std::size_t>(2 * thread)],
                        inference_scratch_.data() + thread * plan.scratch);
        }
    });
}

template <class T>
void Network<T>::infer_block(const Source& source, Index first, Index rows, Matrix<T> out, PaddedMatrix<T>* memory, T* temporary) {
    const Pass pass{false, 0, 0, precision_};
    int turn = 0;
    Matrix<T> x = memory[0].view(rows);
    x.cols = inputs_;
    gather<T>(source, nullptr, first, x);
    const Matrix<T> result = out.row_range(first, rows);
    for (const Stage& stage : stages_) {
        Layer<T>& layer = *stage.layer;
        if (layer.transparent(pass)) {
            continue;
        }
        if (&stage == &stages_.back() && layer.infers_to_any_rows()) {
            layer.forward(pass, x, result, temporary);
            return;
        }
        turn = 1 - turn;
        Matrix<T> y = memory[turn].view(rows);
        y.cols = layer.outputs();
        layer.forward(pass, x, y, temporary);
        x = y;
    }
    with_row_copy<T>(outputs_, [&](const auto& copy) {
        for (Index i = 0; i < rows; ++i) {
            copy(x.row(i), result.row(i));
        }
    });
}

#define FASTOPT_INSTANTIATE(T)                                              \
    template void Network<T>::plan_inference(Index, int);                   \
    template void Network<T>::infer(const Source&, Matrix<T>);              \
    template void Network<T>::infer_piece(const Source&, Range, Matrix<T>); \
    template void Network<T>::infer_block(const Source&, Index, Index, Matrix<T>, PaddedMatrix<T>*, T*);
FASTOPT_INSTANTIATE(float)
FASTOPT_INSTANTIATE(double)
#undef FASTOPT_INSTANTIATE

}  // namespace fastopt
