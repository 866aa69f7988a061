// What this core was built for and with.
#pragma once

#include <string>

namespace fastopt {

struct Build {
    std::string isa;       // "v3"
    std::string compiler;  // "GCC 12.2.0"
    std::string eigen;     // "3.4.1"
    int lanes_float32;     // of one register
};
Build build();

}  // namespace fastopt
