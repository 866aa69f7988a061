#include "nn/halves.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "kernels/gather.hpp"
#include "kernels/reduce.hpp"
#include "kernels/take_lines.hpp"
#include "kernels/thin.hpp"

namespace fastopt {

namespace {

// Parameters behind the first two layers, at most, that both threads keep and update for themselves. A weight gradient more takes less time
// than the lines of the other thread's part, where the cores are far apart by much: steps of 30-64-64-6 take 0.88 of the time then, with
// 650 parameters and 64 rows 0.95; near each other both ways take the same time.
constexpr Index most_kept_twice = 700;

}  // namespace

template <class T>
Halves<T>::Halves(Network<T>& network, bool padded_output, bool passes_one_output) : network_(network), split_(network.half_units()) {
    const Index first = network.first_of_halves();
    standardization_ = first > 0 ? &network.stage(0) : nullptr;
    for (Index s = first; s < network.stages(); ++s) {
        layers_.push_back(static_cast<DenseLayer<T>*>(&network.stage(s)));
    }
    check(layers() <= most_layers, "no more than ", most_layers, " layers in halves");
    for (auto& mine : halves_) {
        mine = std::make_unique<Half>();
        for (Gathered& one : mine->gathered) {
            one.tapes = std::make_unique<PartTapes>();
        }
        mine->activations.resize(layers_.size());
        mine->before.resize(layers_.size());
        mine->gradients.resize(layers_.size());
    }
    const DenseLayer<T>& last = layer(layers() - 1);
    plain_output_ = !padded_output && layers() > 2 && last.outputs() == 1 && last.activation() == Activation::identity;
    Index others = 0;
    for (Index l = sent_layers_; l < layers(); ++l) {
        others += layer(l).parameters();
    }
    if (others <= most_kept_twice) {
        sent_layers_ = layers();
    }
    constexpr Index most_units = OneOutput<T>::most_vecs * line_elements<T>;
    static_assert(padded_ld<T>(most_units) == most_units);
    ends_in_one_output_ = passes_one_output && plain_output_ && layers() == 3 && sends_all() && layer(1).activation() == Activation::relu &&
                          layer(1).outputs() <= most_units;
    for (int t = 0; t < threads; ++t) {
        plan_sent(t);
    }
}

// Weights and biases of this thread, each from a line on. Of the second layer thread 1 has the bias: thread 0 has to begin each step.
template <class T>
void Halves<T>::plan_sent(int thread) {
    Half& mine = half(thread);
    const Range own = units(thread);
    const auto add = [&](Index number, bool bias, Index first, Index rows, Index width, Index stride) {
        const Index segment = segments_of(number).begin + (bias ? 1 : 0);
        const Index flat = network_.parameter_layout().segments()[static_cast<std::size_t>(segment)].offset + first;
        mine.sent.push_back({number, bias, segment, flat, rows, width, stride, mine.sent_size});
        mine.sent_size = round_up(mine.sent_size + rows * width, line_elements<T>);
    };
    const Index units_of_first = layer(0).outputs();
    const Index units_of_second = layer(1).outputs();
    add(0, false, own.begin, network_.inputs(), own.size(), units_of_first);
    if (layer(0).bias() != nullptr) {
        add(0, true, own.begin, 1, own.size(), 0);
    }
    add(1, false, own.begin * units_of_second, 1, own.size() * units_of_second, 0);
    if (layer(1).bias() != nullptr && thread == 1) {
        add(1, true, 0, 1, units_of_second, 0);
    }
    for (Index l = 2; l < sent_layers_; ++l) {
        add(l, false, 0, 1, layer(l).inputs() * layer(l).outputs(), 0);
        if (layer(l).bias() != nullptr) {
            add(l, true, 0, 1, layer(l).outputs(), 0);
        }
    }
}

// Both threads begin with the same of their two batches, with nothing done ahead and no step to repeat.
template <class T>
void Halves<T>::begin_anew() {
    for (int t = 0; t < threads; ++t) {
        Half& mine = half(t);
        mine.begun = false;
        mine.now = 0;
        for (Gathered& one : mine.gathered) {
            one.tapes->forget();
            one.repeats = false;
        }
        mine.batch().crossing = t;
        mine.next().crossing = 1 - t;
    }
}

template <class T>
void Halves<T>::reserve(const Data<T>& data, Index rows) {
    begin_anew();
    const bool grows = rows > capacity_;
    rows_ = 0;  // should memory run out on the way
    capacity_ = grows ? 0 : capacity_;
    for (int t = 0; t < threads; ++t) {
        Half& mine = half(t);
        for (Gathered& to : mine.gathered) {
            to.tapes->reserve();
            to.rows.reserve(rows, network_.inputs());
            to.target = to.targets.reserve(data, rows, plain_output_);
        }
        if (!grows) {
            continue;
        }
        mine.next_order.reserve(rows);
        if (standardization_ != nullptr) {
            mine.standardized.reserve(rows, network_.inputs());
        }
        Index scratch = ends_in_one_output_ ? layer(1).outputs() : 0;
        for (Index l = 0; l < layers(); ++l) {
            const auto at = static_cast<std::size_t>(l);
            const Index width = l == 0 ? units(t).size() : layer(l).outputs();
            mine.activations[at].reserve(rows, width);
            mine.gradients[at].reserve(rows, width);
            if (activation_needs_input(layer(l).activation())) {
                mine.before[at].reserve(rows, width);
            }
            const Index inputs = l == 1 ? units(t).size() : layer(l).inputs();
            scratch = std::max(scratch, dense_scratch<T>(rows, inputs, width, 1));
        }
        mine.sums.reserve(is_thin(layer(1).outputs()) ? rows : 0, layer(1).outputs());
        mine.row_loss.reserve(rows);
        mine.scratch.reserve(scratch);
        crossing_[static_cast<std::size_t>(t)].reserve(rows, layer(1).outputs());
    }
    capacity_ = std::max(rows, capacity_);
    rows_ = rows;
    has_labels_ = data.labels != nullptr;
    target_columns_ = data.y.cols;
}

// What comes out of one unit, and its gradient, as a column without gaps if that is possible: loss and products read it by whole vectors.
template <class T>
Matrix<T> Halves<T>::view_of(const std::vector<PaddedMatrix<T>>& of_layers, Index number) const {
    const PaddedMatrix<T>& matrix = of_layers[static_cast<std::size_t>(number)];
    return plain_output_ && number == layers() - 1 ? matrix.plain_column(rows_) : matrix.view(rows_);
}

template <class T>
void Halves<T>::gather_rows(Gathered& to, const Data<T>& data, const Index* order) const {
    gather<T>(data.x, order, 0, to.rows.view(rows_));
    to.targets.gather_rows(data, order, {0, rows_});
}

template <class T>
Matrix<T> Halves<T>::input(int thread) const {
    const Half& mine = half(thread);
    return (standardization_ != nullptr ? mine.standardized : mine.batch().rows).view(rows_);
}

// Null: this thread has none.
template <class T>
T* Halves<T>::sent(int thread, Index number, bool bias, const Buffer<T>& memory) const {
    for (const Sent& one : half(thread).sent) {
        if (one.layer == number && one.bias == bias) {
            return memory.data() + one.own;
        }
    }
    return nullptr;
}

// Of a layer that is sent this thread's part of the weight, or its gradient.
template <class T>
Matrix<T> Halves<T>::weight(int thread, Index number, const Buffer<T>& memory) const {
    const Index rows = number == 1 ? units(thread).size() : layer(number).inputs();
    const Index columns = number == 0 ? units(thread).size() : layer(number).outputs();
    return {sent(thread, number, false, memory), rows, columns, columns, false, true};
}

// copy(owner, elements of the flat buffer, where they lie in memory of the owner) for all that is sent.
template <class T>
template <class F>
void Halves<T>::copy_sent(F&& copy) const {
    for (int t = 0; t < threads; ++t) {
        for (const Sent& one : half(t).sent) {
            for (Index row = 0; row < one.rows; ++row) {
                const Index flat = one.flat + row * one.stride;
                copy(half(t), Range{flat, flat + one.width}, one.own + row * one.width);
            }
        }
    }
}

template <class T>
void Halves<T>::send(const std::vector<Buffer<T>>& slots) {
    begin_anew();
    slots_ = slots.size();
    for (int t = 0; t < threads; ++t) {
        Half& mine = half(t);
        mine.parameters.reserve(mine.sent_size);
        mine.parameter_gradients.reserve(mine.sent_size);
        for (std::size_t s = 0; s < slots_; ++s) {
            mine.slots[s].reserve(mine.sent_size);
        }
    }
    copy_sent([&](Half& mine, Range from, Index to) {
        const auto part = [&](const T* flat, Buffer<T>& memory) { std::copy_n(flat + from.begin, from.size(), memory.data() + to); };
        part(network_.parameters(), mine.parameters);
        part(network_.gradients(), mine.parameter_gradients);
        for (std::size_t s = 0; s < slots_; ++s) {
            part(slots[s].data(), mine.slots[s]);
        }
    });
    away_ = true;
}

template <class T>
void Halves<T>::bring_home(std::vector<Buffer<T>>& slots) {
    if (!away_) {
        return;
    }
    copy_sent([&](Half& mine, Range to, Index from) {
        const auto part = [&](const Buffer<T>& memory, T* flat) { std::copy_n(memory.data() + from, to.size(), flat + to.begin); };
        part(mine.parameters, network_.parameters());
        part(mine.parameter_gradients, network_.gradients());
        for (std::size_t s = 0; s < slots_; ++s) {
            part(mine.slots[s], slots[s].data());
        }
    });
    away_ = false;
}

// This thread's part of those of the second layer. They become its activations where they lie, but for a thin one's: that leaves alone what
// is behind the columns, which would be summed again with each step. In one pass to their gradients they become these.
template <class T>
Matrix<T> Halves<T>::sums(int thread) const {
    const Half& mine = half(thread);
    return (ends_in_one_output_ ? mine.gradients[1] : is_thin(layer(1).outputs()) ? mine.sums : mine.activations[1]).view(rows_);
}

template <class T>
Matrix<T> Halves<T>::before(int thread, Index number) const {
    return activation_needs_input(layer(number).activation()) ? half(thread).before[static_cast<std::size_t>(number)].view(rows_)
                                                              : Matrix<T>{};
}

template <class T>
ConstMatrix<T> Halves<T>::slope_source(int thread, Index number) const {
    const Matrix<T> kept = before(thread, number);
    return kept.data != nullptr ? kept : half(thread).activations[static_cast<std::size_t>(number)].view(rows_);
}

template <class T>
void Halves<T>::begin(int thread, const Data<T>& data, const Index* order, bool gathered, Profile* profile) {
    Half& mine = half(thread);
    if (std::exchange(mine.begun, false) && gathered) {
        ++mine.steps_begun_ahead;
        return;
    }
    if (gathered) {
        mine.change();
    } else {
        gather_rows(mine.batch(), data, order);
    }
    lap(profile, Phase::gather, 0, gathered ? 0 : rows_);
    first_sums(thread, profile);
}

template <class T>
void Halves<T>::begin_ahead(int thread) {
    Half& mine = half(thread);
    mine.change();
    try {
        first_sums(thread, nullptr);
        mine.begun = true;
    } catch (...) {
        mine.change();  // what went wrong goes wrong again in its turn, when others can be told
    }
}

template <class T>
void Halves<T>::first_sums(int thread, Profile* profile) {
    Half& mine = half(thread);
    tapes(thread).begin(profile != nullptr);
    mine.steps_repeated += tapes(thread).plays() ? 1 : 0;
    tapes(thread).part(begin_part, [&](Tape* tape) {
        const Matrix<T> x = input(thread);
        if (standardization_ != nullptr) {
            Pass pass{true};
            pass.tape = tape;
            standardization_->forward(pass, mine.batch().rows.view(rows_), x, nullptr);
            lap(profile, Phase::forward, standardization_->number(), rows_);
        }
        const Matrix<T> h = activations(thread, 0);
        dense_forward<T>(x, weight(thread, 0, mine.parameters), bias(thread, 0, mine.parameters), layer(0).activation(), h,
                         before(thread, 0), mine.scratch.data(), Precision::full, {}, tape);
        lap(profile, Phase::forward, layer(0).number(), rows_);
        const Matrix<T> sums = this->sums(thread);
        dense_forward<T>(h, weight(thread, 1, mine.parameters), bias(thread, 1, mine.parameters), Activation::identity, sums, {},
                         mine.scratch.data(), Precision::full, {}, tape);
        const Matrix<T> over = crossing_[static_cast<std::size_t>(mine.batch().crossing)].view(rows_);
        make_call(tape, [=] { std::memcpy(over.data, sums.data, static_cast<std::size_t>(sums.rows * sums.ld) * sizeof(T)); });
        lap(profile, Phase::forward, layer(1).number(), rows_);
    });
}

template <class T>
void Halves<T>::gather_next(int thread, const Data<T>& data, const Rows& next, Profile* profile) {
    Half& mine = half(thread);
    next.copy_to(mine.next_order.data());
    gather_rows(mine.next(), data, mine.next_order.data());
    lap(profile, Phase::gather, 0, rows_);
}

template <class T>
bool Halves<T>::repeats(bool gathered) {
    Half& mine = half(0);
    const auto which = static_cast<std::size_t>(gathered ? 1 - mine.now : mine.now);
    bool& known = mine.gathered[which].repeats;  // the other thread's lines are not read in every step
    known = known || (mine.gathered[which].tapes->complete() && half(1).gathered[which].tapes->complete());
    return known;
}

template <class T>
Matrix<T> Halves<T>::sums_of_other(int thread) const {
    return crossing_[static_cast<std::size_t>(1 - half(thread).batch().crossing)].view(rows_);
}

template <class T>
void Halves<T>::ask_for_sums(int thread) {
    const Matrix<T> theirs = sums_of_other(thread);
    own_lines(theirs.data, theirs.rows * theirs.ld);
}

template <class T>
void Halves<T>::forward(int thread, Profile* profile) {
    Half& mine = half(thread);
    tapes(thread).part(forward_part, [&](Tape* tape) {
        const Activation activation = layer(1).activation();
        ConstMatrix<T> sums[threads] = {this->sums(thread), this->sums(thread)};
        sums[1 - thread] = sums_of_other(thread);
        const Matrix<T> to = activations(thread, 1);
        const Matrix<T> kept = before(thread, 1);
        make_call(tape, [=, one = sums[0], other = sums[1]] { activation_of_sum<T>(activation, one, other, to, kept); });
        lap(profile, Phase::forward, layer(1).number(), 0);
        for (Index l = 2; l < layers(); ++l) {
            const bool own = sends(l);
            dense_forward<T>(activations(thread, l - 1), own ? weight(thread, l, mine.parameters) : layer(l).weight(),
                             own ? bias(thread, l, mine.parameters) : layer(l).bias(), layer(l).activation(), activations(thread, l),
                             before(thread, l), mine.scratch.data(), Precision::full, {}, tape);
            lap(profile, Phase::forward, layer(l).number(), rows_);
        }
    });
}

template <class T>
void Halves<T>::backward(int thread, Profile* profile) {
    tapes(thread).part(backward_part, [&](Tape* tape) {
        const Index last = layers() - 1;
        if (const Activation activation = layer(last).activation(); activation != Activation::identity) {
            const ConstMatrix<T> source = slope_source(thread, last);
            const Matrix<T> grad = output_gradient(thread);
            make_call(tape, [=] { activation_backward<T>(activation, source, grad); });
        }
        for (Index l = last; l > 1; --l) {
            backward_through(thread, l, profile, tape);
        }
    });
    backward_second(thread, profile);
}

template <class T>
void Halves<T>::backward_second(int thread, Profile* profile) {
    tapes(thread).part(backward_second_part, [&](Tape* tape) { backward_through(thread, 1, profile, tape); });
}

template <class T>
void Halves<T>::backward_through(int thread, Index number, Profile* profile, Tape* tape) {
    Half& mine = half(thread);
    const ConstMatrix<T> grad = gradients(thread, number);
    const ConstMatrix<T> weights = sends(number) ? weight(thread, number, mine.parameters) : layer(number).weight();
    const Matrix<T> grad_x = gradients(thread, number - 1);
    const Activation slope = layer(number - 1).activation();
    const ConstMatrix<T> source = slope_source(thread, number - 1);
    if (both_at_once(number, profile)) {
        dense_backward<T>(activations(thread, number - 1), grad, weights, grad_x, slope, source,
                          weight(thread, number, mine.parameter_gradients), mine.scratch.data(), Precision::full, tape);
        return;
    }
    dense_backward_input<T>(grad, weights, grad_x, slope, source, mine.scratch.data(), Precision::full, tape);
    lap(profile, Phase::input_gradient, layer(number).number(), rows_);
}

template <class T>
OneOutput<T> Halves<T>::one_output(int thread, const T* row_scale) const {
    const Half& mine = half(thread);
    OneOutput<T> out;
    out.rows = rows_;
    out.units = layer(1).outputs();
    out.sums[0] = sums(thread).data;
    out.sums[1] = sums_of_other(thread).data;
    out.weight = sent(thread, 2, false, mine.parameters);
    out.bias = sent(thread, 2, true, mine.parameters);
    out.target = target(thread).dense.data;
    out.row_scale = row_scale;
    out.row_loss = row_loss(thread);
    out.output_gradient = gradients(thread, 2).data;
    out.gradient = gradients(thread, 1).data;
    out.weight_gradient = mine.scratch.data();  // it is not yet known that the loss is finite
    return out;
}

template <class T>
void Halves<T>::backward_behind_one_output(int thread) {
    const Half& mine = half(thread);
    std::copy_n(mine.scratch.data(), layer(1).outputs(), sent(thread, 2, false, mine.parameter_gradients));
    backward_second(thread, nullptr);
}

template <class T>
void Halves<T>::weight_gradient(int thread, Index number, Profile* profile) {
    tapes(thread).part(weight_part + static_cast<int>(number), [&](Tape* tape) { ask_weight_gradient(thread, number, profile, tape); });
    lap(profile, Phase::weight_gradient, layer(number).number(), rows_);
}

template <class T>
void Halves<T>::ask_weight_gradient(int thread, Index number, Profile* profile, Tape* tape) {
    Half& mine = half(thread);
    const auto at = static_cast<std::size_t>(number);
    const Matrix<T> grad = gradients(thread, number);
    const ConstMatrix<T> x = number == 0 ? input(thread) : activations(thread, number - 1);
    if (sends(number)) {
        if (!both_at_once(number, profile)) {
            dense_backward_weight<T>(x, grad, weight(thread, number, mine.parameter_gradients), mine.scratch.data(), Precision::full, {},
                                     tape);
        }
        if (T* const sums = bias(thread, number, mine.parameter_gradients); sums != nullptr) {
            make_call(tape, [=] { column_sums<T>(grad, sums); });
        }
    } else {
        Pass pass;
        pass.tape = tape;
        layers_[at]->backward_weight(pass, x, grad, {thread, threads}, mine.scratch.data());
    }
}

template <class T>
std::vector<typename Halves<T>::Own> Halves<T>::own(int thread, Index number) const {
    std::vector<Own> out;
    if (sends(number)) {
        for (const Sent& one : half(thread).sent) {
            if (one.layer == number) {
                out.push_back({one.segment, one.place()});
            }
        }
        return out;
    }
    const std::vector<SegmentInfo>& segments = network_.parameter_layout().segments();
    const Range all = segments_of(number);
    for (Index s = all.begin; s < all.end; ++s) {
        const SegmentInfo& info = segments[static_cast<std::size_t>(s)];
        const Range rows = Part{thread, threads}.template of<T>(info.shape[0], info.turn);
        const Index each = info.size / info.shape[0];
        if (!rows.empty()) {
            out.push_back({s, {info.offset + rows.begin * each, info.offset + rows.end * each}});
        }
    }
    return out;
}

template <class T>
Segment<T> Halves<T>::own_memory(int thread) const {
    const Half& mine = half(thread);
    Segment<T> out;
    out.w = mine.parameters.data();
    out.g = mine.parameter_gradients.data();
    for (std::size_t s = 0; s < slots_; ++s) {
        out.slots[s] = mine.slots[s].data();
    }
    out.size = mine.sent_size;
    return out;
}

template class Halves<float>;
template class Halves<double>;

}  // namespace fastopt
