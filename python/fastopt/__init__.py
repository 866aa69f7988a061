"""fastopt trains dense multi-layer perceptrons on the CPU at the speed the machine allows.

NumPy in, NumPy out, one native call per epoch, the same bits on any number of threads.
"""

from typing import Any

from fastopt import _native, callbacks, data, functions, kernels, layers, line_search, losses, metrics, optimizers, schedules, solvers
from fastopt._backend import build_info, get_num_threads, set_num_threads, show_config
from fastopt.errors import NonFiniteLossError
from fastopt.gradcheck import check_gradients
from fastopt.history import History
from fastopt.minimize import MinimizeResult, minimize
from fastopt.network import Network, mlp
from fastopt.training import Trainer

__all__ = [
    "History", "MinimizeResult", "Network", "NonFiniteLossError", "Trainer", "build_info", "callbacks", "check_gradients", "data",
    "functions", "get_num_threads", "kernels", "layers", "line_search", "losses", "metrics", "minimize", "mlp", "optimizers", "schedules",
    "set_num_threads", "show_config", "solvers",
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
