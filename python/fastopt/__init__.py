"""fastopt trains dense multi-layer perceptrons on the CPU at the speed the machine allows.

NumPy in, NumPy out, one native call per epoch, the same bits on any number of threads.
"""

from typing import Any

from fastopt import _native, callbacks, data, kernels, layers, losses, metrics, optimizers, schedules
from fastopt._backend import build_info, get_num_threads, set_num_threads, show_config
from fastopt.errors import NonFiniteLossError
from fastopt.gradcheck import check_gradients
from fastopt.history import History
from fastopt.network import Network, mlp
from fastopt.training import Trainer

__all__ = [
    "History", "Network", "NonFiniteLossError", "Trainer", "build_info", "callbacks", "check_gradients", "data", "get_num_threads",
    "kernels", "layers", "losses", "metrics", "mlp", "optimizers", "schedules", "set_num_threads", "show_config",
]  # fmt: skip

_native.install()


def __getattr__(name: str) -> Any:
    """What is imported only when it is asked for."""
    import importlib

    if name == "__version__":
        return build_info()["version"]
    if name == "plots":
        return importlib.import_module("fastopt.plots")
    raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
