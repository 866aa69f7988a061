#include "kernels/precision.hpp"

#include "core/check.hpp"
#include "kernels/gemm_bf16.hpp"

namespace fastopt {

namespace {

struct Entry {
    const char* name;
    Precision precision;
};
constexpr Entry entries[] = {{"full", Precision::full}, {"bf16", Precision::bf16}};

}  // namespace

Precision precision_from_name(const std::string& name) {
    std::string known;
    for (const Entry& entry : entries) {
        if (name == entry.name) {
            return entry.precision;
        }
        known += (known.empty() ? "" : ", ") + std::string(entry.name);
    }
    check(false, "unknown precision '", name, "'; known are: ", known);
    return Precision::full;
}

std::vector<std::string> precision_names() {
    std::vector<std::string> names;
    for (const Entry& entry : entries) {
        names.emplace_back(entry.name);
    }
    return names;
}

bool bf16_available() { return gemm::bf16::built && gemm::bf16::supported(); }

void check_precision(Precision precision, int bytes) {
    if (precision != Precision::bf16) {
        return;
    }
    check(bytes == 4,
          "precision 'bf16' keeps float32 weights; it does not go with dtype float64: take dtype 'float32', or precision 'full'");
    check(
        gemm::bf16::built,
        "precision 'bf16' needs the core for x86-64-v4, and this process runs another one; take precision 'full', or, on a processor with "
        "AVX512_BF16, run the core v4 (environment variable FASTOPT_ISA, see fastopt.show_config())");
    check(gemm::bf16::supported(), "precision 'bf16' needs a processor with AVX512_BF16, which this one lacks; take precision 'full'");
}

}  // namespace fastopt
