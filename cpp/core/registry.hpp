// A table of named factories: one per kind (losses, optimizers, layers). A duplicate name throws, an unknown one lists the known ones.
#pragma once

#include <functional>
#include <initializer_list>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/check.hpp"
#include "core/config.hpp"

namespace fastopt {

template <class Interface>
class Registry {
   public:
    using Factory = std::function<std::unique_ptr<Interface>(const Config&)>;

    Registry(std::string kind, std::initializer_list<std::pair<const char*, Factory>> entries) : kind_(std::move(kind)) {
        for (const auto& [name, factory] : entries) {
            if (!factories_.emplace(name, factory).second) {
                throw std::logic_error(sentence("two ", kind_, "s are named '", name, "'"));
            }
        }
    }

    std::unique_ptr<Interface> make(const std::string& name, const Config& config) const {
        const auto found = factories_.find(name);
        if (found == factories_.end()) {
            std::string known;
            for (const auto& entry : factories_) {
                known += (known.empty() ? "" : ", ") + entry.first;
            }
            throw std::invalid_argument(sentence("unknown ", kind_, " '", name, "'; known: ", known));
        }
        return found->second(config);
    }

    std::vector<std::string> names() const {
        std::vector<std::string> out;
        for (const auto& entry : factories_) {
            out.push_back(entry.first);
        }
        return out;
    }

   private:
    std::string kind_;
    std::map<std::string, Factory> factories_;
};

// Registers a class whose constructor takes the configuration.
template <class Interface, class Rule>
std::unique_ptr<Interface> make_from_config(const Config& config) {
    return std::make_unique<Rule>(config);
}

}  // namespace fastopt
