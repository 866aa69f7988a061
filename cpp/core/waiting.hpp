// Waiting for another thread by looking, politely after a while.
#pragma once

#include <thread>

namespace fastopt {

inline void pause_core() {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Between two looks after some 20 microseconds, longer than the serial stretches of a step, the core is offered to others: impatient() says
// what else is to be done then.
template <class Condition, class Impatient>
void wait_until(Condition&& condition, Impatient&& impatient) {
    constexpr int patience = 1000;
    for (int look = 0; !condition(); ++look) {
        if (look < patience) {
            pause_core();
        } else {
            impatient();
            std::this_thread::yield();
        }
    }
}

}  // namespace fastopt
