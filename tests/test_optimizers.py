"""Every registered optimizer: native against twin and golden trajectories, in place on any arrays, refusals, minima."""

import dataclasses
import inspect

import fastopt as fo
import numpy as np
import pytest
from helpers import close, golden, refuses
from native import DTYPES, core, native
from problems import PROBLEMS, SETTINGS
from reference import mlp, twin
from reference import optimizers as twins

NAMES = core.optimizer_names()
SHAPES = [(7, 5), (5,), (0,), (1,), (3, 0), (130, 3), (17,)]
TOLERANCE = {"float32": 1e-4, "float64": 1e-10}


def spec(name, options=None, **more):
    options = {key: tuple(value) if isinstance(value, list) else value for key, value in (options or {}).items()}
    return type(fo.optimizers.get(name))(**options, **more)


def option_cases(name):
    """The defaults and every combination that the golden files have."""
    cases = [case["options"] for source in ("optimizers", "optimizers_optax") for case in golden(source)[0] if case["name"] == name]
    return [{}, *[options for i, options in enumerate(cases) if options and options not in cases[:i]]]


def start(dtype, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(dtype) for shape in SHAPES], rng


def draw(rng, dtype):
    """Gradients of very different sizes, some exactly 0."""
    grads = [(rng.standard_normal(shape) * 10.0 ** rng.integers(-3, 3)).astype(dtype) for shape in SHAPES]
    grads[1][2] = 0
    return grads


def test_the_registries_agree():
    assert sorted(NAMES) == sorted(fo.optimizers.names()), "optimizers of the core and of the Python specs"
    assert set(NAMES) <= set(SETTINGS), "tests/problems.py has no settings for a registered optimizer"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_native_equals_twin_for_200_steps(name, dtype):
    rule = twin(twins.OPTIMIZERS, "optimizer", name)
    for options in option_cases(name):
        params, rng = start(dtype, seed=91)
        optimizer, reference = spec(name, options), rule(**options)
        wide, state = [p.astype(np.float64) for p in params], optimizer.init(params)
        for t in range(200):
            grads, rate = draw(rng, dtype), 0.02 / (1 + 0.01 * t)
            optimizer.step(params, grads, state, learning_rate=rate)
            reference.step(wide, [g.astype(np.float64) for g in grads], lr=rate)
            if t in (0, 1, 9, 199):
                for p, expected in zip(params, wide, strict=True):
                    close(p, expected, TOLERANCE[dtype], f"{name} {options}, {dtype}, shape {p.shape} after {t + 1} steps", floor=1e-2)
        assert state.step == 200


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_point(name, dtype):
    params, rng = start(dtype, seed=92)
    optimizer, reference = spec(name), twins.OPTIMIZERS[name]()
    rule, state = native("Optimizer", dtype, name, optimizer.config()), optimizer.init(params)
    wide = [p.astype(np.float64) for p in params]
    for _ in range(30):
        grads = draw(rng, dtype)
        optimizer.step(params, grads, state, learning_rate=0.01)
        reference.step(wide, [g.astype(np.float64) for g in grads], lr=0.01)
    out = [np.full_like(p, np.nan) for p in params]
    averaged = rule.evaluation_point(params, list(state.slots.values()), state.scalars, out)
    assert averaged == name.startswith("schedule_free"), f"{name}: evaluation_point says {averaged}"
    if averaged:
        for value, expected in zip(out, reference.evaluation_point(wide), strict=True):
            close(value, expected, 10 * TOLERANCE[dtype], f"{name}: evaluation point of shape {value.shape}", floor=1e-2)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_evaluation_point_before_the_first_step(name, dtype):
    """Copies of the parameters, whatever they came in."""
    params, _ = start(dtype, seed=96)
    named = {str(i): p for i, p in enumerate(params)}
    optimizer = spec(name)
    for given, expected in ((params, params), (tuple(params), params), (named, params), (params[0], params[:1])):
        points = optimizer.evaluation_point(given, optimizer.init(given))
        for point, p in zip(points, expected, strict=True):
            np.testing.assert_array_equal(point, p, err_msg=f"{name}: {type(given).__name__}")
            assert point.dtype == p.dtype
            assert not np.shares_memory(point, p)


def _split(vector):
    shapes, out, at = [(4, 6), (6,), (6, 3), (3,)], [], 0
    for shape in shapes:
        size = int(np.prod(shape))
        out.append(vector[at : at + size].reshape(shape))
        at += size
    return out


@pytest.mark.parametrize("source", ["optimizers", "optimizers_optax"])
def test_golden_trajectories(source):
    """Native updates on one flat array that the twin network's parameters are views of; gradients by the twin."""
    cases, data = golden(source)
    layers, names = [{"kind": "dense", "activation": "tanh"}, {"kind": "dense"}], ("0.weight", "0.bias", "1.weight", "1.bias")
    for i, case in enumerate(cases):
        if case["name"] not in NAMES or case["decay"] != "all":
            continue  # decay of weights only is a matter of networks: test_training.py
        what = f"{case['name']} {case['options']}"
        flat = np.concatenate([data[f"start.{name}"].ravel() for name in names])
        net = mlp.MLP(layers, {})
        net.parameters = dict(zip(names, _split(flat), strict=True))
        optimizer = spec(case["name"], case["options"], learning_rate=case["learning_rate"])
        state, points = optimizer.init(flat), []
        for k in range(len(data[f"{i}.losses"])):
            rows = slice(k % 5 * 8, k % 5 * 8 + 8)
            value, grad = mlp.losses.value_and_grad("softmax_cross_entropy", net.forward(data["x"][rows]), data["y"][rows])
            net.backward(grad)
            close(value, data[f"{i}.losses"][k], 1e-9, f"{what}: loss of step {k}", floor=0.1)
            optimizer.step(flat, np.concatenate([net.gradients[name].ravel() for name in names]), state)
            if k + 1 in data["kept"]:
                points.append(flat.copy())
        close(np.array(points), data[f"{i}.points"], 1e-9, f"{what}: parameters")


@pytest.mark.parametrize("name", NAMES)
def test_array_list_and_dict_give_the_same(name):
    (a, b), rng = start("float64")[0][:2], np.random.default_rng(93)
    optimizer = spec(name)
    alone, listed, named = (a.copy(), b.copy()), [a.copy(), b.copy()], {"a": a.copy(), "b": b.copy()}
    states = [optimizer.init(alone[0]), optimizer.init(alone[1])]
    list_state, dict_state = optimizer.init(listed), optimizer.init(named)
    kept = [id(array) for array in (*listed, *named.values())]
    for _ in range(5):
        grads = rng.standard_normal(a.shape), rng.standard_normal(b.shape)
        for array, grad, state in zip(alone, grads, states, strict=True):
            optimizer.step(array, grad, state)
        optimizer.step(listed, list(grads), list_state)
        optimizer.step(named, {"b": grads[1], "a": grads[0]}, dict_state)
    assert kept == [id(array) for array in (*listed, *named.values())], "arrays were replaced, not written"
    for key, x, y, z in zip("ab", alone, listed, named.values(), strict=True):
        np.testing.assert_array_equal(y, z, err_msg=f"{name}: list and dict differ in {key}")
        if name != "adagrad_norm":  # its one scalar belongs to all arrays together
            np.testing.assert_array_equal(x, y, err_msg=f"{name}: array and list differ in {key}")
    assert not np.array_equal(listed[0], a), "nothing moved"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_an_element_does_not_depend_on_its_place(name, dtype):
    """Odd lengths and offsets: tails are computed as the rest is."""
    if name == "adagrad_norm":
        return
    rng = np.random.default_rng(94)
    w, grads = rng.standard_normal(133).astype(dtype), rng.standard_normal((3, 133)).astype(dtype)
    optimizer, whole = spec(name), w.copy()
    state = optimizer.init(whole)
    for g in grads:
        optimizer.step(whole, g, state)
    for first, last in ((0, 1), (1, 18), (3, 68), (100, 133)):
        buffer = np.empty(last - first + 1, dtype)
        part = buffer[1:]
        part[...] = w[first:last]
        state = optimizer.init(part)
        for g in grads:
            optimizer.step(part, g[first:last], state)
        np.testing.assert_array_equal(part, whole[first:last], err_msg=f"{name}: elements {first}..{last}")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("spec_of", [fo.optimizers.AdaGrad, fo.optimizers.RMSProp])
def test_the_quotient_by_a_root_over_all_sizes_of_gradients(spec_of, dtype):
    """One step from 0 moves by eta g / (sqrt(s) + eps) to the last bits."""
    rng = np.random.default_rng(95)
    g = (rng.choice([-1.0, 1.0], 20_000) * 10.0 ** rng.uniform(-17, 18, 20_000)).astype(dtype)
    g[:100] = 0
    optimizer, w = spec_of(learning_rate=0.5), np.zeros(g.shape, dtype)
    state = optimizer.init(w)
    optimizer.step(w, g, state)
    root = np.sqrt(next(iter(state.slots.values()))[0].astype(np.float64))
    expected = -np.asarray(0.5 * g, np.float64) / (root + float(np.dtype(dtype).type(optimizer.eps)))
    ulp = np.spacing(np.abs(expected).astype(dtype))
    assert (np.abs(w - expected) <= 2.5 * ulp).all(), "a rounded root, sum and quotient"


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_step_of_adam_over_all_sizes_of_gradients(dtype):
    """The same for eta m / (1 - beta1) over sqrt(v / (1 - beta2)) + eps, from the moments that the step has left."""
    as_stored = np.dtype(dtype).type
    rng = np.random.default_rng(97)
    g = (rng.choice([-1.0, 1.0], 20_000) * 10.0 ** rng.uniform(-16, 18, 20_000)).astype(dtype)
    g[:100] = 0
    optimizer, w = fo.optimizers.Adam(learning_rate=0.5), np.zeros(g.shape, dtype)
    state = optimizer.init(w)
    optimizer.step(w, g, state)
    m, v = (slot[0].astype(np.float64) for slot in state.slots.values())
    rate, scale = float(as_stored(0.5 / (1 - optimizer.beta1))), float(as_stored(1 / np.sqrt(1 - optimizer.beta2)))
    expected = -rate * m / (np.sqrt(v) * scale + float(as_stored(optimizer.eps)))
    ulp = np.spacing(np.abs(expected).astype(dtype))
    assert (np.abs(w - expected) <= 3 * ulp).all(), "a rounded product, root, sum and quotient"


OVERFLOWING = (
    fo.optimizers.AdaGrad(),
    *(fo.optimizers.RMSProp(rho=rho) for rho in (0.0, 0.3, 0.9)),
    fo.optimizers.Adam(),
    fo.optimizers.Adam(amsgrad=True),
    fo.optimizers.AdamW(),
    fo.optimizers.NAdam(),
    fo.optimizers.RAdam(),
    fo.optimizers.ScheduleFreeAdamW(),
)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("optimizer", OVERFLOWING, ids=repr)
def test_a_square_that_overflows_stops_nothing_and_a_nan_stays_in_its_place(optimizer, dtype):
    size = 150  # groups of four lines, lines, and a part of one
    huge, w = np.full(size, np.finfo(dtype).max / 8, dtype), np.ones(size, dtype)
    state = optimizer.init(w)
    optimizer.step(w, huge, state)
    assert all(np.isfinite(slot[0]).all() for slot in state.slots.values()), "an infinite square would stop its parameter for good"
    optimizer.step(w, np.ones(size, dtype), state)
    assert np.isfinite(w).all()
    places = [3, 20, 50, 90, 149]
    huge[places] = np.nan
    optimizer.step(w, huge, state)
    assert np.flatnonzero(np.isnan(w)).tolist() == places


@pytest.mark.parametrize("optimizer", [o for o in OVERFLOWING if not isinstance(o, fo.optimizers.RAdam)], ids=repr)
def test_steps_of_gradients_without_a_square(optimizer):
    """They are those of the largest gradient that has one; in float64 the same ones have a square. (RAdam begins with plain momentum.)"""
    for size in (1e18, 3e20, 1e25, 1e37):
        moved = []
        for dtype in DTYPES:
            w, g = np.zeros(37, dtype), np.linspace(-size, size, 37).astype(dtype)
            state = optimizer.init(w)
            for _ in range(3):
                optimizer.step(w, g, state)
            moved.append(w)
        ends = [0, -1]  # what is smaller than the end is not limited alike: its quotient by the root may differ
        np.testing.assert_allclose(moved[0][ends], moved[1][ends], rtol=2e-6, err_msg=f"{size}")
        assert np.abs(moved[0]).max() <= np.abs(moved[0][ends]).max() * (1 + 1e-6)


def test_norms_of_gradients_without_a_square():
    for size in (1e15, 2e19, 1e25, 1e37):
        moved = []
        for dtype in DTYPES:
            w, g = np.zeros(5000, dtype), np.full(5000, size, dtype)
            optimizer = fo.optimizers.AdaGradNorm()
            state = optimizer.init(w)
            for _ in range(2):
                optimizer.step(w, g, state)
            net = fo.Network(3, [fo.layers.Dense(1, init="zeros")], dtype=dtype)
            trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=0.1), clip_norm=1.0)
            if size < 1e19:  # the loss is a square, too
                x = np.random.default_rng(1).standard_normal((20, 3))
                for _ in range(3):
                    trainer.step(x * size, x[:, :1] * 1e3 * size)
            moved.append((w, net.parameters["0.weight"].copy()))
        for narrow, wide in zip(*moved, strict=True):
            np.testing.assert_allclose(narrow, wide, rtol=1e-4, err_msg=f"{size}")
            assert size > 1e19 or np.abs(wide).max() > 0


@pytest.mark.parametrize("rho", [0.0, 1e-6, 0.3, 0.5, 0.999])
def test_a_moving_average_does_not_cancel(rho):
    """A gradient that falls, or grows, by 1e6 leaves the mean square right to float32."""
    optimizer, w = fo.optimizers.RMSProp(rho=rho), np.zeros(16, np.float32)
    state, expected = optimizer.init(w), 0.0
    for g in (1.0, 1e-3, 1e3, 1e-3, 1e-3):
        optimizer.step(w, np.full(16, g, np.float32), state)
        expected = rho * expected + (1 - rho) * float(np.float32(g)) ** 2
        np.testing.assert_allclose(next(iter(state.slots.values()))[0], expected, rtol=1e-6, err_msg=f"rho {rho}, gradient {g}")


@pytest.mark.parametrize("name", NAMES)
def test_minimises(name):
    options, settings = SETTINGS[name]
    for problem, (rate, steps) in settings.items():
        function, begin, best, tolerance = PROBLEMS[problem]
        optimizer, w = spec(name, options), begin.copy()
        state = optimizer.init(w)
        for t in range(steps):
            optimizer.step(w, function(w)[1], state, learning_rate=rate * (1 - t / steps))
        point = [np.empty_like(w)]
        rule = native("Optimizer", "float64", name, optimizer.config())
        if rule.evaluation_point([w], list(state.slots.values()), state.scalars, point):
            w = point[0]
        above = function(w)[0] - best
        assert above <= tolerance, f"{name} ends {above:.3g} above the minimum of {problem}, allowed {tolerance:g}"


@pytest.mark.parametrize("name", NAMES)
def test_refusals_change_nothing(name):
    optimizer = spec(name)
    a, b = np.ones((4, 3)), np.full(5, 2.0)
    params, state = [a, b], optimizer.init([a, b])
    good = [np.ones((4, 3)), np.ones(5)]
    wide, read_only = np.ones((4, 6)), np.ones(5)
    read_only.flags.writeable = False
    cases = {
        "float32 gradient": (params, [good[0].astype(np.float32), good[1]]),
        "integer gradient": (params, [good[0].astype(int), good[1]]),
        "gradient of another shape": (params, [np.ones((3, 4)), good[1]]),
        "a gradient missing": (params, good[:1]),
        "strided gradient": (params, [wide[:, ::2], good[1]]),
        "Fortran gradient": (params, [np.asfortranarray(good[0]), good[1]]),
        "strided parameter": ([wide[:, ::2], b], good),
        "read-only parameter": ([a, read_only], good),
        "float32 parameter": ([a.astype(np.float32), b], good),
        "a list as a parameter": ([a.tolist(), b], good),
        "gradient is the parameter": (params, [a, good[1]]),
        "the same parameter twice": ([a, a[0]], [good[0], np.ones(3)]),
    }
    for what, (p, g) in cases.items():
        refuses(f"{name}: {what}", optimizer.step, p, g, state)
        assert state.step == 0, f"{name}: {what} counted as a step"
        assert (a == 1).all(), f"{name}: {what} changed a parameter"
        assert (b == 2).all(), f"{name}: {what} changed a parameter"
        assert (read_only == 1).all(), f"{name}: {what} wrote a read-only array"
    overlap = np.ones(12)
    pair = [overlap[:6], overlap[4:10]]
    refuses(f"{name}: overlapping parameters", lambda: optimizer.step(pair, [np.ones(6), np.ones(6)], optimizer.init(pair)))
    assert (overlap == 1).all(), f"{name}: a refused overlap was written"
    fresh = spec(name)
    reference_state, reference = fresh.init([a.copy(), b.copy()]), [a.copy(), b.copy()]
    fresh.step(reference, good, reference_state)
    optimizer.step(params, good, state)
    np.testing.assert_array_equal(a, reference[0], err_msg=f"{name}: refused calls left a trace in the state")


@pytest.mark.parametrize("name", NAMES)
def test_nothing_to_update(name):
    optimizer, empty = spec(name), np.zeros(0)
    state = optimizer.init(empty)
    optimizer.step(empty, empty.copy(), state)
    assert state.step == 1


def test_options_are_checked():
    for make, options, match in [
        (fo.optimizers.SGD, {"learning_rate": -1.0}, "learning_rate"),
        (fo.optimizers.SGD, {"learning_rate": float("nan")}, "learning_rate"),
        (fo.optimizers.SGD, {"momentum": 1.0}, "momentum"),
        (fo.optimizers.SGD, {"momentum": -0.1}, "momentum"),
        (fo.optimizers.Adam, {"beta1": 1.5}, "beta1"),
        (fo.optimizers.Adam, {"eps": 0.0}, "eps"),
        (fo.optimizers.AdamW, {"weight_decay": -1e-3}, "weight_decay"),
        (fo.optimizers.Rprop, {"etas": (1.2, 0.5)}, "etas"),
    ]:
        refuses(f"{make.__name__}({options})", make, errors=ValueError, match=match, **options)
    refuses("a positional option", fo.optimizers.Adam, 0.1, errors=TypeError)
    refuses("an unknown option", fo.optimizers.Adam, momentum=0.9, errors=TypeError)
    refuses("a rate that is text", fo.optimizers.Adam, learning_rate="fast", errors=TypeError, match="learning_rate")
    refuses("an unknown name", fo.optimizers.get, "adamm", errors=ValueError, match="adamw")


def test_schedules_are_asked_for_the_step():
    seen, w = [], np.ones(2)
    optimizer = fo.optimizers.SGD(learning_rate=lambda t: seen.append(t) or 0.1)
    state = optimizer.init(w)
    for _ in range(3):
        optimizer.step(w, np.zeros(2), state)
    assert seen[-3:] == [0, 1, 2]


@pytest.mark.parametrize("name", NAMES)
def test_a_rate_of_0_moves_nothing(name):
    """Nor does a layer's factor of 0."""
    w = np.array([1.0, -2.0, 3.0])
    optimizer = dataclasses.replace(fo.optimizers.get(name), learning_rate=0.0)
    state = optimizer.init(w)
    for gradient in np.random.default_rng(18).standard_normal((5, 3)):
        optimizer.step(w, gradient, state)
    np.testing.assert_array_equal(w, [1.0, -2.0, 3.0])
    net = fo.Network(3, [fo.layers.Dense(4, learning_rate_multiplier=0.0), fo.layers.Dense(1)], seed=1)
    before, trainer = net.parameters["0.weight"].copy(), fo.Trainer(net, "mse", name)
    for _ in range(5):
        trainer.step(np.eye(3), np.ones((3, 1)))
    np.testing.assert_array_equal(net.parameters["0.weight"], before)


def test_roots_are_those_of_numpy_to_the_bit():
    """With no gradient and m = 1, Adam's step is 1 / (sqrt(v) + eps), in float32 whatever takes the root (kernels/roots.hpp)."""
    rng = np.random.default_rng(17)
    mantissas = rng.integers(0, 1 << 23, 1 << 20, dtype=np.uint32)
    small, normal = (mantissas | (rng.integers(first, 255, mantissas.size, dtype=np.uint32) << 23) for first in (1, 30))
    between = np.concatenate([np.arange(1 << 17), np.arange((1 << 24) - (1 << 17), 1 << 24), rng.integers(0, 1 << 24, 1 << 20)])
    edges = np.array([0, 1 << 24, 0x0DFFFFFF, 0x0E000000, 0x0E000001, 0x7F7FFFFF, 0x3F7FFFFF, 0x3F800000], np.uint32)
    for bits, zeros in (
        (small, 0.0),
        (normal, 0.0),
        (normal, 0.3),
        (between.astype(np.uint32) + np.uint32(0x3F800000), 0.1),
        (np.tile(edges, 37), 0.0),
    ):
        v = bits.view(np.float32).copy()
        v[rng.random(v.size) < zeros] = 0
        v = v[(v == 0) | (v >= 2 * np.finfo(np.float32).tiny)]  # what is halved to a denormal counts as 0
        w, optimizer = np.zeros_like(v), fo.optimizers.Adam(learning_rate=1.0, beta1=0.5, beta2=0.5, eps=2.0**-60)
        state = optimizer.init([w])
        state.step = 1000  # 1 - 0.5^t is 1
        state.slots["m"][0][:], state.slots["v"][0][:] = 2, v
        optimizer.step([w], [np.zeros_like(v)], state)
        np.testing.assert_array_equal(w, -(np.float32(1) / (np.sqrt(np.float32(0.5) * v) + np.float32(2.0**-60))))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_lion_does_not_hide_what_is_no_number(dtype):
    weights, rule = np.ones(40, dtype), fo.optimizers.Lion(learning_rate=0.1)
    grad = np.linspace(-1, 1, 40).astype(dtype)
    grad[[3, 37]] = np.nan
    rule.step(weights, grad, rule.init(weights))
    np.testing.assert_array_equal(np.isnan(weights), np.isnan(grad))


def test_rprop_keeps_a_nan():
    w, optimizer = np.ones(3), fo.optimizers.Rprop()
    state = optimizer.init(w)
    for _ in range(3):
        optimizer.step(w, np.array([np.nan, 1.0, -1.0]), state)
    assert np.isnan(w).tolist() == [True, False, False]


def test_an_eps_that_is_nothing_in_the_dtype():
    w = np.ones(3, np.float32)
    for name in fo.optimizers.names():
        kind = type(fo.optimizers.get(name))
        if "eps" in inspect.signature(kind).parameters:
            refuses(name, kind(eps=1e-40).init, w, errors=ValueError, match=r"eps must be at least 1.2e-38 in float32")
            kind(eps=1e-40).init(w.astype(np.float64))
    refuses("layer", fo.Network, 2, [fo.layers.BatchNorm(eps=1e-40)], errors=ValueError, match="eps must be at least")
    fo.Network(2, [fo.layers.BatchNorm(eps=1e-40)], dtype="float64")


STATES = {
    "none": (lambda state: None, "must be what init of the optimizer gave"),
    "no slots": (lambda state: dataclasses.replace(state, slots=None), "slots must be a dict of lists"),
    "fewer arrays": (lambda state: dataclasses.replace(state, slots={**state.slots, "m": []}), "as many arrays; got 1, 1 and 0"),
    "a list": (lambda state: dataclasses.replace(state, slots={**state.slots, "m": [[0.0, 0.0]]}), "m for params.0. must be a NumPy array"),
    "text": (lambda state: dataclasses.replace(state, step="3"), "step must be a number of updates; got '3'"),
    "too many": (lambda state: dataclasses.replace(state, step=2**63), "step must be a number of updates"),
}


@pytest.mark.parametrize("case", STATES)
def test_states_that_no_optimizer_made(case):
    change, match = STATES[case]
    w, g, optimizer = np.ones(2), np.ones(2), fo.optimizers.Adam()
    refuses(case, optimizer.step, w, g, change(optimizer.init(w)), match=match)
    refuses("mask", optimizer.step, np.ma.masked_array(w), g, optimizer.init(w), errors=TypeError, match="masked array")
    np.testing.assert_array_equal(w, np.ones(2))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rho", [0.3, 0.5, 0.9, 0.99])
def test_the_variance_of_centered_rmsprop_is_not_negative(dtype, rho):
    """Of a constant gradient it is 0 but for rounding, of which there is no root."""
    rng = np.random.default_rng(7)
    grad = (rng.standard_normal(1000) * 10.0 ** rng.integers(-3, 4, 1000)).astype(dtype)
    w, rule = np.zeros(1000, dtype), fo.optimizers.RMSProp(learning_rate=1e-6, centered=True, rho=rho)
    state = rule.init([w])
    for _ in range(400):
        rule.step([w], [grad], state)
    assert np.isfinite(w).all()


@pytest.mark.parametrize(("dtype", "size"), [("float32", 3e38), ("float64", 1e300)])
def test_squares_that_overflow_do_not_stop_adagrad(dtype, size):
    """Each step still moves, if less and less."""
    w, rule = np.zeros(20, dtype), fo.optimizers.AdaGrad(learning_rate=1e-3)
    state = rule.init([w])
    for _ in range(8):
        before = w.copy()
        rule.step([w], [np.full(20, size, dtype)], state)
        assert np.isfinite(w).all()
        assert (w < before).all()
