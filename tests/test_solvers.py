"""Line searches, L-BFGS against SciPy, Newton's quadratic convergence, what happens when a step cannot be found."""

from itertools import pairwise

import fastopt as fo
import numpy as np
import pytest
from fastopt import line_search
from fastopt._directions import CurvaturePairs, lbfgs_direction, newton_direction
from helpers import refuses

TABLE = fo.functions.table()
functions = pytest.mark.parametrize("name", TABLE)


def starts(f, count):
    rng = np.random.default_rng(11)
    return [f.start, *(np.array([rng.uniform(*ends) for ends in f.bounds]) for _ in range(count))]


def assert_wolfe(f, result, c1, c2):
    """Both conditions on every step of a recorded run; the length of the direction cancels."""
    for old, new in pairwise(result.trajectory):
        step, slope = new - old, f.grad(old) @ (new - old)
        assert slope < 0
        rounding = line_search.ROUNDING * abs(f(old))
        assert f(new) <= f(old) + c1 * slope + rounding, f"too small a decrease from {old} to {new}"
        assert abs(f.grad(new) @ step) <= c2 * abs(slope) * (1 + 1e-9) + 1e-15, f"too steep from {old} to {new}"


@functions
def test_lbfgs_against_scipy(name):
    """The same minimum from the usual start, and over many starts at most 1.3 times the evaluations."""
    optimize = pytest.importorskip("scipy.optimize")
    f, ours, theirs = TABLE[name], 0, 0
    for i, x0 in enumerate(starts(f, 30)):
        result = fo.minimize(f, x0, grad=f.grad, method=fo.solvers.LBFGS())
        peer = optimize.minimize(f, x0, jac=f.grad, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 0.0})
        same = np.allclose(result.x, peer.x, atol=1e-5)
        if i == 0:
            assert same, f"{name}: {result.x} instead of {peer.x}"
            assert result.converged
            assert result.nfev <= 1.3 * peer.nfev, f"{name}: {result.nfev} evaluations instead of {peer.nfev}"
        if same:
            ours, theirs = ours + result.nfev, theirs + peer.nfev
    assert ours <= 1.3 * theirs, f"{name}: {ours} evaluations instead of {theirs}"


@pytest.mark.parametrize("size", [10, 60])
def test_lbfgs_on_more_variables(size):
    optimize = pytest.importorskip("scipy.optimize")
    f, x0 = TABLE["rosenbrock"], np.tile([-1.2, 1.0], size // 2)
    result = fo.minimize(f, x0, grad=f.grad)
    peer = optimize.minimize(f, x0, jac=f.grad, method="L-BFGS-B", options={"gtol": 1e-8, "ftol": 0.0, "maxfun": 10**5})
    assert result.converged
    assert np.allclose(result.x, peer.x, atol=1e-6)
    assert result.nfev <= 1.3 * peer.nfev


@functions
def test_strong_wolfe_on_every_step(name):
    f = TABLE[name]
    methods = [
        fo.solvers.LBFGS(),
        fo.solvers.LBFGS(c2=0.1, history=3),
        fo.solvers.GradientDescent(line_search="strong_wolfe", c2=0.3),
        fo.solvers.Newton(line_search="strong_wolfe"),
    ]
    for method in methods:
        for x0 in starts(f, 3):
            result = fo.minimize(f, x0, grad=f.grad, hess=f.hess, method=method, max_steps=100, record=True)
            assert len(result.trajectory) == result.n_steps + 1
            assert_wolfe(f, result, method.c1, method.c2)


@functions
def test_backtracking_decreases(name):
    f = TABLE[name]
    for method in (fo.solvers.GradientDescent(line_search="backtracking", learning_rate=1.0), fo.solvers.Newton()):
        result = fo.minimize(f, f.start, grad=f.grad, hess=f.hess, method=method, max_steps=60, record=True)
        rounding = line_search.ROUNDING * np.abs(result.values[:-1])
        assert (np.diff(result.values) <= rounding).all(), f"{name}: {method} went up"


@pytest.mark.parametrize("name", ["rosenbrock", "himmelblau", "beale", "styblinski_tang", "saddle"])
def test_newton_is_quadratic(name):
    """Near the minimum the error of a step is at most a constant times the square of the one before, to the last digits."""
    f = TABLE[name]
    near = []
    for x0 in (f.start, *(minimum.x + 0.04 for minimum in f.minima)):
        result = fo.minimize(f, x0, grad=f.grad, hess=f.hess, method=fo.solvers.Newton(), tol=1e-11, record=True)
        assert result.converged
        nearest = min(f.minima, key=lambda minimum: np.linalg.norm(minimum.x - result.x))
        errors = np.linalg.norm(result.trajectory - nearest.x, axis=1)
        near += [(old, new) for old, new in pairwise(errors) if 1e-8 < old < 0.06]
    assert len(near) >= 4
    # The constant of the theory: half the largest third derivative over the smallest curvature; these functions stay below 500.
    for old, new in near:
        assert new <= 500 * old**2 + 1e-12, f"{name}: error {old} became {new}"
    assert near[-1][1] < 1e-8


@functions
@pytest.mark.parametrize("given", ["nothing", "gradient", "hessian"])
def test_newton_with_differences(name, given):
    f = TABLE[name]
    grad = None if given == "nothing" else f.grad
    hess = f.hess if given == "hessian" else None
    result = fo.minimize(f, f.start, grad=grad, hess=hess, method="newton", tol=1e-6)
    assert result.converged, f"{name}: {result.message}"
    assert min(np.linalg.norm(result.x - m.x) for m in f.minima) < 1e-5
    assert (result.nhev > 0) == (given == "hessian")


def test_newton_on_a_quadratic_takes_one_step():
    f = fo.functions.Quadratic(curvatures=(1.0, 1000.0), angle=0.4)
    result = fo.minimize(f, f.start, grad=f.grad, hess=f.hess, method=fo.solvers.Newton(line_search="fixed"))
    assert result.n_steps == 1
    assert np.abs(result.x).max() < 1e-12


def test_damping():
    grad = np.array([1.0, -2.0, 0.5])
    for eigenvalues in ([2.0, 1.0, 3.0], [2.0, -1.0, 3.0], [-5.0, -1.0, -1e-9], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1e8, -1e-8, 1.0]):
        turn = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0]
        hessian = turn @ np.diag(eigenvalues) @ turn.T
        direction, added = newton_direction(0.5 * (hessian + hessian.T), grad)
        assert np.isfinite(direction).all()
        assert direction @ grad < 0, f"{eigenvalues}: not a direction of descent"
        assert (added == 0.0) == (min(eigenvalues) > 0)
    refuses("NaN", newton_direction, np.full((3, 3), np.nan), grad, match="not finite")


@pytest.mark.parametrize("unit", [1e-150, 1e-8, 1.0, 1e9, 1e150])
def test_units_of_variables_do_not_matter_to_newton(unit):
    """Whether a Hessian is positive definite does not depend on them, and neither do the steps."""
    grad, hessian = np.array([1.0, -2.0, 0.5]), np.array([[2.0, 0.5, 0.1], [0.5, 1.0, 0.2], [0.1, 0.2, 3.0]])
    scale = np.array([1.0, unit, 1.0])
    direction, added = newton_direction(hessian / scale / scale[:, None], grad / scale)
    assert added == 0.0
    np.testing.assert_allclose(direction / scale, np.linalg.solve(hessian, -grad), rtol=1e-13)


def test_two_loops_are_bfgs():
    """With room for all pairs the recursion is the dense BFGS update of the inverse Hessian."""
    rng = np.random.default_rng(5)
    n, pairs = 6, CurvaturePairs(4, 6)
    a = rng.standard_normal((n, n))
    a = a @ a.T + np.eye(n)
    kept = []
    for _ in range(7):
        s = rng.standard_normal(n)
        kept = [*kept, (s, a @ s)][-4:]
        assert pairs.add(s, a @ s)
    s, y = kept[-1]
    h = np.eye(n) * (s @ y) / (y @ y)
    for s, y in kept:
        left = np.eye(n) - np.outer(s, y) / (s @ y)
        h = left @ h @ left.T + np.outer(s, s) / (s @ y)
    grad = rng.standard_normal(n)
    assert np.allclose(lbfgs_direction(grad, pairs), -h @ grad, rtol=1e-10)
    assert len(pairs) == 4


def test_pairs_without_curvature_are_skipped():
    pairs = CurvaturePairs(3, 2)
    for s, y in (([1.0, 0.0], [-1.0, 0.0]), ([1e-5, 0.0], [9e-16, 9e-5]), ([1.0, 0.0], [0.0, 1.0]), ([1.0, 0.0], [np.nan, 0.0])):
        assert not pairs.add(np.array(s), np.array(y))
    assert (len(pairs), pairs.skipped) == (0, 4)
    assert np.array_equal(lbfgs_direction(np.array([1.0, 2.0]), pairs), [-1.0, -2.0])


def test_strong_wolfe_survives_walls():
    """A function that is not a number far away: the search comes back from there."""

    def walled(x):
        if x[0] > 1.0:
            return float("nan"), np.full(1, np.nan)
        return float((x[0] - 0.9) ** 2), 2 * (x - 0.9)

    x = np.array([0.0])
    value, grad = walled(x)
    found = line_search.strong_wolfe(walled, x, value, grad, -grad, step=100.0)
    assert found.accepted
    assert 0 < found.x[0] <= 1.0


def test_line_searches_over_a_slope_that_steepens():
    """Trials grow fourfold there, not by a tenth."""
    f, x = fo.functions.plateau, np.array([1.57360617, 1.33487324])
    grad = f.grad(x)
    found = line_search.strong_wolfe(lambda z: (f(z), f.grad(z)), x, f(x), grad, -grad, step=0.01)
    assert found.accepted
    assert found.evaluations < 12
    wide = fo.minimize(
        lambda x: float(1 - np.exp(-x @ x / 2e4)), [190.0, 0.0], grad=lambda x: x / 1e4 * np.exp(-x @ x / 2e4), method="lbfgs", tol=1e-10
    )
    assert wide.fun < 1e-10


def test_line_searches_check_their_arguments():
    x = np.array([1.0, 2.0])
    for options, match in (
        ({"max_evaluations": 0}, "max_evaluations"),
        ({"step": -1.0}, "step"),
        ({"step": np.inf}, "step"),
        ({"c1": 0.9, "c2": 0.1}, "c1"),
        ({"c2": 1.0}, "c2"),
    ):
        refuses(match, line_search.strong_wolfe, lambda z: (float(z @ z), 2 * z), x, 5.0, 2 * x, -2 * x, match=match, **options)
    refuses("value", line_search.strong_wolfe, lambda z: (float(z @ z), 2 * z), x, np.nan, 2 * x, -2 * x, match="value")
    for options in ({"c1": 2.0}, {"shrink": 1.0}, {"step": 0.0}):
        refuses(
            "backtracking", line_search.backtracking, lambda z: float(z @ z), x, 5.0, 2 * x, -2 * x, match=next(iter(options)), **options
        )


def test_line_searches_refuse_and_give_up():
    x, grad = np.array([1.0]), np.array([2.0])
    for search, function in ((line_search.backtracking, lambda x: 1.0), (line_search.strong_wolfe, lambda x: (1.0, np.array([2.0])))):
        up = search(function, x, 1.0, grad, grad)
        assert (up.accepted, up.t, up.evaluations) == (False, 0.0, 0), "climbing was not refused"
        flat = search(lambda x, f=function: f(x), x, 1.0, grad, -1e3 * grad, max_evaluations=7)
        assert not flat.accepted
        assert flat.evaluations <= 7
    falling = line_search.strong_wolfe(lambda x: (-float(x[0]), np.array([-1.0])), x, -1.0, np.array([-1.0]), np.array([1.0]))
    assert not falling.accepted
    assert falling.t > 1e6
    assert falling.value == -falling.x[0]


def test_lbfgs_restarts_once_then_says_so():
    """A gradient that lies: no step along it, nor along steepest descent, decreases the function."""
    f, calls = TABLE["rosenbrock"], []

    def lying(x):
        calls.append(1)
        return f.grad(x) if len(calls) < 9 else -f.grad(x)

    result = fo.minimize(f, f.start, grad=lying)
    assert not result.success
    assert result.status == 2
    assert "steepest descent" in result.message
    assert "grad is wrong" in result.message
    assert np.isfinite(result.x).all()


@functions
def test_lbfgs_in_float32_noise(name):
    """Values and gradients rounded to float32: it ends near the minimum with a message, never with NaN."""
    f = TABLE[name]

    def rounded(x):
        x = x.astype(np.float32)
        return float(np.float32(f(x))), f.grad(x).astype(np.float32)

    result = fo.minimize(rounded, f.start, grad=True, max_steps=300)
    assert result.message
    assert np.isfinite(result.x).all()
    assert np.isfinite(result.fun)
    assert result.fun <= f.minimum.value + 1e-4 * max(1.0, abs(f.minimum.value))
    assert result.nfev < 400, f"{name}: stalls: {result.message}"


def test_unbounded():
    result = fo.minimize(lambda x: -x, 0.0, grad=lambda x: -1.0)
    assert not result.success
    assert result.fun < -1e6, "not the best point that was seen"
    assert "without bound" in result.message


def test_specs():
    assert fo.solvers.get("L-BFGS") == fo.solvers.LBFGS()
    assert fo.solvers.get("gd") == fo.solvers.GradientDescent()
    refuses("unknown", fo.solvers.get, "bfgs2", match="lbfgs")
    refuses("class", fo.solvers.get, fo.solvers.LBFGS, match=r"LBFGS\(\)")
    for options in ({"history": 0}, {"c1": 0.5, "c2": 0.4}, {"c2": 1.0}, {"min_curvature": -1.0}, {"max_evaluations": 2.5}):
        refuses(f"LBFGS {options}", fo.solvers.LBFGS, match="LBFGS", **options)
    refuses("line search", fo.solvers.Newton, line_search="exact", match="fixed, backtracking, strong_wolfe")
    refuses("learning rate", fo.solvers.GradientDescent, learning_rate=-1.0, match="learning_rate")


def test_small_pairs_are_kept():
    """Near a minimum of 0 all differences are small, and still say how the function bends."""
    pairs = CurvaturePairs(3, 2)
    assert pairs.add(np.array([1e-7, 0.0]), np.array([2e-7, 0.0]))
    assert np.allclose(lbfgs_direction(np.array([1.0, 0.0]), pairs), [-0.5, 0.0])
