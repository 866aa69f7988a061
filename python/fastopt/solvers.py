"""Methods that look at the whole function, or the whole batch, in every step: frozen values, no behaviour.

They are methods of `fastopt.minimize`; d is the direction, t the length of a step, g the gradient and H the Hessian.
"""

from typing import ClassVar

from fastopt import _specs
from fastopt._solver import SEARCHES, Solver, check_wolfe
from fastopt._specs import Schedule, spec
from fastopt.network_solvers import LevenbergMarquardt, NewtonCG

__all__ = ["GradientDescent", "LBFGS", "LevenbergMarquardt", "Newton", "NewtonCG", "Solver", "get", "names", "table"]


@spec
class GradientDescent(Solver):
    """Steepest descent `x <- x - t g`.

    Parameters
    ----------
    learning_rate : float or callable
        t of every step when the line search is "fixed", a float or a schedule; else the first t to try in the first step. Later steps
        start from the t of the step before, with backtracking from twice that.
    line_search : str
        "fixed", "backtracking" (Armijo) or "strong_wolfe".
    c1, c2 : float
        Constants of the line search, `0 < c1 < c2 < 1`; see `fastopt.line_search`.
    shrink : float
        Factor of backtracking, in (0, 1).
    max_evaluations : int
        Of the function in one line search.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import fastopt as fo
    >>> result = fo.minimize(lambda x: x**2, 3.0, method=fo.solvers.GradientDescent(learning_rate=0.25))
    >>> result.converged, round(result.x, 6)
    (True, 0.0)

    References
    ----------
    Cauchy 1847; Armijo 1966; Wolfe 1969.
    """

    name: ClassVar[str] = "gradient_descent"
    aliases: ClassVar[tuple[str, ...]] = ("gd",)
    learning_rate: float | Schedule = _specs.learning_rate(0.01)
    line_search: str = _specs.choice("fixed", SEARCHES)
    c1: float = _specs.number(1e-4, low=0.0, high=1.0, low_open=True, high_open=True)
    c2: float = _specs.number(0.9, low=0.0, high=1.0, low_open=True, high_open=True)
    shrink: float = _specs.number(0.5, low=0.0, high=1.0, low_open=True, high_open=True)
    max_evaluations: int = _specs.integer(40, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wolfe(self, self.c1, self.c2)


@spec
class Newton(Solver):
    """Newton's method `x <- x - t (H + lam I)^-1 g`; lam is 0 where H is positive definite (Levenberg damping where it is not).

    Parameters
    ----------
    learning_rate : float or callable
        t of every step when the line search is "fixed", else the first t to try; 1 gives quadratic convergence.
    line_search : str
        "fixed", "backtracking" (Armijo) or "strong_wolfe".
    damping : float
        Smallest lam that is added, as a part of the largest element of H.
    c1, c2, shrink, max_evaluations
        See `GradientDescent`.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import fastopt as fo
    >>> f = fo.functions.rosenbrock
    >>> result = fo.minimize(f, f.start, grad=f.grad, hess=f.hess, method=fo.solvers.Newton())
    >>> result.converged, result.x.round(6).tolist()
    (True, [1.0, 1.0])

    References
    ----------
    Levenberg 1944; Nocedal and Wright, Numerical Optimization, 2nd ed., section 3.4.
    """

    name: ClassVar[str] = "newton"
    learning_rate: float | Schedule = _specs.learning_rate(1.0)
    line_search: str = _specs.choice("backtracking", SEARCHES)
    damping: float = _specs.positive(1e-3)
    c1: float = _specs.number(1e-4, low=0.0, high=1.0, low_open=True, high_open=True)
    c2: float = _specs.number(0.9, low=0.0, high=1.0, low_open=True, high_open=True)
    shrink: float = _specs.number(0.5, low=0.0, high=1.0, low_open=True, high_open=True)
    max_evaluations: int = _specs.integer(40, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wolfe(self, self.c1, self.c2)


@spec
class LBFGS(Solver):
    """Limited-memory BFGS, `x <- x - t H g` with H from the last pairs (s, y); t by a strong-Wolfe search that tries 1 first.

    When the search fails it starts once more from steepest descent, then stops with a message.

    Parameters
    ----------
    history : int
        Pairs that are remembered.
    c1, c2 : float
        Constants of the strong Wolfe conditions, `0 < c1 < c2 < 1`.
    min_curvature : float
        Pairs with `y's` of at most this part of `|y| |s|` are left out.
    max_evaluations : int
        Of the function in one line search.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import fastopt as fo
    >>> f = fo.functions.rosenbrock
    >>> fo.minimize(f, f.start, grad=f.grad, method=fo.solvers.LBFGS(history=5)).converged
    True

    References
    ----------
    Nocedal 1980; Liu and Nocedal 1989.
    """

    name: ClassVar[str] = "lbfgs"
    aliases: ClassVar[tuple[str, ...]] = ("l_bfgs",)
    history: int = _specs.integer(10, low=1)
    c1: float = _specs.number(1e-4, low=0.0, high=1.0, low_open=True, high_open=True)
    c2: float = _specs.number(0.9, low=0.0, high=1.0, low_open=True, high_open=True)
    min_curvature: float = _specs.non_negative(1e-10)
    max_evaluations: int = _specs.integer(25, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wolfe(self, self.c1, self.c2)


_TABLE = _specs.registry("solver", (GradientDescent, Newton, LBFGS, NewtonCG, LevenbergMarquardt))


def table() -> dict[str, type[Solver]]:
    """Every name and alias with its class."""
    return dict(_TABLE)


def names() -> list[str]:
    """Registry names of all solvers."""
    return list(dict.fromkeys(cls.name for cls in _TABLE.values()))


def get(solver: "str | Solver") -> Solver:
    """A solver as given, or by its name.

    Raises
    ------
    ValueError
        For an unknown name; the text lists the known ones.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.solvers.get("lbfgs").history
    10
    """
    return _specs.lookup("solver", _TABLE, Solver, solver)
