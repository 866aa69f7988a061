#include "core/errand.hpp"

#include <utility>

#include "core/waiting.hpp"

namespace fastopt {

bool Errand::finish() {
    while (help()) {
    }
    wait_for_others();
    return std::exchange(offered_, false);
}

void Errand::withdraw() {
    open_.fetch_sub(free_.exchange(0, std::memory_order_relaxed), std::memory_order_relaxed);
    wait_for_others();
    offered_ = false;
}

void Errand::wait_for_others() {
    wait_until([this] { return open_.load(std::memory_order_acquire) == 0; }, [] {});
}

}  // namespace fastopt
