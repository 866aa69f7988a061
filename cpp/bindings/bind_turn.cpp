// Turns as a context of Python. Native, because a signal handler runs between two steps of Python code and may leave a lock taken there.
#include "bindings/bind.hpp"
#include "core/turn.hpp"

namespace fastopt {

namespace {

constexpr double look_seconds = 0.05;  // between two looks at signals

struct PythonTurn {
    Turn turn;
    py::object settle;
};

void enter(PythonTurn& self) {
    Turn& turn = self.turn;
    if (turn.begins_after_fork()) {
        self.settle();
    }
    if (turn.try_enter()) {
        return;
    }
    const Turn::Waiter me;
    turn.ask(me);
    for (;;) {
        bool mine = false;
        {
            const Release release;
            mine = turn.wait(me, look_seconds);
        }
        if (mine) {
            return;
        }
        if (PyErr_CheckSignals() != 0) {
            turn.give_up(me);
            throw py::error_already_set();
        }
    }
}

}  // namespace

void bind_turn(py::module_& m) {
    py::class_<PythonTurn>(m, "Turn")
        .def(py::init([](py::object settle) {
                 return std::make_unique<PythonTurn>(PythonTurn{{}, std::move(settle)});
             }),
             py::arg("settle"))
        .def("__enter__", &enter)
        .def("__exit__", [](PythonTurn& self, const py::args&) { self.turn.leave(); })
        .def_property_readonly("waiting", [](const PythonTurn& self) { return self.turn.waiting(); });
}

}  // namespace fastopt
