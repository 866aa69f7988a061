// A registered loss or optimizer as Python holds it: the rule, and the name that it was made by.
#pragma once

#include <memory>
#include <string>

namespace fastopt {

template <class Interface>
struct Named {
    std::string name;
    std::shared_ptr<const Interface> held;
};

}  // namespace fastopt
