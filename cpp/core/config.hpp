// Options of a layer, loss or rule as they arrive from a specification: name -> value, every one of them named by the caller.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "core/check.hpp"
#include "core/types.hpp"

namespace fastopt {

class Config {
   public:
    using Value = std::variant<bool, Index, double, std::string, std::vector<double>>;

    void set(const std::string& name, Value value) { values_[name] = std::move(value); }

    double number(const std::string& name) const {
        const Value& value = find(name);
        if (const auto* real = std::get_if<double>(&value)) {
            return *real;
        }
        const auto* integer = std::get_if<Index>(&value);
        check(integer != nullptr, "option '", name, "' must be a number");
        return static_cast<double>(*integer);
    }
    Index integer(const std::string& name) const { return get<Index>(name, "an integer"); }
    bool flag(const std::string& name) const { return get<bool>(name, "true or false"); }
    const std::string& text(const std::string& name) const { return get<std::string>(name, "a string"); }
    const std::vector<double>& numbers(const std::string& name) const { return get<std::vector<double>>(name, "a sequence of numbers"); }

   private:
    const Value& find(const std::string& name) const {
        const auto found = values_.find(name);
        check(found != values_.end(), "option '", name, "' is missing");
        return found->second;
    }
    template <class T>
    const T& get(const std::string& name, const char* what) const {
        const T* value = std::get_if<T>(&find(name));
        check(value != nullptr, "option '", name, "' must be ", what);
        return *value;
    }

    std::map<std::string, Value> values_;
};

}  // namespace fastopt
