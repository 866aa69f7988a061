"""The test functions: derivatives against finite differences, minima, shapes."""

import fastopt as fo
import numpy as np
import pytest
from helpers import close, numeric_gradient, refuses

TABLE = fo.functions.table()
ANY_SIZE = ("rosenbrock", "styblinski_tang", "rastrigin", "plateau")
functions = pytest.mark.parametrize("name", TABLE)


def points(f, count=5):
    rng = np.random.default_rng(3)
    return [f.start, *(np.array([rng.uniform(*ends) for ends in f.bounds]) for _ in range(count))]


def numeric_hessian(f, x):
    rows = []
    for i in range(x.size):
        h = 1e-5 * max(1.0, abs(x[i]))
        step = np.eye(x.size)[i] * h
        rows.append((f.grad(x + step) - f.grad(x - step)) / (2 * h))
    return np.array(rows)


@functions
def test_derivatives(name):
    f = TABLE[name]
    for x in points(f):
        close(f.grad(x), numeric_gradient(lambda x=x: f(x), x), 1e-6, f"{name}: gradient at {x}", floor=1.0)
        close(f.hess(x), numeric_hessian(f, x), 1e-6, f"{name}: Hessian at {x}", floor=1.0)
        assert isinstance(f(x), float)
        assert np.array_equal(f.hess(x), f.hess(x).T)


@pytest.mark.parametrize("name", ANY_SIZE)
def test_more_variables(name):
    f, x = TABLE[name], np.linspace(-1.3, 1.7, 5)
    close(f.grad(x), numeric_gradient(lambda: f(x), x), 1e-6, f"{name}: gradient")
    close(f.hess(x), numeric_hessian(f, x), 1e-6, f"{name}: Hessian")


@functions
def test_minima(name):
    f = TABLE[name]
    assert f.minimum.value == f.minima[0].value
    for minimum in f.minima:
        assert np.abs(f.grad(minimum.x)).max() < 1e-9, f"{name}: the gradient at {minimum.x} is {f.grad(minimum.x)}"
        assert np.linalg.eigvalsh(f.hess(minimum.x)).min() > 0, f"{name}: {minimum.x} is not a minimum"
        assert minimum.value == pytest.approx(f.minimum.value, abs=1e-12)
    (left, right), (low, high) = f.bounds
    grid = [f(np.array([x, y])) for x in np.linspace(left, right, 60) for y in np.linspace(low, high, 60)]
    assert min(grid) >= f.minimum.value - 1e-12, f"{name} is lower on a grid than at its minimum"
    for x in (f.start, f.minimum.x):
        assert left <= x[0] <= right, f"{name}: the picture does not show {x}"
        assert low <= x[1] <= high, f"{name}: the picture does not show {x}"


def test_known_values():
    assert TABLE["rosenbrock"](np.array([-1.2, 1.0])) == pytest.approx(24.2)
    assert TABLE["himmelblau"](np.zeros(2)) == 170.0
    assert TABLE["beale"](np.zeros(2)) == pytest.approx(14.203125)
    assert TABLE["rastrigin"](np.array([0.5, 0.0])) == pytest.approx(20.25)
    assert TABLE["styblinski_tang"].minimum.value == pytest.approx(2 * -39.16616570377142)
    assert np.linalg.cond(TABLE["valley"].hess(np.zeros(2))) == pytest.approx(100.0)
    turned = fo.functions.Quadratic(curvatures=(1.0, 9.0), angle=0.7)
    assert np.linalg.eigvalsh(turned.hess(np.zeros(2))) == pytest.approx([1.0, 9.0])


@functions
def test_objects(name):
    f = TABLE[name]
    assert getattr(fo.functions, name) is f
    f.start[:] = 7.0
    assert not (f.start == 7.0).any(), "start is not a copy"
    with pytest.raises(AttributeError):
        f.curvatures = (1.0, 2.0)
    refuses(f"{name} of a matrix", f, np.zeros((2, 2)), match=r"one vector; got shape \(2, 2\)")
    refuses(f"{name} of a number", f, 1.0, match="one vector")


def test_wrong_sizes():
    refuses("Himmelblau of three", TABLE["himmelblau"], np.zeros(3), match="2 variables")
    refuses("Rosenbrock of one", TABLE["rosenbrock"], np.zeros(1), match="at least 2")
    refuses("curvatures", fo.functions.Quadratic, curvatures=(1.0,), match="2 entries")
