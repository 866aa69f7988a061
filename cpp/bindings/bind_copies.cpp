// Copies of arrays whose contents change: all taken, or all put back, in one call.
#include <cstring>
#include <vector>

#include "bindings/arrays.hpp"
#include "bindings/bind.hpp"
#include "core/threads.hpp"
#include "kernels/copy_away.hpp"

namespace fastopt {

namespace {

// Larger arrays are copied past the caches: in less time, and the weights stay in them.
constexpr Index large_bytes = Index{1} << 20;

class ArrayCopies {
   public:
    explicit ArrayCopies(const py::sequence& arrays) {
        Index size = 0;
        for (const py::handle item : arrays) {
            check_type(py::isinstance<py::array>(item), "arrays must hold NumPy arrays");
            const auto array = py::reinterpret_borrow<py::array>(item);
            check((array.flags() & py::array::c_style) != 0 && array.writeable(), "arrays must be C-contiguous and writable");
            parts_.push_back({array, static_cast<char*>(const_cast<void*>(array.data())), array.nbytes(), size});
            size += round_up(array.nbytes(), cache_line);
        }
        copies_ = Buffer<char>(size);
    }
    void take() {
        for (const Part& part : parts_) {
            char* const to = copies_.data() + part.at;
            if (part.size > large_bytes) {
                copy_away(part.live, part.size, to);
            } else {
                copy(part.live, part.size, to);
            }
        }
    }
    void restore() {
        for (const Part& part : parts_) {
            copy(copies_.data() + part.at, part.size, part.live);
        }
    }

   private:
    struct Part {
        py::array owner;
        char* live;
        Index size;
        Index at;
    };

    static void copy(const char* from, Index size, char* to) {
        parallel_for(size, cache_line, static_cast<double>(size),
                     [=](Index begin, Index end) { std::memcpy(to + begin, from + begin, static_cast<std::size_t>(end - begin)); });
    }

    std::vector<Part> parts_;
    Buffer<char> copies_;
};

}  // namespace

void bind_copies(py::module_& m) {
    py::class_<ArrayCopies>(m, "ArrayCopies")
        .def(py::init<const py::sequence&>())
        .def("take", &ArrayCopies::take, py::call_guard<Release>())
        .def("restore", &ArrayCopies::restore, py::call_guard<Release>());
}

}  // namespace fastopt
