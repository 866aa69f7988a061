// The one way to refuse a call: a condition and the parts of a sentence.
#pragma once

#include <sstream>
#include <stdexcept>
#include <string>

namespace fastopt {

template <class... Parts>
std::string sentence(const Parts&... parts) {
    std::ostringstream out;
    (out << ... << parts);
    return out.str();
}

template <class... Parts>
void check(bool condition, const Parts&... parts) {
    if (!condition) {
        throw std::invalid_argument(sentence(parts...));
    }
}

}  // namespace fastopt
