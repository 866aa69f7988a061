#include "kernels/build.hpp"

#include "core/check.hpp"
#include "kernels/simd.hpp"

#define FASTOPT_TEXT_(x) #x
#define FASTOPT_TEXT(x) FASTOPT_TEXT_(x)

namespace fastopt {

Build build() {
#if defined(__clang__)
    const char* compiler = "Clang " __clang_version__;
#else
    const char* compiler = "GCC " __VERSION__;
#endif
    return {FASTOPT_TEXT(FASTOPT_ISA), compiler, sentence(EIGEN_WORLD_VERSION, ".", EIGEN_MAJOR_VERSION, ".", EIGEN_MINOR_VERSION),
            static_cast<int>(simd::Vec<float>::packet_lanes)};
}

}  // namespace fastopt
