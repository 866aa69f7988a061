// Build facts, threads, names of what is registered, the machine's limits.
#include <pybind11/stl.h>

#include <cmath>
#include <limits>
#include <utility>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/balance.hpp"
#include "core/cores.hpp"
#include "core/rng.hpp"
#include "core/thread_choice.hpp"
#include "core/threads.hpp"
#include "kernels/activations.hpp"
#include "kernels/build.hpp"
#include "kernels/precision.hpp"
#include "kernels/roofline.hpp"
#include "losses/loss.hpp"
#include "nn/init.hpp"
#include "nn/layer.hpp"
#include "optimizers/optimizer.hpp"

namespace fastopt {

namespace {

Config::Value value_from(const std::string& name, const py::handle& value) {
    if (py::isinstance<py::bool_>(value)) {
        return value.cast<bool>();
    }
    if (py::isinstance<py::int_>(value)) {
        return value.cast<Index>();
    }
    if (py::isinstance<py::float_>(value)) {
        return value.cast<double>();
    }
    if (py::isinstance<py::str>(value)) {
        return value.cast<std::string>();
    }
    check_type(py::isinstance<py::sequence>(value), "option '", name, "' must be a bool, number, string or sequence of numbers");
    return value.cast<std::vector<double>>();
}

py::dict build_info() {
    const Build built = build();
    py::dict info;
    info["core"] = "_core_" + built.isa;
    info["compiler"] = built.compiler;
    info["eigen"] = built.eigen;
    info["openmp"] = openmp_version();
    info["lanes_float32"] = built.lanes_float32;
    info["bf16"] = bf16_available();
    return info;
}

constexpr double work_of_draw = 30;  // in the unit of parallel_for: 1.5 ns on a Zen 4

template <class I>
py::array permutations_array(Index n, std::uint64_t seed, std::uint64_t epoch, Index count) {
    py::array_t<I> out({count, n});
    I* data = out.mutable_data();
    {
        const Release release;
        parallel_for(count, 1, work_of_draw * static_cast<double>(count * n), [=](Index begin, Index end) {
            for (Index i = begin; i < end; ++i) {
                permutation(n, seed, epoch + static_cast<std::uint64_t>(i), data + i * n);
            }
        });
    }
    return std::move(out);  // into the array of any type
}
py::array permutations(Index n, std::uint64_t seed, std::uint64_t epoch, Index count) {
    check(n >= 0, "n must not be negative; got ", n);
    check(count >= 0, "count must not be negative; got ", count);
    return n <= std::numeric_limits<std::int32_t>::max() ? permutations_array<std::int32_t>(n, seed, epoch, count)
                                                         : permutations_array<Index>(n, seed, epoch, count);
}

// A rate of the machine for float32 or float64.
using Rate = double (*)(double seconds);
void def_rate(py::module_& m, const char* name, Rate rate32, Rate rate64) {
    m.def(name, [rate32, rate64](const std::string& dtype, double seconds) {
        check(dtype == "float32" || dtype == "float64", "dtype must be 'float32' or 'float64'; got '", dtype, "'");
        const Release release;
        return dtype == "float32" ? rate32(seconds) : rate64(seconds);
    });
}

// The shares of long regions, for tests: what is known of the threads, what is learned from a region, and what follows from it.
void bind_balance(py::module_& m) {
    m.def("set_thread_speeds", [](const std::vector<double>& speeds) {
        check(static_cast<int>(speeds.size()) <= Balance::most, "at most ", Balance::most, " speeds; got ", speeds.size());
        for (const Bound bound : {Bound::arithmetic, Bound::memory}) {
            for (std::size_t t = 0; t < speeds.size(); ++t) {
                Balance::own(bound).set_speed(static_cast<int>(t), speeds[t]);
            }
        }
    });
    m.def("learn_thread_speeds", [](const std::vector<double>& amounts, const std::vector<double>& seconds) {
        check(amounts.size() == seconds.size() && static_cast<int>(amounts.size()) <= Balance::most, "one amount and time for each thread");
        Balance& balance = Balance::own(Bound::arithmetic);
        std::vector<double> speeds;
        for (std::size_t t = 0; t < amounts.size(); ++t) {
            balance.took(static_cast<int>(t), amounts[t], seconds[t]);
        }
        balance.learn(static_cast<int>(amounts.size()));
        for (std::size_t t = 0; t < amounts.size(); ++t) {
            speeds.push_back(balance.speed(static_cast<int>(t)));
        }
        return speeds;
    });
    m.def("shares", [](Index count, Index grain, int rows, int cols, double work) {
        const Shares shares(Bound::arithmetic, rows, cols, work);
        std::vector<std::pair<Index, Index>> of_rows;
        std::vector<std::pair<Index, Index>> of_columns;
        for (int row = 0; row < rows; ++row) {
            const Range range = shares.of_row(count, row, grain);
            of_rows.emplace_back(range.begin, range.end);
        }
        for (int column = 0; column < cols; ++column) {
            const Range range = shares.of_column(count, column, grain);
            of_columns.emplace_back(range.begin, range.end);
        }
        return std::make_pair(of_rows, of_columns);
    });
}

thread_local double simulated_seconds;
thread_local double simulated_cpu_seconds;

// The part that a team has of the time of bursts of steps with pauses between them, on a clock of their own. A step takes alone[i] or
// together[i] seconds in burst i, and `cold` times that in the first `cold_seconds` of it. What the other threads get of their cores, a
// share, is noted down once a tick.
std::vector<double> simulate_bursts(const std::vector<double>& alone, const std::vector<double>& together, double work, double cold,
                                    double cold_seconds, double burst_seconds, double pause, double tick, double share, double least,
                                    bool begins_alone) {
    check(alone.size() == together.size(), "a time alone and together for each burst");
    simulated_seconds = simulated_cpu_seconds = 1;
    ThreadChoice choice({[] { return simulated_seconds; }, [] { return simulated_cpu_seconds; }}, begins_alone);
    std::vector<double> parts;
    double got = 0;  // by the other threads
    double noted = 0;
    for (std::size_t burst = 0; burst < alone.size(); ++burst) {
        const double begin = simulated_seconds;
        double of_team = 0;
        const auto step = [&](Index) {
            const int threads = threads_for(std::numeric_limits<double>::infinity());
            const double slower = simulated_seconds - begin < cold_seconds ? cold : 1;
            const double took = slower * (threads > 1 ? together : alone)[burst];
            simulated_seconds += took;
            got += took * share * (threads - 1);
            const double now = tick > 0 ? std::floor(got / tick) * tick : got;
            simulated_cpu_seconds += took + now - std::exchange(noted, now);
            of_team += threads > 1 ? took : 0;
            return true;
        };
        while (simulated_seconds - begin < burst_seconds) {
            choice.run(16, work, step, least);
        }
        parts.push_back(of_team / (simulated_seconds - begin));
        simulated_seconds += pause;
    }
    return parts;
}

// Whether the interpreter is ending: a thread that then asks for the GIL never comes back.
bool is_finalizing() {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing() != 0;
#else
    return _Py_IsFinalizing() != 0;
#endif
}

}  // namespace

Config config_from(const py::handle& mapping) {
    Config config;
    for (const auto& [key, value] : mapping.cast<py::dict>()) {
        const auto name = key.cast<std::string>();
        config.set(name, value_from(name, value));
    }
    return config;
}

void raise_interrupt() {
    if (is_finalizing()) {
        return;
    }
    const py::gil_scoped_acquire acquire;
    if (PyErr_CheckSignals() != 0) {
        throw py::error_already_set();
    }
}

void bind_runtime(py::module_& m) {
    install_fork_handler();
    m.def("build_info", &build_info);
    m.def("set_num_threads", [](int n) {
        check(n >= 1, "n must be at least 1; got ", n);
        set_num_threads(n);
    });
    m.def("get_num_threads", &get_num_threads);
    m.def("look_at_cores", &look_at_cores);
    m.def("quota_cores", &quota_cores, py::arg("root") = "");
    m.def("set_work_per_thread", &set_work_per_thread);
    bind_balance(m);
    m.def("simulate_bursts", &simulate_bursts, py::arg("alone"), py::arg("together"), py::arg("work"), py::arg("cold") = 1.0,
          py::arg("cold_seconds") = 0.0, py::arg("burst_seconds") = 0.04, py::arg("pause") = 0.3, py::arg("tick") = 0.0,
          py::arg("share") = 1.0, py::arg("least") = ThreadChoice::surely_alone, py::arg("begins_alone") = false);
    m.def("permutation", [](Index n, std::uint64_t seed, std::uint64_t epoch) { return permutations(n, seed, epoch, 1).reshape({n}); });
    m.def("permutations", &permutations);
    m.def("activation_names", &activation_names);
    m.def("loss_names", [] { return loss_registry<float>().names(); });
    m.def("optimizer_names", [] { return optimizer_registry<float>().names(); });
    m.def("layer_names", [] { return layer_registry<float>().names(); });
    m.def("initializer_names", &initializer_names);
    m.def("precision_names", &precision_names);
    def_rate(m, "fma_rate", &fma_rate<float>, &fma_rate<double>);
    def_rate(m, "tile_rate", &tile_rate<float>, &tile_rate<double>);
    m.def("bf16_rate", [](double seconds) {
        check_precision(Precision::bf16, sizeof(float));
        const Release release;
        return bf16_rate(seconds);
    });
    def_rate(m, "divider_rate", &divider_rate<float>, &divider_rate<double>);
    m.def("copy_rate", &copy_rate, py::call_guard<Release>());
    m.def("crossing_cost", [](Index lines, double seconds) {
        check(lines >= 0, "lines must not be negative; got ", lines);
        const Release release;
        const Crossing cost = crossing_cost(lines, seconds);
        return std::pair(cost.line, cost.meeting);
    });
    m.def(
        "uniform",
        [](Index n, std::uint64_t seed, std::uint64_t step, std::uint32_t layer, std::uint64_t first) {
            check(n >= 0, "n must not be negative; got ", n);
            const Stream stream{seed, step, layer};
            py::array_t<double> out(n);
            double* to = out.mutable_data();
            for (Index i = 0; i < n;) {
                const std::uint64_t element = first + static_cast<std::uint64_t>(i);
                if (element % chunk_elements != 0 || n - i < chunk_elements) {
                    to[i++] = uniform_at(stream, element);
                    continue;
                }
                std::uint32_t words[chunk_elements];
                random_chunk(stream, element / chunk_elements, words);
                for (const std::uint32_t word : words) {
                    to[i++] = uniform_of(word);
                }
            }
            return out;
        },
        py::arg("n"), py::arg("seed"), py::arg("step"), py::arg("layer"), py::arg("first") = 0);
}

}  // namespace fastopt
