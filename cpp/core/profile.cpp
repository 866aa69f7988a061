#include "core/profile.hpp"

#include <algorithm>

namespace fastopt {

const char* phase_name(Phase phase) {
    constexpr const char* names[phase_count] = {"gather",   "forward",    "loss",       "weight_gradient", "input_gradient",
                                                "wait",     "accumulate", "norm",       "update",          "average",
                                                "snapshot", "order",      "evaluation", "callbacks",       "python"};
    return names[static_cast<int>(phase)];
}

double Profile::lap_seconds() {
    constexpr int laps = 100;
    Profile profile(1);
    double best = 1;
    for (int block = 0; block < 20; ++block) {  // the fastest block is one that nothing interrupted
        const Clock::time_point start = Clock::now();
        for (int i = 0; i < laps; ++i) {
            profile.lap(Phase::gather, 0, 1);
        }
        best = std::min(best, std::chrono::duration<double>(Clock::now() - start).count() / (laps + 1));
    }
    return best;
}

}  // namespace fastopt
