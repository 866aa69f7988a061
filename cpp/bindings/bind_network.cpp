// Networks: flat zero-copy views, forward, backward, inference.
#include <pybind11/stl.h>

#include <algorithm>
#include <limits>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/direct.hpp"
#include "kernels/reduce.hpp"
#include "nn/network.hpp"

namespace fastopt {

namespace {

template <class T>
using Shared = std::shared_ptr<Network<T>>;

std::vector<LayerSpec> specs_from(const py::sequence& layers) {
    std::vector<LayerSpec> specs;
    for (const py::handle layer : layers) {
        const Config config = config_from(layer);
        specs.emplace_back(config.text("kind"), config);
    }
    return specs;
}

template <class T>
py::list segment_list(const Layout<T>& layout) {
    py::list out;
    for (const SegmentInfo& info : layout.segments()) {
        out.append(py::make_tuple(info.name, info.offset, py::tuple(py::cast(info.shape))));
    }
    return out;
}

template <class T>
py::list layer_table(const Network<T>& net) {
    py::list out;
    Index number = 0;
    for (const LayerInfo& info : net.layer_table()) {
        Index parameters = 0;
        for (const SegmentInfo& segment : net.parameter_layout().segments()) {
            parameters += segment.name.rfind(std::to_string(number) + ".", 0) == 0 ? segment.size : 0;
        }
        py::dict row;
        row["name"] = std::to_string(number++);
        row["kind"] = info.kind;
        row["description"] = info.description;
        row["outputs"] = info.outputs;
        row["parameters"] = parameters;
        row["trainable"] = info.trainable;
        out.append(row);
    }
    return out;
}

template <class T>
void copy_rows(ConstMatrix<T> from, T* to) {
    for (Index i = 0; i < from.rows; ++i) {
        copy_row(from.row(i), from.cols, to + i * from.cols);
    }
}

template <class T>
py::object infer(Network<T>& net, const py::object& x, const py::object& out) {
    const Source source = source_of(x, "x");
    check(source.cols == net.inputs(), "x must have ", net.inputs(), " columns; got shape ",
          shape_text(py::reinterpret_borrow<py::array>(x)));
    py::object result = out;
    if (out.is_none()) {
        result = new_matrix<T>(source.rows, net.outputs());
    }
    const Matrix<T> to = output_matrix<T>(result, "out");
    check_shape(to, source.rows, net.outputs(), "out");
    const auto item = static_cast<Index>(py::reinterpret_borrow<py::array>(x).itemsize());
    const Matrix<const char> seen{static_cast<const char*>(source.data), source.rows, source.cols * item, source.stride * item, false};
    check_apart(to, seen, "out", "x");
    if (!out.is_none()) {
        const auto flat = [](const T* data, Index size) { return Matrix<const T>{data, 1, size, size, false}; };
        check_apart(to, flat(net.parameters(), net.parameter_layout().total()), "out", "the network's parameters");
        check_apart(to, flat(net.buffers(), net.buffer_layout().total()), "out", "the network's parameters");
    }
    // To let go of Python and take it back costs as much as a small layer.
    if (net.brief_inference(source.rows) && net.mutex().try_lock()) {
        const std::lock_guard<SoleUse> lock(net.mutex(), std::adopt_lock);
        net.infer(source, to);
        return result;
    }
    const Release release;
    const std::lock_guard<SoleUse> lock(net.mutex());
    net.infer(source, to);
    return result;
}

// `undone`: a training forward that has not been when the call ends, so that no other thread sees it.
template <class T>
py::object forward(Network<T>& net, const py::object& x, bool training, bool undone) {
    const auto from = input_matrix<T>(x, "x");
    check(from.cols == net.inputs() && from.rows > 0, "x must have shape (rows, ", net.inputs(), ") with rows > 0; got (", from.rows, ", ",
          from.cols, ")");
    py::array_t<T> result = new_matrix<T>(from.rows, net.outputs());
    T* const out = result.mutable_data();
    {
        const Release release;
        const std::lock_guard<SoleUse> lock(net.mutex());
        lap(training ? net.profile() : nullptr, Phase::python);
        const Matrix<T> to = net.input(from.rows);
        for (Index i = 0; i < from.rows; ++i) {
            copy_row(from.row(i), from.cols, to.row(i));
        }
        const std::uint64_t before = net.training_step();
        const auto undo = [&] {
            if (undone && net.training_step() != before) {
                net.undo_forward();
            }
        };
        try {
            net.forward_choice().run(1, net.inference_work(from.rows), [&](Index) {
                copy_rows<T>(net.forward(from.rows, training), out);
                return true;
            });
        } catch (...) {
            undo();
            throw;
        }
        undo();
    }
    return std::move(result);
}

template <class T>
py::object backward(Network<T>& net, const py::object& grad_output) {
    const auto from = input_matrix<T>(grad_output, "grad_output");
    check(from.cols == net.outputs(), "grad_output must have ", net.outputs(), " columns; got ", from.cols);
    py::array_t<T> result = new_matrix<T>(from.rows, net.inputs());
    T* const out = result.mutable_data();
    {
        const Release release;
        const std::lock_guard<SoleUse> lock(net.mutex());
        check(net.ready_for_backward(from.rows),
              "backward needs a training forward of as many rows before it: call forward(x, training=True); "
              "grad_output has shape (",
              from.rows, ", ", from.cols, ")");
        lap(net.profile(), Phase::python);
        const Matrix<T> to = net.output_gradient(from.rows);
        for (Index i = 0; i < from.rows; ++i) {
            copy_row(from.row(i), from.cols, to.row(i));
        }
        net.backward_choice().run(1, 2 * net.inference_work(from.rows), [&](Index) {
            copy_rows<T>(net.backward(true), out);
            return true;
        });
    }
    return std::move(result);
}

template <class T>
py::object layer_output(Network<T>& net, Index layer) {
    std::vector<T> values;  // NumPy's memory takes Python, which is not waited for while the network is held
    Index rows = 0;
    Index cols = 0;
    {
        const Release release;
        const std::lock_guard<SoleUse> lock(net.mutex());
        const ConstMatrix<T> output = net.layer_output(layer);
        rows = output.rows;
        cols = output.cols;
        values.resize(static_cast<std::size_t>(rows * cols));
        copy_rows<T>(output, values.data());
    }
    py::array_t<T> result = new_matrix<T>(rows, cols);
    std::copy(values.begin(), values.end(), result.mutable_data());
    return std::move(result);
}

template <class T>
void bind_network_of(py::module_& m) {
    using Net = Network<T>;
    py::class_<Net, Shared<T>>(m, class_name<T>("Network").c_str())
        .def(py::init([](Index inputs, const py::sequence& layers, std::uint64_t seed, const std::string& precision) {
                 auto net = std::make_shared<Net>(inputs, specs_from(layers), seed, precision_from_name(precision));
                 net->set_between(&raise_interrupt);
                 return net;
             }),
             py::arg("inputs"), py::arg("layers"), py::arg("seed"), py::arg("precision") = "full")
        .def_property_readonly("inputs", &Net::inputs)
        .def_property_readonly("outputs", &Net::outputs)
        .def_property_readonly("num_parameters", [](const Net& net) { return net.parameter_layout().count(); })
        .def("parameter_segments", [](const Net& net) { return segment_list(net.parameter_layout()); })
        .def("buffer_segments", [](const Net& net) { return segment_list(net.buffer_layout()); })
        .def("layer_table", &layer_table<T>)
        .def_property_readonly("parameters",
                               [](const py::object& self) {
                                   const Net& net = *self.cast<Shared<T>>();
                                   return view_array(net.parameters(), net.parameter_layout().total(), self);
                               })
        .def_property_readonly("gradients",
                               [](const py::object& self) {
                                   const Net& net = *self.cast<Shared<T>>();
                                   return view_array(net.gradients(), net.parameter_layout().total(), self);
                               })
        .def_property_readonly("buffers",
                               [](const py::object& self) {
                                   const Net& net = *self.cast<Shared<T>>();
                                   return view_array(net.buffers(), net.buffer_layout().total(), self);
                               })
        .def_property("training_step", &Net::training_step, &Net::set_training_step)
        .def("set_profile",
             [](Net& net, std::shared_ptr<Profile> profile) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 check(profile == nullptr || net.profile() == nullptr, "this network is being profiled already");
                 net.set_profile(std::move(profile));
             })
        .def("lap",
             [](Net& net, const std::string& phase) {
                 if (net.profile() == nullptr) {
                     return;
                 }
                 const Phase ended = phase_from(phase);
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 lap(net.profile(), ended);
             })
        .def("initialize",
             [](Net& net, std::uint64_t seed) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 net.initialize(seed);
             })
        // As a context: nobody else computes with the network, or trains it, meanwhile.
        .def("__enter__",
             [](Net& net) {
                 constexpr double look_seconds = 0.05;
                 const auto entered = [&net] {
                     const Release release;
                     return net.mutex().enter(look_seconds);
                 };
                 while (!entered()) {
                     if (PyErr_CheckSignals() != 0) {
                         throw py::error_already_set();
                     }
                 }
             })
        .def("__exit__", [](Net& net, const py::args&) { net.mutex().leave(); })
        // Without a step of Python in between, where a signal handler might ask for what another thread has that waits for this lock.
        .def("copy_state",
             [](Net& net) {
                 const py::array_t<T> parameters(net.parameter_layout().total());
                 const py::array_t<T> buffers(net.buffer_layout().total());
                 std::uint64_t step = 0;
                 {
                     T* const to_parameters = data_of<T>(parameters);
                     T* const to_buffers = data_of<T>(buffers);
                     const Release release;
                     const std::lock_guard<SoleUse> lock(net.mutex());
                     std::copy(net.parameters(), net.parameters() + net.parameter_layout().total(), to_parameters);
                     std::copy(net.buffers(), net.buffers() + net.buffer_layout().total(), to_buffers);
                     step = net.training_step();
                 }
                 return py::make_tuple(parameters, buffers, step);
             })
        .def("set_state",
             [](Net& net, const py::object& parameters, const py::object& buffers, std::uint64_t step) {
                 const Flat<T> p = sized_flat<T>(parameters, "parameters", net.parameter_layout().total());
                 const Flat<T> b = sized_flat<T>(buffers, "buffers", net.buffer_layout().total());
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 std::copy(p.data, p.data + p.size, net.parameters());
                 std::copy(b.data, b.data + b.size, net.buffers());
                 net.set_training_step(step);
             })
        .def(
            "finite",
            [](const Net& net, double most) {
                constexpr T largest = std::numeric_limits<T>::max();
                return all_finite(net.parameters(), net.parameter_layout().total(), static_cast<T>(std::min<double>(most, largest)));
            },
            py::arg("most") = std::numeric_limits<double>::max())
        .def("adapted", &Net::adapted)
        .def("adapt",
             [](Net& net, const py::object& x) {
                 const Source source = source_of(x, "x");
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 net.adapt(source);
             })
        .def_property_readonly("infer", [](const py::object& self) { return direct_method<Net, &infer<T>>(self, "infer"); })
        .def("forward", &forward<T>, py::arg("x"), py::arg("training"), py::arg("undone") = false)
        .def("undo_forward",
             [](Net& net) {
                 const Release release;
                 const std::lock_guard<SoleUse> lock(net.mutex());
                 net.undo_forward();
             })
        .def("backward", &backward<T>)
        .def("layer_output", &layer_output<T>);
}

}  // namespace

void bind_network(py::module_& m) {
    bind_network_of<float>(m);
    bind_network_of<double>(m);
}

}  // namespace fastopt
