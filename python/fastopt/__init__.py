"""fastopt trains dense multi-layer perceptrons on the CPU at the speed the machine allows.

NumPy in, NumPy out, one native call per epoch, the same bits on any number of threads.
"""

from typing import TYPE_CHECKING, Any

from fastopt import _native, data, layers, losses, metrics, optimizers, solvers
from fastopt._backend import build_info, get_num_threads, set_num_threads, show_config
from fastopt.errors import NonFiniteLossError
from fastopt.history import History
from fastopt.network import Network, mlp
from fastopt.training import Trainer

if TYPE_CHECKING:
    from fastopt import callbacks, functions, kernels, line_search, schedules
    from fastopt import plots as plots
    from fastopt._minimize import MinimizeResult, minimize
    from fastopt.gradcheck import check_gradients

    __version__: str

__all__ = [
    "History", "MinimizeResult", "Network", "NonFiniteLossError", "Trainer", "build_info", "callbacks", "check_gradients", "data",
    "functions", "get_num_threads", "kernels", "layers", "line_search", "losses", "metrics", "minimize", "mlp", "optimizers", "schedules",
    "set_num_threads", "show_config", "solvers",
]  # fmt: skip

_native.install()

# What is imported only when it is asked for, a third of the import: name -> module that is it or has it.
_LATE = {
    "MinimizeResult": "_minimize",
    "callbacks": "callbacks",
    "check_gradients": "gradcheck",
    "functions": "functions",
    "kernels": "kernels",
    "line_search": "line_search",
    "minimize": "_minimize",
    "plots": "plots",
    "schedules": "schedules",
}


if not TYPE_CHECKING:  # a checker would take any name for one of this module

    def __getattr__(name: str) -> Any:
        if name == "__version__":
            return build_info()["version"]
        if name not in _LATE:
            raise AttributeError(f"module 'fastopt' has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"fastopt.{_LATE[name]}")
        value = module if name == _LATE[name] else getattr(module, name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATE, "__version__"})
