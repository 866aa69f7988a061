"""Every registered activation and its derivative against the twin: values, tails, special points, odd lengths."""

import numpy as np
import pytest
from helpers import close_each, refuses
from native import DTYPES, core, guarded, sample
from reference import twin
from reference.activations import ACTIVATIONS, KINKS

RELATIVE = {"float32": 5e-6, "float64": 1e-12}
# Near 0 these lose digits of their own value to 1 + erf or 1 + tanh; what counts is the error against |x|.
ABSOLUTE_IN_X = ("gelu", "gelu_tanh")
NAMES = core.activation_names()


def forward(name, x):
    out, check = guarded(x.shape, x.dtype)
    core.activation_forward(name, x, out)
    check(name)
    return out


def backward(name, x, out, grad_out):
    grad, check = guarded(x.shape, x.dtype)
    core.activation_backward(name, x, out, grad_out, grad)
    check(f"derivative of {name}")
    return grad


def points(dtype):
    """Dense near 0, thin far out, without the kinks themselves."""
    wide = np.concatenate([np.linspace(-12, 12, 2001), np.geomspace(1e-6, 80, 200), -np.geomspace(1e-6, 80, 200)]).astype(dtype)
    return wide[~np.isin(wide, [0.0, 1.0, -1.0])]


def test_names_are_those_of_the_formulas():
    assert set(NAMES) | {"linear"} == set(ACTIVATIONS)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_values_and_slopes(name, dtype):
    f, df = twin(ACTIVATIONS, "activation", name)
    x = points(dtype)
    wide = x.astype(np.float64)
    eps = RELATIVE[dtype]
    tiny = float(np.finfo(dtype).tiny)
    absolute = eps * np.maximum(abs(wide), tiny) if name in ABSOLUTE_IN_X else tiny
    out = forward(name, x)
    close_each(out, f(wide), eps, f"{name}, {dtype}", absolute)
    slope = backward(name, x, out, np.ones_like(x))
    # The slope is formed from the output where that suffices (sigmoid: h (1 - h)): an error of eps against 1 is what that leaves.
    close_each(slope, df(wide), eps, f"derivative of {name}, {dtype}", eps)
    grad_out = sample(np.random.default_rng(31), x.shape, dtype)
    close_each(backward(name, x, out, grad_out), grad_out * df(wide), 2 * eps, f"gradient through {name}, {dtype}", 4 * eps)


def _exponential(x):
    return np.exp(-abs(x))


# In long double, and how many units in the last place of the dtype a value may be off.
PRECISE = {
    "sigmoid": (lambda x: np.where(x < 0, _exponential(x), 1) / (1 + _exponential(x)), 3),
    "silu": (lambda x: x * np.where(x < 0, _exponential(x), 1) / (1 + _exponential(x)), 4),
    "tanh": (np.tanh, 5),
    "elu": (lambda x: np.where(x < 0, np.expm1(np.minimum(x, 0)), x), 1.5),
    "softplus": (lambda x: np.maximum(x, 0) + np.log1p(_exponential(x)), 3.5),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", PRECISE)
def test_values_to_the_last_places(name, dtype):
    if np.finfo(np.longdouble).eps > np.finfo(dtype).eps / 100:
        pytest.skip("no type here is precise enough to tell")
    precise, ulps = PRECISE[name]
    rng = np.random.default_rng(33)
    near, far = rng.uniform(-1, 1, 100_000), rng.uniform(-80, 80, 100_000)
    x = np.concatenate([near, near**9, rng.uniform(-6, 6, 100_000), far]).astype(dtype)
    expected = precise(x.astype(np.longdouble))
    spacing = np.spacing(np.maximum(abs(expected), np.finfo(dtype).tiny).astype(dtype)).astype(np.longdouble)
    off = abs(forward(name, x).astype(np.longdouble) - expected) / spacing
    worst = int(np.argmax(off))
    assert off[worst] <= ulps, f"{name} at {x[worst]!r} is {off[worst]:.2f} units in the last place off"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_left_tail_of_gelu_keeps_its_digits(dtype):
    """What rounding x^2 costs exp(-x^2 / 2), and a few units more; 1 + erf would have none left from -5.5 (float32) on."""
    x = np.linspace(-12 if dtype == "float32" else -36, 6, 20_001).astype(dtype)
    wide = x.astype(np.float64)
    expected = ACTIVATIONS["gelu"][0](wide)
    off = abs(forward("gelu", x) - expected) / np.maximum(abs(expected), np.finfo(dtype).tiny) / np.finfo(dtype).eps
    excess = off - wide**2
    assert excess.max() <= 6, f"gelu at {x[np.argmax(excess)]!r} is {off[np.argmax(excess)]:.1f} eps off"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_special_points(name, dtype):
    f, df = twin(ACTIVATIONS, "activation", name)
    far = np.array([-1e4, -300, 300, 1e4], dtype=dtype)
    out = forward(name, far)
    assert np.isfinite(out).all(), f"{name} at {far}: {out}"
    close_each(out, f(far.astype(np.float64)), 1e-6, f"{name} far out", 1e-30)
    assert np.isfinite(backward(name, far, out, np.ones_like(far))).all(), f"derivative of {name} far out"
    kinks = np.array([0.0, *KINKS.get(name, ())], dtype=dtype)
    slopes = backward(name, kinks, forward(name, kinks), np.ones_like(kinks))
    for x, slope in zip(kinks, slopes, strict=True):
        sides = [float(df(np.array([x + h]))[0]) for h in (-1e-9, 0.0, 1e-9)]
        assert any(abs(slope - side) < 1e-5 for side in sides), f"slope of {name} at {x} is {slope}, one-sided slopes are {sides}"
    if name == "relu":
        assert slopes[0] == 0, "relu'(0) is 0 by convention"
    nan = forward(name, np.array([np.nan, 1.0], dtype=dtype))
    assert np.isnan(nan).tolist() == [True, False], f"{name} of (NaN, 1) is {nan}"


@pytest.mark.parametrize("dtype", DTYPES)
def test_odd_lengths(dtype):
    rng = np.random.default_rng(32)
    for name in NAMES:
        df = twin(ACTIVATIONS, "activation", name)[1]
        whole = sample(rng, (4099,), dtype)
        expected = forward(name, whole)
        for shape in [(0,), (1,), (3,), (17,), (65,), (3, 5), (17, 1), (1, 65), (0, 4), (33, 31), (1023,)]:
            n = int(np.prod(shape))
            x = whole[:n].reshape(shape)
            out = forward(name, x)
            np.testing.assert_array_equal(out.ravel(), expected[:n], err_msg=f"{name} {shape}: an element depends on its place")
            slope = backward(name, x, out, np.ones_like(x))
            close_each(slope, df(x.astype(np.float64)), 1e-5, f"derivative of {name} {shape}", 1e-5)


def test_unknown_names_list_the_known_ones():
    x = np.zeros(3)
    refuses("a misspelt activation", core.activation_forward, "rellu", x, x.copy(), match="relu")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_ends_of_gelu(dtype):
    """Products of 0 and infinity on the way there are 0."""
    top = np.finfo(dtype).max
    x = np.array([np.inf, top, 1e25, 200.0, 99.0, -99.0, -200.0, -1e25, -top, -np.inf], dtype)
    for name in ("gelu", "gelu_tanh"):
        np.testing.assert_array_equal(backward(name, x, forward(name, x), np.ones_like(x)), np.repeat([1.0, 0.0], 5).astype(dtype))
    np.testing.assert_array_equal(forward("gelu", x), np.maximum(x, 0.0))
    for name in ("gelu", "gelu_tanh"):
        nan = np.full(3, np.nan, dtype)
        assert np.isnan(forward(name, nan)).all()
        assert np.isnan(backward(name, nan, nan, np.ones_like(nan))).all()
