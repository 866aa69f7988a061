"""Solvers that train networks only: they need the Jacobian of the outputs, or products with the Hessian.

They work on the full batch, `Trainer.fit(..., batch_size=None)`, in inference mode: batch normalization with its running statistics. One
epoch is one accepted step. All of them compute in float64 whatever the dtype of the network; the weights are rounded to it.
"""

from typing import ClassVar

from fastopt import _specs
from fastopt._solver import Solver, check_wolfe
from fastopt._specs import spec

__all__ = ["LevenbergMarquardt", "NewtonCG"]


@spec
class LevenbergMarquardt(Solver):
    """Gauss-Newton for squared errors, damped: `(J'J + damping D) d = -J'r`, `w <- w + d`; D is diag(J'J), at least `floor` of its mean.

    r are the residuals and J their derivatives, both with the roots of the sample weights; an L2 penalty adds its part to both sides
    and an L1 penalty its subgradient `l1 sign(w)` to the right one. A step counts when the loss falls by a share rho > 1e-4 of what the
    model promised; then damping is multiplied by `max(1/5, 1 - (2 rho - 1)^3)`, else by 2, 4, 8, ... until a step counts. J is formed in
    blocks of rows and never held: memory is three matrices `(parameters, parameters)` whatever the number of rows.

    Parameters
    ----------
    damping : float
        At the start.
    floor : float
        0 is Marquardt's diagonal itself, under which weights of units that saturate take steps far too long; 1 needs half of the steps.
    geodesic : bool
        Add half of the acceleration, the solution of the same system for the second derivative of r along d, when it is short against d.
    max_parameters : int
        Networks with more are refused: time grows with the cube of their number, memory with its square; take `LBFGS` or `NewtonCG`.
    max_tries : int
        Damped steps to try in one epoch.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> trainer = fo.Trainer(fo.mlp(1, [8], 1, activation="tanh", dtype="float64"), "mse", fo.solvers.LevenbergMarquardt())
    >>> history = trainer.fit(X, np.sin(4 * X), epochs=50, batch_size=None)
    >>> history["loss"][-1] < 1e-3
    True

    References
    ----------
    Levenberg 1944; Marquardt 1963; Nielsen, Damping parameter in Marquardt's method, 1999; Transtrum and Sethna, Improvements to the
    Levenberg-Marquardt algorithm, arXiv:1201.5885 (geodesic acceleration).
    """

    name: ClassVar[str] = "levenberg_marquardt"
    aliases: ClassVar[tuple[str, ...]] = ("lm",)
    damping: float = _specs.positive(0.1)
    floor: float = _specs.non_negative(1.0)
    geodesic: bool = _specs.flag(False)
    max_parameters: int = _specs.integer(3000, low=1)
    max_tries: int = _specs.integer(30, low=1)


@spec
class NewtonCG(Solver):
    """Truncated Newton: conjugate gradients on `H d = -g` with exact Hessian-vector products, then a strong-Wolfe search along d.

    The iteration ends when the residual is below `min(1/2, sqrt(|g|)) |g|` (superlinear convergence), after `max_products` products, or
    at a direction of curvature that is not positive; then d is what was reached so far, `-g` if that is nothing.

    Parameters
    ----------
    max_products : int
        Hessian-vector products in one epoch; each costs as much as a few gradients.
    c1, c2 : float
        Constants of the strong Wolfe conditions, `0 < c1 < c2 < 1`.
    max_evaluations : int
        Of the loss in one line search.

    Raises
    ------
    ValueError
        For a value outside its interval.

    Examples
    --------
    >>> import numpy as np
    >>> import fastopt as fo
    >>> X = np.linspace(-1, 1, 50)[:, None]
    >>> trainer = fo.Trainer(fo.mlp(1, [8], 1, activation="tanh", dtype="float64"), "mse", fo.solvers.NewtonCG(), l2=1e-5)
    >>> history = trainer.fit(X, np.sin(4 * X), epochs=60, batch_size=None)
    >>> history["loss"][-1] < 1e-2
    True

    References
    ----------
    Dembo, Eisenstat and Steihaug 1982; Nocedal and Wright, Numerical Optimization, 2nd ed., algorithm 7.1; Martens 2010.
    """

    name: ClassVar[str] = "newton_cg"
    aliases: ClassVar[tuple[str, ...]] = ("truncated_newton",)
    max_products: int = _specs.integer(100, low=1)
    c1: float = _specs.number(1e-4, low=0.0, high=1.0, low_open=True, high_open=True)
    c2: float = _specs.number(0.9, low=0.0, high=1.0, low_open=True, high_open=True)
    max_evaluations: int = _specs.integer(25, low=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_wolfe(self, self.c1, self.c2)
