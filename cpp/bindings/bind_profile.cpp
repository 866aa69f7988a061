// The stopwatch of training, read as rows.
#include <pybind11/stl.h>

#include <memory>

#include "bindings/bind.hpp"
#include "core/check.hpp"
#include "core/profile.hpp"

namespace fastopt {

namespace {

// (phase, layer or None, calls, rows, seconds) of every phase that had a lap, in the order of the phases.
py::list cells(const Profile& profile) {
    py::list out;
    for (int p = 0; p < phase_count; ++p) {
        const auto phase = static_cast<Phase>(p);
        for (Index layer = 0; layer < profile.layers(); ++layer) {
            const Profile::Cell& cell = profile.cell(phase, layer);
            if (cell.calls > 0) {
                const py::object number = has_layers(phase) ? py::object(py::int_(layer)) : py::object(py::none());
                out.append(
                    py::make_tuple(phase_name(phase), number, cell.calls, cell.rows, std::chrono::duration<double>(cell.time).count()));
            }
        }
    }
    return out;
}

}  // namespace

Phase phase_from(const std::string& name) {
    for (int p = 0; p < phase_count; ++p) {
        if (const auto phase = static_cast<Phase>(p); !has_layers(phase) && name == phase_name(phase)) {
            return phase;
        }
    }
    throw std::invalid_argument("unknown phase '" + name + "'");
}

void bind_profile(py::module_& m) {
    py::class_<Profile, std::shared_ptr<Profile>>(m, "Profile")
        .def(py::init([](Index layers) {
            check(layers >= 1, "layers must be at least 1; got ", layers);
            return std::make_shared<Profile>(layers);
        }))
        .def("resume", &Profile::resume)
        .def("cells", &cells)
        .def_static("lap_seconds", &Profile::lap_seconds);
}

}  // namespace fastopt
