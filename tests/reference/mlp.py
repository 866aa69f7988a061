"""A dense network and its training step, float64, one plain line per formula. Layers are the mappings the native network takes."""

import numpy as np

from . import layers as twin_layers
from . import losses, optimizers, penalties
from .activations import ACTIVATIONS


class MLP:
    """`parameters` and `buffers` are copied (names "<layer>.weight" ...), so twin and original start from the same point."""

    def __init__(self, layers, parameters, buffers=None, seed=0):
        self.layers = [dict(layer) for layer in layers]
        self.parameters = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
        self.buffers = {name: np.array(value, dtype=np.float64) for name, value in (buffers or {}).items()}
        self.gradients = {}
        self.seed = seed
        self.training_step = 0

    def __call__(self, x):
        return self.forward(x, training=False)

    def forward(self, x, training=True):
        h = np.asarray(x, dtype=np.float64)
        self.tape = []
        self.training_step += training  # the first training forward is number 1
        for i, layer in enumerate(self.layers):
            h = getattr(self, "_" + layer["kind"])(i, layer, h, training)
        return h

    def _dense(self, i, layer, x, training):
        pre = twin_layers.dense_forward(x, self.parameters[f"{i}.weight"], self.parameters.get(f"{i}.bias"))
        f, df = ACTIVATIONS[layer.get("activation") or "identity"]

        def back(grad):
            grad_pre = grad * df(pre)
            grad_weight, grad_bias, grad_x = twin_layers.dense_backward(x, self.parameters[f"{i}.weight"], grad_pre)
            self.gradients[f"{i}.weight"] = grad_weight
            if f"{i}.bias" in self.parameters:
                self.gradients[f"{i}.bias"] = grad_bias
            return grad_x

        self.tape.append(back)
        return f(pre)

    def _activation(self, i, layer, x, training):
        f, df = ACTIVATIONS[layer["activation"]]
        self.tape.append(lambda grad: grad * df(x))
        return f(x)

    def _batchnorm(self, i, layer, x, training):
        gamma, beta = self.parameters[f"{i}.gamma"], self.parameters[f"{i}.beta"]
        mean, variance, count = (self.buffers[f"{i}.{name}"] for name in ("mean", "variance", "count"))
        eps = layer.get("eps", 1e-5)
        if not training:
            return twin_layers.batchnorm_inference(x, gamma, beta, mean, variance, eps)
        out, batch_mean, inverse_std, new_mean, new_variance = twin_layers.batchnorm_forward(
            x, gamma, beta, mean, variance, layer.get("momentum", 0.1), eps, first=count.sum() == 0
        )
        self.buffers[f"{i}.mean"], self.buffers[f"{i}.variance"], self.buffers[f"{i}.count"] = new_mean, new_variance, count + 1

        def back(grad):
            grad_x, self.gradients[f"{i}.gamma"], self.gradients[f"{i}.beta"] = twin_layers.batchnorm_backward(
                x, gamma, batch_mean, inverse_std, grad
            )
            return grad_x

        self.tape.append(back)
        return out

    def _dropout(self, i, layer, x, training):
        if not training:
            return x
        scale = twin_layers.dropout_scale(x.shape, layer["rate"], self.seed, self.training_step, i)
        self.tape.append(lambda grad: grad * scale)
        return x * scale

    def _standardize(self, i, layer, x, training):
        mean, variance = self.buffers[f"{i}.mean"], self.buffers[f"{i}.variance"]
        eps = layer.get("eps", 1e-8)
        self.tape.append(lambda grad: grad / np.sqrt(variance + eps))
        return twin_layers.standardize_forward(x, mean, variance, eps)

    def backward(self, grad_output):
        """Fill `gradients`; the gradient with respect to the input of the last training forward comes back."""
        grad = np.asarray(grad_output, dtype=np.float64)
        for back in reversed(self.tape):
            grad = back(grad)
        return grad

    def layer_of(self, name):
        return self.layers[int(name.split(".")[0])]


class Trainer:
    """Forward, loss, backward, penalties, clipping, update."""

    def __init__(self, net, loss, optimizer, loss_options=None, optimizer_options=None, l1=0.0, l2=0.0, clip_norm=None, clip_value=None):
        self.net, self.loss, self.loss_options = net, loss, loss_options or {}
        self.rule = optimizers.OPTIMIZERS[optimizer](**(optimizer_options or {}))
        self.l1, self.l2, self.clip_norm, self.clip_value = l1, l2, clip_norm, clip_value

    def step(self, x, y, weight=None, lr=None, decay_all=False):
        """One update; the data loss before it."""
        net = self.net
        prediction = net.forward(x, training=True)
        value, grad = losses.value_and_grad(self.loss, prediction, y, weight, **self.loss_options)
        net.backward(grad)
        names = [name for name in net.parameters if net.layer_of(name).get("trainable", True)]
        grads = []
        for name in names:
            g, layer = net.gradients[name], net.layer_of(name)
            if name.endswith(".weight"):
                l1, l2 = self.l1 + layer.get("l1", 0.0), self.l2 + layer.get("l2", 0.0)
                g = g + penalties.penalty_gradient(net.parameters[name], l1, l2)
            grads.append(g)
        if self.clip_value:
            grads = penalties.clip_by_value(grads, self.clip_value)
        if self.clip_norm:
            grads = penalties.clip_by_norm(grads, self.clip_norm)
        self.rule.step(
            [net.parameters[name] for name in names],
            grads,
            lr,
            decays=[decay_all or name.endswith(".weight") for name in names],
            multipliers=[net.layer_of(name).get("learning_rate_multiplier", 1.0) for name in names],
        )
        return value

    def run(self, x, y, batch_size, steps, weight=None, lr=None):
        """`steps` updates over consecutive batches, from the top again when the rows are used up; the losses."""
        values = []
        starts = range(0, len(x), batch_size)
        for k in range(steps):
            rows = slice(starts[k % len(starts)], starts[k % len(starts)] + batch_size)
            values.append(self.step(x[rows], y[rows], None if weight is None else weight[rows], lr))
        return np.array(values)
