"""What every method of `fastopt.minimize` has in common: it can be called the way `scipy.optimize.minimize` calls a method."""

from collections.abc import Callable
from typing import Any

OPTIONS = ("maxiter", "tol", "relative_tol", "record", "disp")


class Method:
    """Mix-in of optimizers and solvers."""

    def __call__(
        self,
        fun: Callable[..., Any],
        x0: Any,
        args: tuple[Any, ...] = (),
        *,
        jac: Any = None,
        hess: Any = None,
        hessp: Any = None,
        bounds: Any = None,
        constraints: Any = (),
        callback: Callable[[Any], Any] | None = None,
        maxiter: int = 1000,
        tol: float = 1e-8,
        relative_tol: float = 1e-12,
        record: bool = False,
        disp: bool = False,
        **unknown: Any,
    ) -> Any:
        """As `scipy.optimize.minimize(fun, x0, args, method=self, jac=..., options={"maxiter": ..., "tol": ..., "record": ...})` calls it;
        `disp` prints how it ended.

        Raises
        ------
        TypeError, ValueError
            When SciPy passes an option that there is not; when bounds or constraints are given, which no method here takes.
        """
        for name in unknown:
            renamed = {"max_steps": "maxiter", "max_iter": "maxiter", "gtol": "tol", "ftol": "relative_tol"}.get(name)
            hint = f"; it is called {renamed} here" if renamed else ""
            raise TypeError(f"{type(self).__name__} has no option {name!r}{hint}; its options are: {', '.join(OPTIONS)}")
        none = constraints is None or (isinstance(constraints, list | tuple | dict) and not constraints)
        if bounds is not None or not none:
            raise ValueError(f"{type(self).__name__} minimizes without bounds and constraints; take one of SciPy's own methods for these")
        bound = [_bind(function, args) for function in (fun, jac, hess)]
        from fastopt import minimize  # the driver imports the methods

        result = minimize(
            bound[0], x0, grad=bound[1], hess=bound[2], method=self, max_steps=maxiter, tol=tol, relative_tol=relative_tol, record=record,
            callback=callback,
        )  # fmt: skip
        if disp:
            print(f"{type(self).__name__}: {result.message}; value {result.fun:g} after {result.n_steps} steps")
        return result


def _bind(function: Any, args: tuple[Any, ...]) -> Any:
    """The function of x alone; what is no function (None, or the name of a difference scheme) means differences."""
    if not callable(function):
        return None
    return (lambda x: function(x, *args)) if args else function
