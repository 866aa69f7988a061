// The table of layers. A new one is a class in a file beside this one and a line here.
#include "nn/batchnorm_layer.hpp"
#include "nn/dense_layer.hpp"
#include "nn/simple_layers.hpp"

namespace fastopt {

template <class T>
const Registry<Layer<T>>& layer_registry() {
    static const Registry<Layer<T>> registry("layer", {
                                                          {"dense", make_from_config<Layer<T>, DenseLayer<T>>},
                                                          {"activation", make_from_config<Layer<T>, ActivationLayer<T>>},
                                                          {"batchnorm", make_from_config<Layer<T>, BatchNormLayer<T>>},
                                                          {"dropout", make_from_config<Layer<T>, DropoutLayer<T>>},
                                                          {"standardize", make_from_config<Layer<T>, StandardizeLayer<T>>},
                                                      });
    return registry;
}

template const Registry<Layer<float>>& layer_registry<float>();
template const Registry<Layer<double>>& layer_registry<double>();

}  // namespace fastopt
