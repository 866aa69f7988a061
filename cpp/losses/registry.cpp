// The table of losses. A new one is a rule in a file beside this one and a line here.
#include "losses/binary.hpp"
#include "losses/distribution.hpp"
#include "losses/margin.hpp"
#include "losses/regression.hpp"
#include "losses/softmax_losses.hpp"

namespace fastopt {

template <class T>
const Registry<Loss<T>>& loss_registry() {
    static const Registry<Loss<T>> registry("loss",
                                            {
                                                {"mse", make_from_config<Loss<T>, ElementwiseLoss<T, SquaredError>>},
                                                {"mae", make_from_config<Loss<T>, ElementwiseLoss<T, AbsoluteError>>},
                                                {"huber", make_from_config<Loss<T>, ElementwiseLoss<T, Huber>>},
                                                {"log_cosh", make_from_config<Loss<T>, ElementwiseLoss<T, LogCosh>>},
                                                {"poisson", make_from_config<Loss<T>, ElementwiseLoss<T, Poisson>>},
                                                {"bce", make_from_config<Loss<T>, ElementwiseLoss<T, BinaryCrossEntropy>>},
                                                {"hinge", make_from_config<Loss<T>, ElementwiseLoss<T, Hinge>>},
                                                {"squared_hinge", make_from_config<Loss<T>, ElementwiseLoss<T, SquaredHinge>>},
                                                {"quantile", make_from_config<Loss<T>, RowwiseLoss<T, Quantile>>},
                                                {"gaussian_nll", make_from_config<Loss<T>, RowwiseLoss<T, GaussianNLL>>},
                                                {"softmax_cross_entropy", make_from_config<Loss<T>, RowwiseLoss<T, SoftmaxCrossEntropy>>},
                                                {"kl", make_from_config<Loss<T>, RowwiseLoss<T, KLDivergence>>},
                                                {"focal", make_from_config<Loss<T>, RowwiseLoss<T, Focal>>},
                                                {"multiclass_hinge", make_from_config<Loss<T>, RowwiseLoss<T, MulticlassHinge>>},
                                                {"perceptron", make_from_config<Loss<T>, RowwiseLoss<T, Perceptron>>},
                                            });
    return registry;
}

template const Registry<Loss<float>>& loss_registry<float>();
template const Registry<Loss<double>>& loss_registry<double>();

}  // namespace fastopt
