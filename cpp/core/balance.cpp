#include "core/balance.hpp"

#include <algorithm>
#include <cmath>

#include "core/threads.hpp"

namespace fastopt {

namespace {

// Of each thread: some 20 microseconds, beside which two looks at the clock and what is learned from them are nothing.
constexpr double timed_work = 2e6;
// How far one region moves what is known, and how much of its news is believed: a thread that lost its core for a while is not slow.
constexpr double rate = 0.2;
constexpr double most_news = 0.5;
// No thread is taken to be more than so many times as fast as another.
constexpr double most_apart = 4;

}  // namespace

Balance& Balance::own(Bound bound) {
    thread_local Balance balances[2];
    return balances[bound == Bound::memory ? 1 : 0];
}

void Balance::learn(int threads) {
    const auto count = static_cast<std::size_t>(threads);
    std::array<double, most> news;
    double mean = 0;
    for (std::size_t t = 0; t < count; ++t) {
        const auto& [amount, seconds] = taken_[t];
        if (!(amount > 0 && seconds > 0)) {
            return;
        }
        news[t] = std::log(amount / (seconds * speed_[t]));
        mean += news[t] / threads;
    }
    double fastest = 0;
    for (std::size_t t = 0; t < count; ++t) {
        speed_[t] *= std::exp(rate * std::clamp(news[t] - mean, -most_news, most_news));
        fastest = std::max(fastest, speed_[t]);
    }
    for (std::size_t t = 0; t < count; ++t) {
        speed_[t] = std::max(speed_[t] / fastest, 1 / most_apart);
    }
}

Shares::Shares(Bound bound, int rows, int cols, double work) : balance_(nullptr), rows_(rows), cols_(cols) {
    const int all = threads();
    if (all > 1 && all <= Balance::most && (work >= all * timed_work || cuts_small_work())) {
        balance_ = &Balance::own(bound);
    }
}

Range Shares::weighed(Index count, Index grain, int line, int lines, int step) const {
    double before = 0;
    double own = 0;
    double all = 0;
    for (int thread = 0; thread < threads(); ++thread) {
        const int at = thread / step % lines;
        const double speed = balance_->speed(thread);
        before += at < line ? speed : 0;
        own += at == line ? speed : 0;
        all += speed;
    }
    const auto grains = static_cast<double>(ceil_div(count, grain));
    const auto up_to = [&](double part) { return std::min(count, static_cast<Index>(std::lround(grains * part / all)) * grain); };
    return {up_to(before), line + 1 == lines ? count : up_to(before + own)};
}

}  // namespace fastopt
