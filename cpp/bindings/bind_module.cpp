// The module of every core; each is imported by a name of its own (module.cpp).
#include <pybind11/pybind11.h>

#include "bindings/bind.hpp"

PYBIND11_MODULE(_core, m) {
    m.doc() = "The native core of fastopt for one instruction set; use it through the fastopt package.";
    fastopt::bind_runtime(m);
    fastopt::bind_turn(m);
    fastopt::bind_copies(m);
    fastopt::bind_checks(m);
    fastopt::bind_kernels(m);
    fastopt::bind_losses(m);
    fastopt::bind_optimizers(m);
    fastopt::bind_profile(m);
    fastopt::bind_network(m);
    fastopt::bind_train_step(m);
    fastopt::bind_second_order(m);
}
