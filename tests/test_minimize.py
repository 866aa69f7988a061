"""`fo.minimize`: every method and schedule, stops, records, shapes, differences, SciPy's way of calling, bad input."""

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from helpers import close, refuses
from test_schedules import CASES

# Rates that bring each optimizer to the minimum of the quadratic below; the others are their defaults.
RATES = {
    "sgd": 0.1, "adagrad": 1.0, "adagrad_norm": 3.0, "rmsprop": 0.01, "adadelta": 20.0, "adam": 0.1, "adamw": 0.1, "nadam": 0.1,
    "radam": 0.1, "adamax": 0.3, "lion": 0.03, "rprop": 0.1, "schedule_free_adamw": 0.1,
}  # fmt: skip
f = fo.functions.quadratic


@pytest.mark.parametrize("name", fo.optimizers.names())
def test_every_optimizer_goes_down(name):
    assert name in RATES, f"give a learning rate of {name} for this test"
    method = type(fo.optimizers.get(name))(learning_rate=RATES[name])
    result = fo.minimize(f, f.start, grad=f.grad, method=method, max_steps=600, record=True)
    assert result.fun < 1e-2 * f(f.start), f"{name}: {result}"
    assert result.values[-1] == result.fun == pytest.approx(f(result.x))


@pytest.mark.parametrize("name", [n for n in fo.optimizers.names() if n != "schedule_free_adamw"])
def test_the_same_rule_as_alone(name):
    """The points are those of Optimizer.step, to the bit, schedule included."""
    method = type(fo.optimizers.get(name))(learning_rate=fo.schedules.exponential_decay(0.05, rate=0.9))
    result = fo.minimize(f, f.start, grad=f.grad, method=method, max_steps=20, tol=0.0, record=True)
    x = f.start
    state = method.init(x)
    for t in range(20):
        assert np.array_equal(result.trajectory[t], x), f"{name}: step {t}"
        method.step(x, f.grad(x), state)
    assert np.array_equal(result.x, x)


def test_schedule_free_gives_its_average():
    method = fo.optimizers.ScheduleFreeAdamW(learning_rate=0.1)
    result = fo.minimize(f, f.start, grad=f.grad, method=method, max_steps=15, record=True)
    x = f.start
    state = method.init(x)
    for _ in range(15):
        method.step(x, f.grad(x), state)
    assert np.array_equal(result.x, method.evaluation_point(x, state)[0])
    assert result.fun == f(result.x)
    assert np.array_equal(result.jac, f.grad(result.x))


@pytest.mark.parametrize("name", CASES)
def test_every_schedule(name):
    for arguments, options in CASES[name]:
        schedule = getattr(fo.schedules, name)(*arguments, **options)
        method = fo.solvers.GradientDescent(learning_rate=schedule)
        run = fo.minimize(lambda x: x, 0.0, grad=lambda x: 1.0, method=method, max_steps=9, tol=0, record=True)
        close(np.diff(run.trajectory), -fo.schedules.values(schedule, 0, 9), 1e-12, f"{name}{arguments}")


def test_plain_descent():
    result = fo.minimize(lambda x: x**2, 1.0, grad=lambda x: 2 * x, method=fo.solvers.GradientDescent(learning_rate=0.25), record=True)
    assert np.array_equal(result.trajectory[:6], 0.5 ** np.arange(6))
    assert isinstance(result.x, float)
    assert result.trajectory.shape == (result.n_steps + 1,)
    for column in ("values", "grad_norms", "seconds"):
        assert result[column].shape == (result.n_steps + 1,)
    assert (np.diff(result.seconds) >= 0).all()
    assert (result.grad_norm, result.grad_norms[-1]) == (2 * result.x, 2 * result.x)


@pytest.mark.parametrize("method", ["lbfgs", "newton", fo.optimizers.SGD(learning_rate=0.1), fo.solvers.GradientDescent(learning_rate=0.1)])
def test_shapes(method):
    """x keeps the shape of x0 in the function, the gradient, the result and the trajectory."""
    seen = set()
    target = np.arange(6.0).reshape(2, 3)

    def fun(x):
        seen.add((type(x), x.shape, x.dtype))
        return ((x - target) ** 2).sum()

    result = fo.minimize(fun, np.zeros((2, 3), dtype=np.float32), method=method, tol=1e-6, record=True)
    assert seen == {(np.ndarray, (2, 3), np.dtype(np.float64))}
    assert result.converged
    close(result.x, target, 1e-6, "x")
    assert result.jac.shape == (2, 3)
    assert result.trajectory.shape == (result.n_steps + 1, 2, 3)


def test_the_function_may_keep_and_change_its_arrays():
    kept, buffer = [], np.empty(2)

    def fun(x):
        kept.append(x)
        return f(x)

    def grad(x):
        buffer[:] = f.grad(x)
        x[:] = np.nan
        return buffer

    start = f.start
    result = fo.minimize(fun, start, grad=grad, method=fo.optimizers.Adam(learning_rate=0.1), max_steps=5, record=True)
    assert np.array_equal(start, f.start)
    assert np.array_equal(np.array(kept), result.trajectory)


def test_differences():
    g = fo.functions.rosenbrock
    result = fo.minimize(g, g.start)
    assert np.allclose(result.x, [1.0, 1.0], atol=1e-6)
    assert result.njev == 0
    calls = []
    result = fo.minimize(lambda x: calls.append(1) or g(x), g.start, max_steps=5)
    assert result.nfev == len(calls), "calls for differences are not counted"


def test_value_and_gradient_together():
    g = fo.functions.beale
    apart = fo.minimize(g, g.start, grad=g.grad)
    together = fo.minimize(lambda x: (g(x), g.grad(x)), g.start, grad=True)
    assert np.array_equal(apart.x, together.x)
    assert together.nfev == together.njev == apart.nfev


def test_stops():
    start = fo.minimize(f, [0.0, 0.0], grad=f.grad)
    assert (start.n_steps, start.converged, start.status, start.nfev) == (0, True, 0, 1)
    few = fo.minimize(f, f.start, grad=f.grad, method=fo.optimizers.SGD(learning_rate=0.01), max_steps=7)
    assert (few.n_steps, few.converged, few.status) == (7, False, 1)
    assert "max_steps" in few.message
    # Far from 0 and shifted up: value and x change less and less relative to themselves while the gradient stays above tol.
    slow = fo.minimize(lambda x: (x - 1e3) ** 2 + 1e6, 1e3 + 1.0, grad=lambda x: 2 * (x - 1e3), tol=1e-30, relative_tol=1e-6,
                       method=fo.solvers.GradientDescent(learning_rate=0.1))  # fmt: skip
    assert slow.converged
    assert "relative" in slow.message
    assert 0 < slow.grad_norm < 0.1
    still = fo.minimize(f, f.start, grad=f.grad, method=fo.optimizers.SGD(learning_rate=0.0), max_steps=3)
    assert not still.converged, "standing still is no convergence"


DECAYS = {
    "halved each step": fo.schedules.exponential_decay(0.1, 0.5),
    "halved after a warmup": fo.schedules.warmup(fo.schedules.exponential_decay(0.1, 0.5), 3),
    "to zero": fo.schedules.linear(0.1, 20),
    "somebody's": lambda t: 0.1 * 0.5**t,
}


@pytest.mark.parametrize("name", DECAYS)
@pytest.mark.parametrize("rule", [fo.optimizers.SGD, fo.optimizers.Adam, fo.solvers.GradientDescent])
def test_small_steps_of_a_small_rate_are_no_convergence(rule, name):
    """Far from the minimum, which a rate that falls so fast never reaches."""
    extra = {"line_search": "fixed"} if rule is fo.solvers.GradientDescent else {}
    result = fo.minimize(lambda x: x * x, 1.0, grad=lambda x: 2 * x, method=rule(learning_rate=DECAYS[name], **extra), max_steps=200)
    assert result.status == 1
    assert result.grad_norm > 1e-3


@pytest.mark.parametrize("rate", [0.1, fo.schedules.inverse_time_decay(0.1, 0.01)], ids=["number", "schedule"])
def test_relative_change_ends_a_run(rate):
    """Also one whose rate falls slowly, where the gradient cannot get as small as it has to."""
    rule = fo.optimizers.SGD(learning_rate=rate)
    result = fo.minimize(lambda x: 1e9 + x * x * 1e-3, 1.0, grad=lambda x: 2e-3 * x, method=rule, tol=0.0, relative_tol=1e-3)
    assert result.converged
    assert "relative_tol" in result.message


def test_callback():
    seen = []

    def callback(x):
        seen.append(x)
        if len(seen) == 3:
            raise StopIteration

    result = fo.minimize(f, f.start, grad=f.grad, method=fo.optimizers.SGD(learning_rate=0.01), callback=callback, record=True)
    assert (result.n_steps, result.status, result.converged) == (3, 4, False)
    assert np.array_equal(np.array(seen), result.trajectory[1:])


def test_not_finite():
    """The best point comes back, with a message and without warnings."""
    diverged = fo.minimize(
        fo.functions.rosenbrock, [-1.2, 1.0], grad=fo.functions.rosenbrock.grad, method=fo.optimizers.SGD(learning_rate=0.1)
    )
    assert (diverged.status, diverged.success) == (3, False)
    assert "not finite" in diverged.message
    assert diverged.fun <= 24.2
    assert np.isfinite(diverged.x).all()
    at_once = fo.minimize(np.log, -1.0)
    assert at_once.status == 3
    assert at_once.n_steps == 0
    assert at_once.x == -1.0
    bad_gradient = fo.minimize(lambda x: x**2, 1.0, grad=lambda x: float("nan"))
    assert bad_gradient.status == 3
    walled = fo.minimize(lambda x: x - np.log(x), 20.0, tol=1e-6)
    assert walled.converged
    assert walled.x == pytest.approx(1.0, abs=1e-5)
    bad_hessian = fo.minimize(f, f.start, grad=f.grad, hess=lambda x: np.full((2, 2), np.inf), method="newton")
    assert bad_hessian.status == 2
    assert "Hessian" in bad_hessian.message


def test_result_as_a_mapping():
    result = fo.minimize(f, f.start, grad=f.grad)
    entries = dict(result)
    for name in ("x", "fun", "jac", "nit", "nfev", "njev", "nhev", "success", "status", "message", "grad_norm", "n_steps", "converged"):
        assert name in result
        assert entries[name] is getattr(result, name) or entries[name] == getattr(result, name)
    assert set(result.keys()) == set(result) == {name for name, _ in result.items()}
    assert result.get("hess_inv") is None
    with pytest.raises(KeyError, match="grad_norm"):
        result["hess_inv"]
    assert result.trajectory is None
    assert result.message in str(result)


METHODS = [fo.solvers.LBFGS(), fo.solvers.Newton(), fo.solvers.GradientDescent(line_search="backtracking"),
           *(type(fo.optimizers.get(name))(learning_rate=rate) for name, rate in RATES.items())]  # fmt: skip


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_as_a_method_of_scipy(method):
    optimize = pytest.importorskip("scipy.optimize")
    ours = fo.minimize(f, f.start, grad=f.grad, hess=f.hess, method=method, max_steps=50)
    theirs = optimize.minimize(f, f.start, jac=f.grad, hess=f.hess, method=method, options={"maxiter": 50})
    assert np.array_equal(ours.x, theirs.x)
    assert (theirs.nit, theirs.nfev, theirs["success"]) == (ours.n_steps, ours.nfev, ours.success)


def test_norms_of_gradients_without_a_square():
    for size in (1e-170, 1e200):
        result = fo.minimize(
            lambda x, s=size: s * float(((x - 1) ** 2).sum()), [0.0, 3.0], grad=lambda x, s=size: 2 * s * (x - 1), tol=0.0, max_steps=1,
            method=fo.solvers.Newton(),
        )  # fmt: skip
        assert result.n_steps == 1
        start = fo.minimize(lambda x: 0.0, [0.0, 0.0], grad=lambda x, s=size: s * np.array([3.0, 4.0]), max_steps=1, method="sgd")
        assert start.grad_norm == pytest.approx(5 * size)


def test_scipy_prints_how_it_ended(capsys):
    optimize = pytest.importorskip("scipy.optimize")
    optimize.minimize(lambda x: float(x @ x), [1.0, 2.0], method=fo.solvers.LBFGS(), options={"disp": True})
    assert capsys.readouterr().out.startswith("LBFGS: ")


def test_scipy_options():
    optimize = pytest.importorskip("scipy.optimize")
    method, seen = fo.solvers.LBFGS(), []
    result = optimize.minimize(
        lambda x, a, b: a * ((x - b) ** 2).sum(),
        [0.0, 1.0],
        (3.0, 2.0),
        method=method,
        tol=1e-3,
        callback=seen.append,
        options={"record": True},
    )
    assert result.success
    assert result.x == pytest.approx([2.0, 2.0], abs=1e-3)
    assert np.array_equal(np.array(seen), result.trajectory[1:])
    both = optimize.minimize(lambda x: (f(x), f.grad(x)), f.start, jac=True, method=method)
    assert both.success
    hops = optimize.basinhopping(fo.functions.rastrigin, [2.2, 1.1], niter=30, rng=1, minimizer_kwargs={"method": method})
    assert np.isfinite(hops.fun)
    refuses("bounds", optimize.minimize, f, f.start, method=method, bounds=[(0, 1), (0, 1)], match="bounds")
    refuses("option", optimize.minimize, f, f.start, method=method, options={"maxit": 3}, match="maxit")
    for name, here in {"max_steps": "maxiter", "gtol": "tol"}.items():
        refuses(name, optimize.minimize, f, f.start, method=method, options={name: 3}, match=f"'{name}'; it is called {here} here")


@pytest.mark.parametrize(
    ("what", "arguments", "match"),
    [
        ("no function", {"fun": 3}, "fun must be a function"),
        ("no gradient function", {"grad": np.zeros(2)}, "grad must be a function"),
        ("no Hessian function", {"hess": np.eye(2)}, "hess must be a function"),
        ("empty start", {"x0": []}, "x0 must not be empty"),
        ("NaN in the start", {"x0": [0.0, np.nan]}, "x0 must be finite"),
        ("text as start", {"x0": "abc"}, "x0 must hold real numbers"),
        ("complex start", {"x0": [1j, 0]}, "x0 must hold real numbers"),
        ("ragged start", {"x0": [[1.0], [1.0, 2.0]]}, "x0 must be a rectangular array"),
        ("unknown method", {"method": "bfgs"}, "method 'bfgs' is not known; known are: .*lbfgs"),
        ("class as method", {"method": fo.solvers.Newton}, r"write Newton\(\)"),
        ("function as method", {"method": print}, "method must be a name"),
        ("steps", {"max_steps": 0}, "max_steps must be at least 1"),
        ("half a step", {"max_steps": 1.5}, "max_steps must be an integer"),
        ("tolerance", {"tol": -1.0}, "tol must be at least 0"),
        ("relative tolerance", {"relative_tol": np.nan}, "relative_tol must be a number"),
        ("callback", {"callback": 1}, "callback must be a function"),
        ("vector value", {"fun": lambda x: x}, r"fun\(x\) must be one number; got shape \(2,\)"),
        ("no value", {"fun": lambda x: None}, r"fun\(x\) must hold real numbers"),
        ("gradient of another shape", {"grad": lambda x: np.zeros(3)}, r"grad\(x\) must have the shape \(2,\) of x; got \(3,\)"),
        ("value alone", {"grad": True}, "must return \\(value, gradient\\)"),
        (
            "Hessian of another shape",
            {"grad": f.grad, "hess": lambda x: np.eye(3), "method": "newton"},
            r"hess\(x\) must have shape \(2, 2\)",
        ),
    ],
)
def test_bad_input(what, arguments, match):
    refuses(what, fo.minimize, **{"fun": f, "x0": [4.0, 1.0], **arguments}, match=match)


def test_methods_are_not_taken_for_other_callables():
    """A method can be called, as SciPy wants it; that makes it neither a schedule nor a loss."""
    refuses("schedule", fo.optimizers.SGD, learning_rate=fo.optimizers.Adam(), match="learning_rate must be a number")
    refuses("loss", fo.Trainer, fo.mlp(2, [3], 1), loss=fo.optimizers.Adam(), match="loss must be")


def test_errors_of_the_function_come_through():
    with pytest.raises(ZeroDivisionError):
        fo.minimize(lambda x: 1 / 0, 1.0)


def test_methods_of_scipy_in_a_new_process():
    """Without a look at fo.minimize before."""
    out = run_python("""
        import fastopt as fo, scipy.optimize as so
        print(so.minimize(lambda x: ((x - 1) ** 2).sum(), [1.5, 2.0], method=fo.solvers.LBFGS()).x.round(6).tolist())
    """)
    assert out == "[1.0, 1.0]"


def test_a_gradient_of_another_shape_is_refused():
    a = np.arange(6.0).reshape(2, 3) + 1

    def fun(x):
        return float((a * (x - 1) ** 2).sum())

    for wrong in (lambda x: (2 * a * (x - 1)).T, lambda x: (2 * a * (x - 1)).ravel()):
        refuses("gradient", fo.minimize, fun, np.zeros((2, 3)), grad=wrong, match=r"must have the shape \(2, 3\) of x")
    assert fo.minimize(fun, np.zeros((2, 3)), grad=lambda x: 2 * a * (x - 1)).converged


@pytest.mark.parametrize("seed", range(40))
def test_newton_ends_where_it_no_longer_moves(seed):
    """A condition of 1e10: its rounding, which is that of this machine's LAPACK, may keep the gradient above the tolerance."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(rng.normal(size=(5, 5)))[0]
    a = turn @ np.diag(np.logspace(0, 10, 5)) @ turn.T
    a = (a + a.T) / 2
    b = a @ rng.normal(size=5)
    found = fo.minimize(
        lambda x: 0.5 * x @ a @ x - b @ x, np.zeros(5), grad=lambda x: a @ x - b, hess=lambda x: a, method="newton", max_steps=1000
    )
    assert found.status in (0, 2), found
    assert found.nhev < 100, found
    assert found.grad_norm < 1e-14 * np.linalg.norm(b), found


def test_gradients_whose_square_is_no_number():
    found = fo.minimize(lambda x: float(x @ x) * 1e160, np.full(2, 3.0), grad=lambda x: 2e160 * x)
    assert 0 < found.fun < 18e160, found  # the best point of the line search, whose message says why it ended


def test_a_hessian_that_is_none():
    def run(returned):
        return fo.minimize(lambda x: float(x @ x), np.ones(2), grad=lambda x: 2 * x, hess=lambda x: returned, method="newton")

    refuses("complex", run, np.eye(2) * 1j, errors=TypeError, match=r"hess\(x\) must hold real numbers")
    refuses("text", run, "a", errors=TypeError, match=r"hess\(x\) must hold real numbers")
    refuses("flat", run, np.eye(2).ravel(), errors=ValueError, match=r"hess\(x\) must have shape \(2, 2\)")
