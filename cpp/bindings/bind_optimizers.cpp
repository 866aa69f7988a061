// Optimizers on anybody's arrays, in place.
#include <pybind11/stl.h>

#include <algorithm>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "bindings/named.hpp"
#include "optimizers/optimizer.hpp"

namespace fastopt {

namespace {

py::list list_of(const py::handle& object, const char* name) {
    check_type(py::isinstance<py::list>(object), name, " must be a list of NumPy arrays");
    return py::reinterpret_borrow<py::list>(object);
}

// Memory of one array of the call.
struct Span {
    const char* begin;
    const char* end;
    bool written;
};

// Arrays that are written must not share memory with any other.
void check_disjoint(std::vector<Span>& spans) {
    std::sort(spans.begin(), spans.end(), [](const Span& a, const Span& b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < spans.size(); ++i) {
        const Span& a = spans[i - 1];
        const Span& b = spans[i];
        check(b.begin >= a.end || !(a.written || b.written), "two of the arrays share memory, but they are updated in place");
        if (b.end < a.end) {
            spans[i].end = a.end;
            spans[i].written = spans[i].written || a.written;
        }
    }
}

template <class T>
class Call {
   public:
    Call(const Optimizer<T>& rule, const py::object& parameters, const py::object& gradients, const py::object& slots,
         const py::object& scalars) {
        const py::list w = list_of(parameters, "parameters");
        const py::list g = list_of(gradients, "gradients");
        const py::list s = list_of(slots, "slots");
        const std::size_t count = w.size();
        const std::size_t num_slots = rule.slot_names().size();
        check(g.size() == count, "parameters and gradients must have as many arrays; got ", count, " and ", g.size());
        check(s.size() == num_slots, "slots must have ", num_slots, " lists; got ", s.size());
        std::vector<Span> spans;
        const auto span = [&](const T* data, Index size, bool written) {
            if (size > 0) {
                spans.push_back({reinterpret_cast<const char*>(data), reinterpret_cast<const char*>(data + size), written});
            }
        };
        for (std::size_t i = 0; i < count; ++i) {
            Segment<T> segment;
            const py::array array = exact<T>(w[i], "parameters", true);
            held_.push_back(array);
            segment.w = data_of<T>(array);
            segment.size = array.size();
            const py::array gradient = exact<T>(g[i], "gradients");
            check(same_shape(array, gradient), "a gradient must have the shape of its parameter ", shape_text(array), "; got ",
                  shape_text(gradient));
            held_.push_back(gradient);
            segment.g = data_of<T>(gradient);
            span(segment.w, segment.size, true);
            span(segment.g, segment.size, false);
            for (std::size_t k = 0; k < num_slots; ++k) {
                const py::list slot = list_of(s[k], "slots");
                check(slot.size() == count, "every list of slots must have ", count, " arrays; got ", slot.size());
                held_.push_back(py::reinterpret_borrow<py::array>(slot[i]));
                segment.slots[k] = output_flat<T>(slot[i], "slots", segment.size).data;
                span(segment.slots[k], segment.size, true);
            }
            segments_.push_back(segment);
        }
        check_disjoint(spans);
        held_.push_back(py::reinterpret_borrow<py::array>(scalars));
        scalars_ = output_flat<double>(scalars, "scalars", static_cast<Index>(rule.scalar_names().size())).data;
    }

    void run(const Optimizer<T>& rule, Index t, double learning_rate) {
        double norm_squared = 0;
        if (rule.needs_norm()) {
            std::vector<double> partial;
            for (const Segment<T>& segment : segments_) {
                partial.resize(static_cast<std::size_t>(norm_chunks(segment.size)));
                norm_squared += squared_norm(segment, partial.data());
            }
        }
        StepInfo info{t, learning_rate, scalars_, norm_squared};
        rule.begin(info);
        for (const Segment<T>& segment : segments_) {
            rule.update(info, segment);
        }
    }

   private:
    std::vector<py::array> held_;  // the lists may change while Python goes on
    std::vector<Segment<T>> segments_;
    double* scalars_ = nullptr;
};

template <class T>
void bind_optimizers_of(py::module_& m) {
    using Bound = Named<Optimizer<T>>;
    py::class_<Bound>(m, class_name<T>("Optimizer").c_str())
        .def(py::init([](const std::string& name, const py::object& config) {
            return Bound{name, optimizer_registry<T>().make(name, config_from(config))};
        }))
        .def_readonly("name", &Bound::name)
        .def_property_readonly("slot_names", [](const Bound& self) { return self.held->slot_names(); })
        .def_property_readonly("scalar_names", [](const Bound& self) { return self.held->scalar_names(); })
        .def("initial_slot", [](const Bound& self, int slot) { return self.held->initial_slot(slot); })
        .def("initial_scalars",
             [](const Bound& self) {
                 const std::vector<double> values = self.held->initial_scalars();
                 return py::array_t<double>(static_cast<py::ssize_t>(values.size()), values.data());
             })
        .def("step",
             [](const Bound& self, const py::object& parameters, const py::object& gradients, const py::object& slots,
                const py::object& scalars, Index t, double learning_rate) {
                 check(t >= 1, "t counts from 1; got ", t);
                 check_rate<T>(learning_rate);
                 Call<T> call(*self.held, parameters, gradients, slots, scalars);
                 const Release release;
                 call.run(*self.held, t, learning_rate);
             })
        .def("evaluation_point", [](const Bound& self, const py::object& parameters, const py::object& slots, const py::object& scalars,
                                    const py::object& out) {
            (void)scalars;
            const int slot = self.held->evaluation_slot();
            const py::list w = list_of(parameters, "parameters");
            const py::list to = list_of(out, "out");
            check(to.size() == w.size(), "out must have ", w.size(), " arrays; got ", to.size());
            for (std::size_t i = 0; slot >= 0 && i < w.size(); ++i) {
                const Index size = input_flat<T>(w[i], "parameters").size;
                const py::list from = list_of(list_of(slots, "slots")[static_cast<std::size_t>(slot)], "slots");
                const Flat<T> average = sized_flat<T>(from[i], "slots", size);
                std::copy(average.data, average.data + size, output_flat<T>(to[i], "out", size).data);
            }
            return slot >= 0;
        });
}

}  // namespace

void bind_optimizers(py::module_& m) {
    bind_optimizers_of<float>(m);
    bind_optimizers_of<double>(m);
}

}  // namespace fastopt
