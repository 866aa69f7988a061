// The table of optimizers. A new one is a rule in a file beside this one and a line here.
#include "optimizers/adagrad.hpp"
#include "optimizers/adam.hpp"
#include "optimizers/rmsprop.hpp"
#include "optimizers/schedule_free.hpp"
#include "optimizers/sgd.hpp"
#include "optimizers/sign_rules.hpp"

namespace fastopt {

namespace {

template <class T>
using Made = std::unique_ptr<Optimizer<T>>;

template <class T, class Rule>
Made<T> rule(const Config& config) {
    return std::make_unique<ElementwiseOptimizer<T, Rule>>(config);
}

// Options that change the slots choose among instances, so that no rule reads or writes memory that it does not need.
template <class T>
Made<T> sgd(const Config& config) {
    return config.number("momentum") != 0 ? rule<T, SGD<true>>(config) : rule<T, SGD<false>>(config);
}
template <class T, bool Decoupled>
Made<T> adam(const Config& config) {
    return config.flag("amsgrad") ? rule<T, Adam<true, Decoupled>>(config) : rule<T, Adam<false, Decoupled>>(config);
}
template <class T>
Made<T> rmsprop(const Config& config) {
    if (config.number("momentum") != 0) {
        return config.flag("centered") ? rule<T, RMSProp<true, true>>(config) : rule<T, RMSProp<true, false>>(config);
    }
    return config.flag("centered") ? rule<T, RMSProp<false, true>>(config) : rule<T, RMSProp<false, false>>(config);
}

}  // namespace

template <class T>
const Registry<Optimizer<T>>& optimizer_registry() {
    static const Registry<Optimizer<T>> registry("optimizer", {
                                                                  {"sgd", sgd<T>},
                                                                  {"adagrad", rule<T, AdaGrad>},
                                                                  {"adagrad_norm", rule<T, AdaGradNorm>},
                                                                  {"rmsprop", rmsprop<T>},
                                                                  {"adadelta", rule<T, AdaDelta>},
                                                                  {"adam", adam<T, false>},
                                                                  {"adamw", adam<T, true>},
                                                                  {"nadam", rule<T, NAdam>},
                                                                  {"radam", rule<T, RAdam>},
                                                                  {"adamax", rule<T, AdaMax>},
                                                                  {"lion", rule<T, Lion>},
                                                                  {"rprop", rule<T, Rprop>},
                                                                  {"schedule_free_adamw", rule<T, ScheduleFreeAdamW>},
                                                              });
    return registry;
}

template const Registry<Optimizer<float>>& optimizer_registry<float>();
template const Registry<Optimizer<double>>& optimizer_registry<double>();

}  // namespace fastopt
