#include <pybind11/pybind11.h>

#include "bindings/bind.hpp"

#define FASTOPT_JOIN_(a, b) a##b
#define FASTOPT_JOIN(a, b) FASTOPT_JOIN_(a, b)

PYBIND11_MODULE(FASTOPT_JOIN(_core_, FASTOPT_ISA), m) {
    m.doc() = "The native core of fastopt for one instruction set; use it through the fastopt package.";
    fastopt::bind_runtime(m);
    fastopt::bind_copies(m);
    fastopt::bind_kernels(m);
    fastopt::bind_losses(m);
    fastopt::bind_optimizers(m);
    fastopt::bind_profile(m);
    fastopt::bind_network(m);
    fastopt::bind_train_step(m);
    fastopt::bind_second_order(m);
}
