#include "nn/network.hpp"

#include <algorithm>

#include "core/meeting.hpp"
#include "core/threads.hpp"
#include "kernels/take_lines.hpp"
#include "nn/dense_layer.hpp"
#include "nn/simple_layers.hpp"

namespace fastopt {

namespace {

// Threads go through a training step by rows, or by halves of the units, with weights of up to so many bytes, of which each step brings a
// part from the other core. On a Zen 3 shared products of more were 1.0 to 1.2 times as fast. (The instruction set stands for the
// processor.)
#if defined(__AVX512F__)
constexpr Index bytes_in_training = Index{1} << 20;
#else
constexpr Index bytes_in_training = Index{1} << 18;
#endif
// Of the layers that two threads share by units; and of the rows of a batch that both gather then.
constexpr Index fewest_in_halves = 1024;
constexpr Index parameters_a_sum = 40;  // of the second layer, which crosses between the threads, at least
constexpr Index input_bytes_in_halves = Index{1} << 17;
// Work of a training step that lasts so long, some 10 ms, that a user's interrupt is looked for in between.
constexpr double long_work = 2e9;

}  // namespace

template <class T>
Network<T>::Network(Index inputs, const std::vector<LayerSpec>& specs, std::uint64_t seed, Precision precision)
    : inputs_(inputs), precision_(precision) {
    check_precision(precision, sizeof(T));
    check(inputs >= 1, "inputs must be at least 1; got ", inputs);
    check(!specs.empty(), "a network needs at least one layer");
    build(specs);
    parameters_ = Buffer<T>(parameter_layout_.total());
    gradients_ = Buffer<T>(parameter_layout_.total());
    buffers_ = Buffer<T>(buffer_layout_.total());
    buffers_before_ = Buffer<T>(buffer_layout_.total());
    for (Stage& stage : stages_) {
        stage.layer->bind(parameters_.data(), gradients_.data(), buffers_.data());
    }
    initialize(seed);
    adapts_ = !adapted();
}

template <class T>
void Network<T>::build(const std::vector<LayerSpec>& specs) {
    Index width = inputs_;
    for (Index number = 0; number < static_cast<Index>(specs.size()); ++number) {
        const auto& [kind, config] = specs[static_cast<std::size_t>(number)];
        std::unique_ptr<Layer<T>> layer = layer_registry<T>().make(kind, config);
        layer->set_place(number, width);
        const auto segments = [&] { return static_cast<Index>(parameter_layout_.segments().size()); };
        const Index first = segments();
        layer->add_segments(parameter_layout_, buffer_layout_);
        width = layer->outputs();
        table_.push_back(layer->info());
        const auto* activation = dynamic_cast<const ActivationLayer<T>*>(layer.get());
        if (activation != nullptr && !stages_.empty() && stages_.back().layer->absorb(activation->activation())) {
            stages_.back().last_layer = number;
            continue;
        }
        stages_.push_back({std::move(layer), {}, {}, {}, false, number, number, {first, segments()}});
    }
    outputs_ = width;
    elements_of_row_ = inputs_;
    Index trained = padded_ld<T>(inputs_);
    for (const Stage& stage : stages_) {
        elements_of_row_ += stage.layer->outputs();
        trained += 2 * padded_ld<T>(stage.layer->outputs());
    }
    trained_bytes_of_row_ = trained * static_cast<Index>(sizeof(T));
    plan_halves();
    rows_alone_ = std::all_of(stages_.begin(), stages_.end(), [](const Stage& stage) { return stage.layer->rows_alone(); });
    repeats_ = std::all_of(stages_.begin(), stages_.end(), [](const Stage& stage) { return stage.layer->repeats(); });
}

// What follows the second layer is computed by both threads, so it must be little. All of this is a matter of sizes, never of threads;
// where it pays is in bench/README.md.
template <class T>
void Network<T>::plan_halves() {
    const Index first = table_.front().kind == "standardize" ? 1 : 0;
    const Index layers = stages() - first;
    if (precision_ != Precision::full || layers < 2 || layers > 3 || weight_bytes() > cached_bytes) {
        return;
    }
    DenseLayer<T>* dense[3] = {};
    for (Index l = 0; l < layers; ++l) {
        dense[l] = dynamic_cast<DenseLayer<T>*>(&stage(first + l));
        if (dense[l] == nullptr || !dense[l]->trainable()) {
            return;
        }
    }
    const Index shared = dense[0]->parameters() + dense[1]->parameters();
    const Index rest = layers > 2 ? dense[2]->parameters() : 0;
    const Index units = dense[0]->outputs();
    const Index half = (units / 2 + line_elements<T> / 2) / line_elements<T> * line_elements<T>;  // the nearest whole lines
    const bool even = half > 0 && 10 * std::max(half, units - half) <= 6 * units;
    const bool few_cross = shared >= parameters_a_sum * dense[1]->outputs();
    const bool little_follows = layers == 2 ? 2 * outputs_ <= units : 8 * rest <= shared;
    if (even && shared >= fewest_in_halves && few_cross && little_follows) {
        first_of_halves_ = first;
        half_units_ = half;
        dense[1]->set_first_half(half);
    }
}

template <class T>
bool Network<T>::in_halves(Index rows) const {
    return half_units_ > 0 && rows * padded_ld<T>(inputs_) * static_cast<Index>(sizeof(T)) <= input_bytes_in_halves;
}

template <class T>
std::vector<LayerInfo> Network<T>::layer_table() const {
    return table_;
}

// What the output of a stage meets first; normalization and dropout in between keep the question open.
template <class T>
Activation Network<T>::next_activation(std::size_t stage) const {
    for (std::size_t s = stage + 1; s < stages_.size(); ++s) {
        if (table_[static_cast<std::size_t>(stages_[s].first_layer)].kind == "dense") {
            break;
        }
        const Activation found = stages_[s].layer->activation();
        if (found != Activation::identity) {
            return found;
        }
    }
    return Activation::identity;
}

template <class T>
void Network<T>::initialize(std::uint64_t seed) {
    seed_ = seed;
    training_step_ = 0;
    trained_rows_ = 0;
    for (std::size_t s = 0; s < stages_.size(); ++s) {
        stages_[s].layer->initialize(seed, next_activation(s));
    }
}

// Who needs no data has all it needs from the beginning.
template <class T>
bool Network<T>::adapted() const {
    return !adapts_ || std::all_of(stages_.begin(), stages_.end(), [](const Stage& stage) { return stage.layer->adapted(); });
}

template <class T>
void Network<T>::adapt(const Source& source) {
    check(source.rows > 0, "adapt needs at least one row");
    check(source.cols == inputs_, "x must have ", inputs_, " columns; got ", source.cols);
    for (Stage& stage : stages_) {
        stage.layer->adapt(source);
    }
}

template <class T>
Index Network<T>::scratch_elements(Index rows, int threads) const {
    Index need = 0;
    for (const Stage& stage : stages_) {
        need = std::max(need, round_up(stage.layer->scratch(rows, threads), line_elements<T>));
    }
    return need;
}

template <class T>
T* Network<T>::scratch(Index rows) {
    if (const Shape shape{rows, get_num_threads()}; shape != scratch_for_) {
        scratch_for_ = {};
        scratch_.reserve(scratch_elements(rows, shape.threads));
        scratch_for_ = shape;
    }
    return scratch_.data();
}

template <class T>
void Network<T>::reserve(Index rows) {
    if (rows <= capacity_) {
        return;
    }
    // Should memory run out on the way, nothing here counts as there.
    capacity_ = 0;
    trained_rows_ = 0;
    tapes_.forget();
    for (Stage& stage : stages_) {
        stage.view = {};
    }
    Index widest = inputs_;
    input_.reserve(rows, inputs_);
    for (Stage& stage : stages_) {
        stage.layer->reserve(rows);
        stage.output.reserve(rows, stage.layer->outputs());
        widest = std::max(widest, stage.layer->outputs());
    }
    gradient_[0].reserve(rows, widest);
    gradient_[1].reserve(rows, widest);
    capacity_ = rows;
}

template <class T>
Matrix<T> Network<T>::input(Index rows) {
    reserve(rows);
    return input_.view(rows);
}

// What is new in every forward.
template <class T>
void Network<T>::begin_pass(Index rows, bool training) {
    check(adapted(), "the Standardize layer has not seen data yet");
    if (training) {
        std::copy(buffers_.data(), buffers_.data() + buffers_.size(), buffers_before_.data());
    }
    pass_ = {training, seed_, training ? ++training_step_ : training_step_, precision_, training ? profile_.get() : nullptr};
    pass_.in_halves = training && in_halves(rows);
    if (const Index trained = training ? rows : 0; trained != trained_rows_) {
        trained_rows_ = trained;
    }
    for (const Stage& stage : stages_) {
        stage.layer->prepare(pass_);
    }
}

// Everything about a forward that belongs to no row. What is as it was is not written: a store to a line that other threads read waits.
template <class T>
void Network<T>::begin(Index rows, bool training, bool apart) {
    tapes_.leave();
    begin_pass(rows, training);
    if (apart != apart_) {
        apart_ = apart;
    }
    if (const bool is_long = training && !apart && training_work(rows) > long_work; is_long != long_step_) {
        long_step_ = is_long;
    }
    if (long_step_ && between_.look) {
        pass_.between = &between_;
    }
    ConstMatrix<T> x = input_.view(rows);
    for (Stage& stage : stages_) {
        if (const bool transparent = stage.layer->transparent(pass_); transparent != stage.transparent) {
            stage.transparent = transparent;
        }
        if (!stage.transparent) {
            x = stage.output.view(rows);
        }
        if (stage.view.data != x.data || stage.view.rows != x.rows) {
            stage.view = x;
        }
    }
}

template <class T>
ConstMatrix<T> Network<T>::below(std::size_t stage, int thread) const {
    while (stage > 0 && stages_[stage - 1].transparent) {
        --stage;
    }
    if (stage > 0) {
        return stages_[stage - 1].view;
    }
    return apart_ ? input_of(thread) : input_.view(stages_[0].view.rows);
}

template <class T>
Pass Network<T>::pass_of(int thread, Index first, Index row) const {
    Pass pass = pass_;
    pass.first = first;
    pass.row = row;
    pass.profile = thread == 0 ? pass_.profile : nullptr;
    return pass;
}

template <class T>
void Network<T>::forward_rows(Range rows, int thread) {
    if (tapes_.plays()) {
        tapes_.forward().play();
        return;
    }
    forward_layers(rows, rows.begin, thread);
}

template <class T>
void Network<T>::forward_layers(Range rows, Index row, int thread) {
    Pass pass = pass_of(thread, rows.begin, row);
    pass.tape = tapes_.forward_to_keep();
    for (std::size_t s = 0; s < stages_.size(); ++s) {
        Layer<T>& layer = *stages_[s].layer;
        if (!stages_[s].transparent) {
            const auto mine = [&](const auto& m) { return m.row_range(rows.begin, rows.size()); };
            // A gradient comes in a burst of stores: the other threads have read its lines.
            const Matrix<T> next = takes_lines_ahead && apart_ && s + 1 < stages_.size() ? mine(gradient_of(s)) : Matrix<T>{};
            layer.forward_alone(pass, mine(below(s, thread)), mine(stages_[s].output.view(rows.end)), next, scratch_of(thread));
            lap(pass.profile, Phase::forward, layer.number(), stages_[s].view.rows);
            after_layer();
        }
    }
}

template <class T>
ConstMatrix<T> Network<T>::forward(Index rows, bool training) {
    begin(rows, training);
    scratch(rows);
    forward_rows({0, rows}, 0);
    return stages_.back().view;
}

template <class T>
void Network<T>::undo_forward() {
    if (trained_rows_ > 0) {
        std::copy(buffers_before_.data(), buffers_before_.data() + buffers_.size(), buffers_.data());
        training_step_ -= training_step_ > 0 ? 1 : 0;  // it may have been set meanwhile
        trained_rows_ = 0;
    }
}

template <class T>
void Network<T>::set_between(void (*function)()) {
    look_ = function;
    between_.look = [this, function] {
        try {
            function();
        } catch (...) {
            undo_forward();
            throw;
        }
    };
}

template <class T>
void Network<T>::look() const {
    if (between_.look) {
        between_.look();
    }
}

template <class T>
void Network<T>::after_layer() {
    if (pass_.between != nullptr) {
        pass_.between->look();
    }
}

template <class T>
Matrix<T> Network<T>::output_gradient(Index rows) const {
    Matrix<T> out = gradient_[0].view(rows);
    out.cols = outputs_;
    return out;
}

template <class T>
Slope<T> Network<T>::slope_of(std::size_t stage, const Pass& pass, Index rows, int thread) const {
    const Stage& at = stages_[stage];
    if (at.transparent) {
        return {};
    }
    return at.layer->slope(pass, below(stage, thread).row_range(pass.first, rows), at.view.row_range(pass.first, rows));
}

// Nothing below it needs a gradient.
template <class T>
std::size_t Network<T>::lowest_trainable() const {
    std::size_t lowest = 0;
    while (lowest < stages_.size() && !stages_[lowest].layer->trainable()) {
        ++lowest;
    }
    return lowest;
}

template <class T>
ConstMatrix<T> Network<T>::backward(bool want_input_gradient) {
    if (tapes_.plays() && !want_input_gradient) {
        tapes_.backward().play();
        tapes_.end();
        return {};
    }
    return backward_layers(want_input_gradient);
}

template <class T>
ConstMatrix<T> Network<T>::backward_layers(bool want_input_gradient) {
    const Index rows = trained_rows_;
    T* temporary = scratch(rows);
    Pass pass = pass_;
    pass.tape = tapes_.backward_to_keep();
    const std::size_t lowest = want_input_gradient ? 0 : lowest_trainable();
    int turn = 0;
    Matrix<T> grad = output_gradient(rows);
    if (lowest < stages_.size()) {
        const Slope<T> last = slope_of(stages_.size() - 1, pass, rows);
        if (last.activation != Activation::identity) {
            make_call(pass.tape, [=] { activation_backward<T>(last.activation, last.source, grad); });
        }
    }
    for (std::size_t s = stages_.size(); s-- > lowest;) {
        Layer<T>& layer = *stages_[s].layer;
        const bool wanted = s > lowest || want_input_gradient;
        const Slope<T> slope = s > 0 && wanted ? slope_of(s - 1, pass, rows) : Slope<T>{};
        if (stages_[s].transparent) {
            make_call(pass.tape, [=] { activation_backward<T>(slope.activation, slope.source, grad); });
            continue;
        }
        Matrix<T> grad_x;
        if (wanted) {
            grad_x = gradient_[1 - turn].view(rows);
            grad_x.cols = layer.inputs();
        }
        const Phase phase = layer.backward(pass, below(s), grad, grad_x, slope, temporary);
        lap(pass.profile, phase, layer.number(), rows);
        after_layer();
        if (wanted) {
            turn = 1 - turn;
            grad = grad_x;
        }
    }
    if (!want_input_gradient) {
        tapes_.end();
    }
    return want_input_gradient ? ConstMatrix<T>(grad) : ConstMatrix<T>{};
}

// Of `products` products with every weight, in floating-point operations.
template <class T>
double Network<T>::work(Index rows, int products) const {
    return 2.0 * products * static_cast<double>(parameter_layout_.total()) * static_cast<double>(rows);
}

// Threads that may take rows of their own through all layers.
template <class T>
int Network<T>::threads_by_rows(Index rows, double work) const {
    return static_cast<int>(std::min<Index>(threads_for(work), ceil_div(rows, row_grain)));
}

template <class T>
Index Network<T>::weight_bytes() const {
    return parameter_layout_.total() * static_cast<Index>(sizeof(T));
}

template <class T>
bool Network<T>::trains_apart() const {
    return weight_bytes() <= bytes_in_training;
}

template <class T>
int Network<T>::begin_step(Index rows) {
    if (trained_rows_ == rows && !apart_ && may_repeat() && tapes_.begin_again(place(rows))) {  // all is as the last forward left it
        begin_pass(rows, true);
        return 1;
    }
    const double work = training_work(rows);  // a long step looks for an interrupt, which only the thread that leads it can
    const bool by_rows = rows_alone_ && trains_apart() && work <= long_work;
    const int threads = by_rows ? std::min(threads_by_rows(rows, work), Meeting::most) : 1;
    begin(rows, true, threads > 1);
    if (threads == 1) {
        scratch(rows);
        if (may_repeat() && !long_step_) {
            tapes_.begin(place(rows));
        }
    } else if (const Shape shape{rows, threads}; shape != apart_for_) {
        apart_for_ = {};
        reserve_apart(rows, threads);
        apart_for_ = shape;
    }
    return threads;
}

// Of the output of each layer one of its own.
template <class T>
void Network<T>::reserve_gradients() {
    for (std::size_t s = 0; s + 1 < stages_.size(); ++s) {
        stages_[s].gradient.reserve(capacity_, stages_[s].layer->outputs());
    }
}

// A transparent stage passes the gradient on where it is.
template <class T>
Matrix<T> Network<T>::gradient_of(std::size_t stage) const {
    while (stage + 1 < stages_.size() && stages_[stage + 1].transparent) {
        ++stage;
    }
    return stage + 1 < stages_.size() ? stages_[stage].gradient.view(trained_rows_) : output_gradient(trained_rows_);
}

template <class T>
ConstMatrix<T> Network<T>::layer_output(Index layer) const {
    check(layer >= 0 && layer < static_cast<Index>(table_.size()), "layer must be in 0..", table_.size() - 1, "; got ", layer);
    for (const Stage& stage : stages_) {
        if (layer <= stage.last_layer) {
            check(stage.view.data != nullptr, "layer_output needs a forward pass first");
            return stage.view;
        }
    }
    return {};
}

template class Network<float>;
template class Network<double>;

}  // namespace fastopt
