"""What all solvers share."""

from fastopt._method import Method
from fastopt._specs import NamedSpec

SEARCHES = ("fixed", "backtracking", "strong_wolfe")


class Solver(NamedSpec, Method):
    """Base of all solvers.

    Examples
    --------
    >>> import fastopt as fo
    >>> fo.solvers.names()[:3]
    ['gradient_descent', 'newton', 'lbfgs']
    """


def check_wolfe(owner: Solver, c1: float, c2: float) -> None:
    if not c1 < c2:
        raise ValueError(f"{type(owner).__name__}: c1 must be smaller than c2; got {c1} and {c2}")
