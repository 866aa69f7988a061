// Training steps and runs of steps.
#include <pybind11/stl.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "bindings/target.hpp"
#include "core/denormals.hpp"
#include "nn/train_step.hpp"

namespace fastopt {

namespace {

TrainOptions options_from(const py::object& mapping) {
    const Config config = config_from(mapping);
    TrainOptions options;
    options.l1 = config.number("l1");
    options.l2 = config.number("l2");
    options.clip_norm = config.number("clip_norm");
    options.clip_value = config.number("clip_value");
    options.ema = config.number("ema");
    options.accumulate = config.integer("accumulate");
    return options;
}

template <class T>
Data<T> data_from(const TrainStep<T>& trainer, const py::object& x, const py::object& y, const py::object& weight, bool check_labels) {
    check(trainer.loss() != nullptr, "this trainer has a loss written in Python");
    const Network<T>& net = trainer.network();
    Data<T> data;
    data.x = source_of(x, "x");
    check(data.x.cols == net.inputs(), "x must have ", net.inputs(), " columns; got shape ",
          shape_text(py::reinterpret_borrow<py::array>(x)));
    const TargetArray<T> target = target_of<T>(y, *trainer.loss(), net.outputs(), data.x.rows, check_labels);
    data.labels = target.labels;
    data.y = {target.dense.data, source_type<T>, target.dense.rows, target.dense.cols, target.dense.ld};
    data.weight = weight_of<T>(weight, data.x.rows);
    return data;
}

// step(number) for so many steps, as TrainStep::thread_choice runs them.
template <class T, class F>
Index run(TrainStep<T>& self, Index steps, Index rows, F&& step) {
    const FlushDenormals flush;
    self.begin_run(steps);
    try {
        return self.thread_choice().run(steps, self.network().training_work(rows), step, self.least_team_work(steps, rows));
    } catch (...) {
        self.bring_home();
        throw;
    }
}

template <class T>
double step(TrainStep<T>& self, const py::object& x, const py::object& y, const py::object& weight, double learning_rate) {
    const Data<T> data = data_from(self, x, y, weight, true);
    check(data.x.rows > 0, "x must have at least one row");
    check_rate<T>(learning_rate);
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    lap(self.network().profile(), Phase::python);
    double loss = 0;
    run(self, 1, data.x.rows, [&](Index) {
        Rows rows;
        rows.count = data.x.rows;
        loss = self.step(data, rows, learning_rate).value;
        return true;
    });
    return loss;
}

// Of `count` labels only those of the rows in `order`: an epoch of many rows is run in many pieces. Where that names as many, all of them,
// one behind the other, are looked at first: a row may have a label that no row in `order` has.
template <class I>
bool labels_below(const std::int32_t* labels, Index count, const Flat<I>& order, Index limit) {
    if (order.size >= count && all_below(labels, count, limit)) {
        return true;
    }
    std::uint32_t outside = 0;
    for (Index i = 0; i < order.size; ++i) {
        outside |= static_cast<std::uint32_t>(static_cast<std::uint32_t>(labels[order.data[i]]) >= static_cast<std::uint32_t>(limit));
    }
    return outside == 0;
}

// How the batches of one or more epochs lie one behind the other in an order; the last one of each epoch may be short.
class Batches {
   public:
    Batches(Index rows, Index epoch_rows, Index batch_size)
        : rows_(rows), epoch_rows_(epoch_rows), size_(batch_size), each_(ceil_div(epoch_rows, batch_size)) {}

    Index epochs() const { return epoch_rows_ == 0 ? 0 : rows_ / epoch_rows_; }
    Index count() const { return epochs() * each_; }
    bool ends_epoch(Index batch) const { return (batch + 1) % each_ == 0; }
    Index epoch_of(Index batch) const { return batch / each_; }
    Index left_in_epoch(Index batch) const { return each_ - 1 - batch % each_; }
    // Batches behind one, each as long as all but the last of an epoch may be.
    Index whole_behind(Index batch) const {
        return epoch_rows_ % size_ == 0 ? count() - 1 - batch : std::max<Index>(0, left_in_epoch(batch) - 1);
    }
    // The row of the order that a batch begins with, and the batch behind the last one with the end of all.
    Index begin(Index batch) const { return each_ == 0 ? 0 : batch / each_ * epoch_rows_ + batch % each_ * size_; }

    // The rows of one batch after the other, without the divisions.
    class Walk {
       public:
        Walk(const Batches& of, Index first)
            : of_(of), begin_(of.begin(first)), epoch_end_(of.each_ == 0 ? 0 : (first / of.each_ + 1) * of.epoch_rows_) {}
        Range next() {
            const Range rows{begin_, std::min(begin_ + of_.size_, epoch_end_)};
            begin_ = rows.end;
            epoch_end_ += rows.end == epoch_end_ ? of_.epoch_rows_ : 0;
            return rows;
        }

       private:
        const Batches& of_;
        Index begin_;
        Index epoch_end_;
    };

   private:
    Index rows_;
    Index epoch_rows_;
    Index size_;
    Index each_;
};

// Steps [first, stop) of those that `all_rows`, rates, losses and weights are of.
template <class T, class I>
Index run_steps(TrainStep<T>& self, Data<T> data, const Flat<I>& all_rows, Index batch_size, const py::object& rates,
                const py::object& losses, const py::object& weights, Index first_step, Index stop, Index epoch_rows,
                const py::object& penalties, double most, bool look) {
    const Flat<double> all_rates = input_flat<double>(rates, "rates");
    const Index steps = all_rates.size;
    check(batch_size >= 1, "batch_size must be at least 1; got ", batch_size);
    epoch_rows = epoch_rows < 0 ? all_rows.size : epoch_rows;
    check(epoch_rows > 0 ? all_rows.size % epoch_rows == 0 : all_rows.size == 0, "order must hold epochs of ", epoch_rows, " rows; it has ",
          all_rows.size);
    const Batches batches(all_rows.size, epoch_rows, batch_size);
    check(steps <= batches.count(), "order has ", all_rows.size, " rows: too few for ", steps, " batches of ", batch_size);
    stop = stop < 0 ? steps : stop;
    check(first_step >= 0 && first_step <= stop && stop <= steps, "steps must be in 0..", steps, "; got ", first_step, " to ", stop);
    const Flat<double> rate{all_rates.data + first_step, stop - first_step};
    const Index before = batches.begin(first_step);
    const Flat<I> rows{all_rows.data + before, batches.begin(stop) - before};
    const Flat<double> loss_out{output_flat<double>(losses, "losses", steps).data + first_step, rate.size};
    const Flat<double> weight_out{output_flat<double>(weights, "weights", steps).data + first_step, rate.size};
    double* const penalty_out = penalties.is_none() ? nullptr : output_flat<double>(penalties, "penalties", batches.epochs()).data;
    check(all_below(rows.data, rows.size, data.x.rows), "order must hold rows 0..", data.x.rows - 1);
    check(data.labels == nullptr || labels_below(data.labels, data.x.rows, rows, self.network().outputs()), "labels must be in 0..",
          self.network().outputs() - 1);
    std::for_each(rate.data, rate.data + rate.size, check_rate<T>);
    std::atomic<bool> broken{false};
    if (look) {
        data.x.broken = &broken;
    }
    const Release release;
    const std::lock_guard<SoleUse> lock(self.network().mutex());
    lap(self.network().profile(), Phase::python);
    const HasErrand meanwhile(self.errand());
    Batches::Walk walk(batches, first_step);
    Range now = walk.next();
    const Index done = run(self, rate.size, batch_size, [&](Index s) {
        const Range after = s + 1 < rate.size ? walk.next() : Range{now.end, now.end};
        const Rows batch(rows.data + (now.begin - before), now.size());
        const Rows next(rows.data + (after.begin - before), after.size());
        Ahead ahead;
        if (self.wants_ahead()) {  // all but the last of those that surely come: each names the rows of the next one
            ahead = {std::min(self.thread_choice().steps_ahead(), batches.whole_behind(first_step + s) - 1), rate.data + s + 1};
            if (penalty_out != nullptr) {
                ahead.steps = std::min(ahead.steps, batches.left_in_epoch(first_step + s));
            }
        }
        const LossValue loss = self.step(data, batch, rate.data[s], next, rows.size - (now.end - before), ahead);
        loss_out.data[s] = loss.value;
        weight_out.data[s] = loss.weight;
        now = after;
        if (penalty_out != nullptr && batches.ends_epoch(first_step + s)) {
            penalty_out[batches.epoch_of(first_step + s)] = self.penalty();
        }
        return std::isfinite(loss.value);
    });
    // Steps that were made cannot end the run: another thread may have begun the next one.
    if (broken.load()) {
        return -1;
    }
    return std::find_if(loss_out.data, loss_out.data + done, [most](double loss) { return loss > most; }) - loss_out.data;
}

template <class T>
Index run_steps_in_order(TrainStep<T>& self, const py::object& x, const py::object& y, const py::object& weight, const py::object& order,
                         Index batch_size, const py::object& rates, const py::object& losses, const py::object& weights, Index first,
                         Index stop, Index epoch_rows, const py::object& penalties, double most, bool look) {
    const Data<T> data = data_from(self, x, y, weight, false);
    if (py::isinstance<py::array_t<std::int32_t>>(order)) {
        return run_steps(self, data, input_flat<std::int32_t>(order, "order"), batch_size, rates, losses, weights, first, stop, epoch_rows,
                         penalties, most, look);
    }
    return run_steps(self, data, input_flat<Index>(order, "order"), batch_size, rates, losses, weights, first, stop, epoch_rows, penalties,
                     most, look);
}

template <class T>
void bind_train_step_of(py::module_& m) {
    using Step = TrainStep<T>;
    py::class_<Step, std::shared_ptr<Step>>(m, class_name<T>("TrainStep").c_str())
        .def(py::init([](std::shared_ptr<Network<T>> network, const Named<Loss<T>>* loss, const Named<Optimizer<T>>& optimizer,
                         const py::object& options) {
                 return std::make_shared<Step>(std::move(network), loss == nullptr ? nullptr : loss->held, optimizer.held,
                                               options_from(options));
             }),
             py::arg("network"), py::arg("loss").none(true), py::arg("optimizer"), py::arg("options"))
        .def_property("t", &Step::t, &Step::set_t)
        .def_property_readonly("micro_steps", &Step::micro_steps)
        .def_property_readonly("steps_in_blocks", &Step::steps_in_blocks)
        .def_property_readonly("steps_in_halves", &Step::steps_in_halves)
        .def_property_readonly("steps_meeting_once", &Step::steps_meeting_once)
        .def_property_readonly("steps_with_one_output", &Step::steps_with_one_output)
        .def_property_readonly("steps_begun_ahead", &Step::steps_begun_ahead)
        .def_property_readonly("steps_repeated", &Step::steps_repeated)
        .def_property_readonly("slot_names", [](const Step& self) { return self.optimizer().slot_names(); })
        .def("slots",
             [](const py::object& object) {
                 const Step& self = *object.cast<std::shared_ptr<Step>>();
                 py::list out;
                 for (int s = 0; s < static_cast<int>(self.optimizer().slot_names().size()); ++s) {
                     out.append(view_array(self.slot(s), self.network().parameter_layout().total(), object));
                 }
                 return out;
             })
        .def_property_readonly("scalars",
                               [](const py::object& object) {
                                   Step& self = *object.cast<std::shared_ptr<Step>>();
                                   return view_array(self.scalars().data(), static_cast<Index>(self.scalars().size()), object);
                               })
        .def("waiting",
             [](const py::object& object) -> py::object {
                 Step& self = *object.cast<std::shared_ptr<Step>>();
                 if (!self.accumulates()) {
                     return py::none();
                 }
                 return py::make_tuple(view_array(self.waiting_gradients(), self.network().parameter_layout().total(), object),
                                       view_array(self.waiting().data(), static_cast<Index>(self.waiting().size()), object));
             })
        .def("averages",
             [](const py::object& object) -> py::object {
                 const Step& self = *object.cast<std::shared_ptr<Step>>();
                 if (!self.has_averages()) {
                     return py::none();
                 }
                 return py::make_tuple(view_array(self.average_parameters(), self.network().parameter_layout().total(), object),
                                       view_array(self.average_buffers(), self.network().buffer_layout().total(), object));
             })
        .def("reset",
             [](Step& self) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(self.network().mutex());
                 self.reset();
             })
        .def("step", &step<T>)
        .def("run_steps", &run_steps_in_order<T>, py::arg("x"), py::arg("y"), py::arg("weight").none(true), py::arg("order"),
             py::arg("batch_size"), py::arg("rates"), py::arg("losses"), py::arg("weights"), py::arg("first") = 0, py::arg("stop") = -1,
             py::arg("epoch_rows") = -1, py::arg("penalties") = py::none(), py::arg("most") = std::numeric_limits<double>::infinity(),
             py::arg("look") = false)
        .def("flush",
             [](Step& self, double learning_rate) {
                 check_rate<T>(learning_rate);
                 const Release release;
                 const std::lock_guard<SoleUse> lock(self.network().mutex());
                 lap(self.network().profile(), Phase::python);
                 const FlushDenormals flush;
                 return self.flush(learning_rate);
             })
        .def("update",
             [](Step& self, double learning_rate) {
                 check_rate<T>(learning_rate);
                 const Release release;
                 const std::lock_guard<SoleUse> lock(self.network().mutex());
                 lap(self.network().profile(), Phase::python);
                 const FlushDenormals flush;
                 self.update(learning_rate);
             })
        .def("penalty",
             [](Step& self) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(self.network().mutex());
                 return self.penalty();
             })
        .def_property_readonly("swapped", &Step::swapped)
        .def_property_readonly("evaluates_averages", &Step::evaluates_averages)
        .def("settle",
             [](Step& self) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(self.network().mutex());
                 self.forget_lost_call();
                 if (self.swapped()) {
                     self.swap_evaluation_point();
                 }
             })
        .def("swap_evaluation_point", [](Step& self) {
            const Release release;
            const std::lock_guard<SoleUse> lock(self.network().mutex());
            return self.swap_evaluation_point();
        });
}

}  // namespace

void bind_train_step(py::module_& m) {
    bind_train_step_of<float>(m);
    bind_train_step_of<double>(m);
}

}  // namespace fastopt
