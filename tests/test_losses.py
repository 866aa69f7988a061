"""Every registered loss: native against twin and golden files, weights, stability far out, gradients, shapes, refusals."""

import dataclasses

import fastopt as fo
import numpy as np
import pytest
from helpers import cast_target, close, close_each, golden, loss_cases, make_target, numeric_gradient, refuses
from native import DTYPES, core, native, sample
from reference import losses as twins
from reference import twin

NAMES = core.loss_names()
TOLERANCE = {"float32": 1e-5, "float64": 1e-12}
ROWS = (1, 3, 17, 65, 257)


def spec(name, options):
    return type(fo.losses.get(name))(**options)


def core_options(name, options):
    """As the core takes them: all of them, by name."""
    made = spec(name, options)
    return {field.name: getattr(made, field.name) for field in dataclasses.fields(made)}


def test_the_registries_agree():
    assert sorted(NAMES) == sorted(fo.losses.names()), "losses of the core and of the Python specs"


def predictions(name, n, outputs, rng, dtype):
    p = sample(rng, (n, outputs), dtype)
    return p if name in ("poisson", "gaussian_nll") else 3 * p


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_native_equals_twin(name, dtype):
    twin(twins.LOSSES, "loss", name)
    rng = np.random.default_rng(71)
    tolerance = TOLERANCE[dtype]
    for options, outputs, kind in loss_cases(name):
        loss = native("Loss", dtype, name, spec(name, options).config())
        assert loss.name == name
        loss.check_outputs(outputs)
        for n in ROWS:
            what = f"{name} {options}, {n} rows of {outputs} outputs, {kind} targets, {dtype}"
            p, y = predictions(name, n, outputs, rng, dtype), cast_target(make_target(kind, n, outputs, rng), dtype)
            w = (rng.random(n) * 3 + 0.1).astype(dtype)
            w[n // 2] = 0 if n > 1 else 1
            assert y.ndim == 1 or y.shape[1] == loss.target_columns(outputs), f"{what}: target_columns {loss.target_columns(outputs)}"
            assert loss.target_kind(outputs) in ("either", "classes" if y.ndim == 1 else "dense"), f"{what}: {loss.target_kind(outputs)}"
            rows, _ = twins.LOSSES[name](p.astype(np.float64), y if y.ndim == 1 else y.astype(np.float64), **options)
            # cancellation inside a row (kl, poisson) leaves an error against the terms, not against their difference
            close_each(loss.rows(p, y), rows, tolerance, f"{what}: rows", tolerance * max(1.0, abs(p).max()))
            for weight in (None, w):
                value, grad = loss.value_and_grad(p, y, weight)
                wanted, wanted_grad = twins.value_and_grad(name, p, y, weight, **options)
                tag = f"{what}, {'weighted' if weight is not None else 'no weights'}"
                close(value, wanted, tolerance, f"{tag}: value", floor=0.1)
                close(loss.value(p, y, weight), value, tolerance, f"{tag}: value alone", floor=0.1)
                close(grad, wanted_grad, tolerance, f"{tag}: gradient")
                assert grad.dtype == p.dtype
                if weight is not None and n > 1:
                    assert not grad[n // 2].any(), f"{tag}: a row of weight 0 has a gradient"


def test_golden():
    cases, data = golden("losses")
    assert set(NAMES) == {case["name"] for case in cases}, "a loss without golden values"
    for i, case in enumerate(cases):
        p, y = data[f"{i}.prediction"], data[f"{i}.target"]
        y = y.astype(np.int32) if y.dtype.kind == "i" else y
        what = f"{case['name']} {case['options']} with {case['target']} targets"
        loss = native("Loss", "float64", case["name"], spec(case["name"], case["options"]).config())
        close_each(loss.rows(p, y), data[f"{i}.rows"], 1e-12, what, 1e-14)
        for tag, weight in (("plain", None), ("weighted", data[f"{i}.weight"])):
            value, grad = loss.value_and_grad(p, y, weight)
            close(value, data[f"{i}.{tag}.value"], 1e-12, f"{what}: {tag} value")
            close(grad, data[f"{i}.{tag}.grad"], 1e-12, f"{what}: {tag} gradient")


@pytest.mark.parametrize("name", NAMES)
def test_gradient_is_the_derivative(name):
    rng = np.random.default_rng(72)
    for options, outputs, kind in loss_cases(name):
        loss = spec(name, options)
        p, y, w = predictions(name, 5, outputs, rng, "float64").copy(), make_target(kind, 5, outputs, rng), rng.random(5) + 0.1
        grad = loss.value_and_grad(p, y, w)[1]
        numeric = numeric_gradient(lambda loss=loss, p=p, y=y, w=w: loss(p, y, w), p)
        close(grad, numeric, 1e-6, f"{name} {options}, {outputs} outputs")


FAR = np.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 1e4], [0.0, 0.0, 0.0], [1e4, 1e4, 1e4], [-1e4, -1e4, -1e4], [5e3, 4.99e3, -1.0]])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("poisson", "gaussian_nll", "quantile")])
def test_stable_at_logits_of_ten_thousand(name, dtype):
    rng = np.random.default_rng(73)
    for options, _, kind in loss_cases(name):
        if kind == "signs" and name == "perceptron":
            continue  # one output only
        loss, p = native("Loss", dtype, name, spec(name, options).config()), FAR.astype(dtype)
        for _ in range(3):
            y = cast_target(make_target(kind, len(FAR), 3, rng), dtype)
            value, grad = loss.value_and_grad(p, y, None)
            wanted, wanted_grad = twins.value_and_grad(name, p, y, **options)
            assert np.isfinite(grad).all(), f"{name} {options}: gradient {grad}"
            close(value, wanted, TOLERANCE[dtype], f"{name} {options}: value")
            close(grad, wanted_grad, TOLERANCE[dtype], f"{name} {options}: gradient")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NAMES)
def test_a_row_without_weight_has_no_part(name, dtype):
    """Whatever its prediction is: neither in the value nor in the gradient, where 0 times infinity would be NaN."""
    rng = np.random.default_rng(79)
    for options, outputs, kind in loss_cases(name):
        loss = spec(name, options)
        p, y = predictions(name, 5, outputs, rng, dtype), cast_target(make_target(kind, 5, outputs, rng), dtype)
        w = np.array([1.0, 0.0, 2.0, 1.0, 3.0], dtype)
        value, grad = loss.value_and_grad(p, y, w)
        for wrong in (np.inf, -np.inf, np.nan):
            broken = p.copy()
            broken[1] = wrong
            again, broken_grad = loss.value_and_grad(broken, y, w)
            assert again == value, f"{name} {options}: value with a row of {wrong}"
            np.testing.assert_array_equal(broken_grad, grad, err_msg=f"{name} {options}: gradient with a row of {wrong}")


@pytest.mark.parametrize("name", NAMES)
def test_weights_are_repetitions(name):
    """A row of weight 2 counts as two rows; a common factor does not matter."""
    rng = np.random.default_rng(74)
    for options, outputs, kind in loss_cases(name):
        loss = spec(name, options)
        p, y = predictions(name, 6, outputs, rng, "float64"), make_target(kind, 6, outputs, rng)
        w = np.array([1.0, 2.0, 0.0, 1.0, 3.0, 1.0])
        repeated = loss(np.repeat(p, w.astype(int), axis=0), np.repeat(y, w.astype(int), axis=0))
        close(loss(p, y, w), repeated, 1e-12, f"{name} {options}: weights against repetitions")
        close(loss(p, y, 8 * w), loss(p, y, w), 1e-15, f"{name} {options}: scaled weights")
        close(loss(p, y, np.ones(6)), loss(p, y), 1e-15, f"{name} {options}: weights of 1")


@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_do_not_see_each_other(dtype):
    rng = np.random.default_rng(75)
    for name in NAMES:
        for options, outputs, kind in loss_cases(name):
            loss = native("Loss", dtype, name, spec(name, options).config())
            p, y = predictions(name, 37, outputs, rng, dtype), cast_target(make_target(kind, 37, outputs, rng), dtype)
            whole = loss.rows(p, y)
            for i in (0, 15, 36):
                alone = loss.rows(p[i : i + 1].copy(), y[i : i + 1].copy())
                assert alone[0] == whole[i], f"{name} {options}: row {i} has other bits alone ({alone[0]!r} and {whole[i]!r})"
            p[5] = np.nan
            finite = np.isfinite(loss.rows(p, y))
            assert not finite[5], f"{name} {options}: a NaN prediction gives a finite loss"
            assert np.delete(finite, 5).all(), f"{name} {options}: a NaN reaches other rows"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs", [1, 2, 4, 7, 8, 9, 15, 16, 17, 33])
def test_softmax_of_any_width(outputs, dtype):
    """Short rows are turned and computed a packet of rows at a time, long ones row by row: the same function, and no row sees another."""
    rng = np.random.default_rng(76)
    for rows in (1, 2, 8, 15, 16, 19):
        p = (10.0 ** rng.uniform(-3, 3, (rows, 1)) * rng.standard_normal((rows, outputs))).astype(dtype)
        p[rng.random((rows, outputs)) < 0.1] = -np.inf
        p[:, rng.integers(outputs)] = rng.standard_normal(rows)
        y = rng.integers(0, outputs, rows)
        p[np.arange(rows), y] = np.maximum(p[np.arange(rows), y], -50)
        loss = native("Loss", dtype, "softmax_cross_entropy", spec("softmax_cross_entropy", {}).config())
        value, grad = loss.value_and_grad(p, y.astype(np.int32), None)
        wide = p.astype(np.float64)
        top = wide.max(axis=1, keepdims=True)
        e = np.exp(wide - top)
        share = e / e.sum(axis=1, keepdims=True)
        wanted = (np.log(e.sum(axis=1)) + top[:, 0] - wide[np.arange(rows), y]).mean()
        close(value, wanted, TOLERANCE[dtype], f"{rows} x {outputs}: value", floor=1.0)  # a sum of 1 + 1e-10 has lost digits
        share[np.arange(rows), y] -= 1
        close(grad, share / rows, TOLERANCE[dtype], f"{rows} x {outputs}: gradient", floor=1 / rows)
        for i in range(rows):
            assert loss.rows(p[i : i + 1].copy(), y[i : i + 1].astype(np.int32))[0] == loss.rows(p, y.astype(np.int32))[i]
        smoothed = native("Loss", dtype, "softmax_cross_entropy", spec("softmax_cross_entropy", {"label_smoothing": 0.2}).config())
        p = np.maximum(p, -50).astype(dtype)
        by_class = smoothed.value_and_grad(p, y.astype(np.int32), None)
        by_share = smoothed.value_and_grad(p, np.eye(outputs, dtype=dtype)[y], None)
        close(by_class[0], by_share[0], TOLERANCE[dtype], f"{rows} x {outputs}: smoothed value", floor=1.0)
        close(by_class[1], by_share[1], TOLERANCE[dtype], f"{rows} x {outputs}: smoothed gradient", floor=1 / rows)


def test_conveniences():
    mse = fo.losses.MeanSquaredError()
    assert mse([1.0, 2.0], [1.0, 4.0]) == 2.0, "flat predictions are one output"
    assert mse.value_and_grad(np.zeros(3), np.ones(3))[1].shape == (3,), "the gradient has the prediction's shape"
    assert mse(np.zeros((2, 2), np.float32), np.ones((2, 2), int)) == 1.0
    hinge = fo.losses.Hinge()
    p = np.array([[0.3], [-0.2]])
    assert hinge(p, [[1], [0]]) == hinge(p, [[1], [-1]]), "targets 0/1 are read as -1/+1"
    entropy = fo.losses.get("cross_entropy")
    logits = np.array([[1.0, 2.0, 0.5], [0.0, 0.0, 1.0]])
    close(entropy(logits, [2, 0]), entropy(logits, np.eye(3)[[2, 0]]), 1e-15, "class indices and one-hot rows")
    strided = np.ones((4, 6))[:, ::2]
    close(entropy(strided, [0, 1, 2, 0]), np.log(3), 1e-15, "strided predictions are converted")


def test_refusals():
    logits, labels = np.zeros((4, 3)), np.array([0, 1, 2, 0])
    entropy, bce, poisson = fo.losses.SoftmaxCrossEntropy(), fo.losses.BinaryCrossEntropy(), fo.losses.Poisson()
    refuses("label too large", entropy, logits, [0, 1, 3, 0], match="3")
    refuses("label negative", entropy, logits, [0, -1, 2, 0], match="-1")
    refuses("fractional label", entropy, logits, [0.5, 1, 2, 0])
    refuses("rows differ", entropy, logits, labels[:3], match=r"4.*3|3.*4")
    refuses("empty", entropy, np.zeros((0, 3)), np.zeros(0, int))
    refuses("object array", entropy, logits, np.array(["a", "b", "c", "a"], dtype=object), errors=TypeError)
    refuses("probabilities that do not sum to 1", entropy, logits, np.full((4, 3), 0.5))
    refuses("target above 1", bce, logits, np.full((4, 3), 1.5), match="1.5")
    refuses("target of another width", bce, logits, np.zeros((4, 2)), match=r"\(4, 2\)")
    refuses("negative count", poisson, logits, -np.ones((4, 3)))
    refuses("hinge of other numbers", fo.losses.Hinge(), np.zeros((4, 1)), np.full((4, 1), 0.3))
    refuses("odd outputs", fo.losses.GaussianNLL(), logits, np.zeros((4, 1)), match="3")
    refuses("outputs and quantiles differ", fo.losses.Quantile(quantiles=(0.1, 0.9)), logits, np.zeros((4, 1)), match="3")
    mse = fo.losses.MeanSquaredError()
    refuses("negative weight", mse, logits, logits, [-1, 1, 1, 1], match="sample_weight")
    refuses("weights of another length", mse, logits, logits, [1, 1, 1], match=r"\(4,\)|\(3,\)")
    refuses("all weights 0", mse, logits, logits, np.zeros(4), match="sample_weight")
    refuses("unknown name", fo.losses.get, "mse2", errors=ValueError, match="softmax_cross_entropy")
    refuses("negative delta", fo.losses.Huber, delta=-1.0, errors=ValueError, match="delta")
    refuses("positional option", fo.losses.Huber, 1.0, errors=TypeError)
    refuses("unknown kind", fo.losses.MulticlassHinge, kind="other", errors=ValueError, match="crammer_singer")
    for kind in ("rows", "value_and_grad"):
        strict = getattr(native("Loss", "float32", "mse", mse.config()), kind)
        rest = () if kind == "rows" else (None,)
        refuses("the core converts nothing", strict, np.zeros((2, 1)), np.zeros((2, 1)), *rest)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_normal_without_variance_at_its_mean(dtype):
    """The residual is 0, whatever the precision."""
    value, grad = fo.losses.GaussianNLL().value_and_grad(np.array([[1.0, -9e3], [2.0, 0.0]], dtype), np.array([[1.0], [2.0]], dtype))
    assert value == -2250.0
    np.testing.assert_array_equal(grad, np.array([[0.0, 0.25], [0.0, 0.25]], dtype))


@pytest.mark.parametrize(
    ("name", "options"), [("multiclass_hinge", {"kind": "crammer_singer"}), ("perceptron", {}), ("multiclass_hinge", {})]
)
def test_a_nan_among_scores_is_no_loss_of_zero(name, options):
    """A maximum over classes must not pass it by, wherever it stands."""
    loss = native("Loss", "float64", name, core_options(name, options))
    for at in range(3):
        for label in range(3):
            scores = np.array([[1.0, 2.0, 3.0]])
            scores[0, at] = np.nan
            assert np.isnan(loss.value(scores, np.array([label], np.int32), None)), (at, label)


def test_log_cosh_near_zero():
    """r^2 / 2 to the rounding, where log cosh as softplus has nothing left of it."""
    loss = native("Loss", "float32", "log_cosh", {})
    for r in (1e-6, 1e-4, 1e-3, 1e-2, 0.1):
        close(
            loss.value(np.full((1, 1), r, np.float32), np.zeros((1, 1), np.float32), None),
            np.log(np.cosh(r)) if r > 1e-3 else r * r / 2,
            1e-5,
            r,
        )


@pytest.mark.parametrize("name", ["mse", "softmax_cross_entropy"])
def test_no_row_has_a_weight(name):
    """The mean of nothing is 0, and so is its gradient."""
    loss = native("Loss", "float32", name, core_options(name, {}))
    y = np.zeros((2, 3), np.float32) if name == "mse" else np.zeros(2, np.int32)
    value, grad = loss.value_and_grad(np.ones((2, 3), np.float32), y, np.zeros(2, np.float32))
    assert value == 0
    assert not grad.any()


@pytest.mark.parametrize("classes", [2, 3, 15, 17, 31, 33, 100])
def test_logits_far_below_zero(classes):
    """What fills a line behind the last class has no part in the largest one."""
    logits = np.full((4, classes), -200.0, np.float32)
    logits[:, 1] = -199.0
    loss = native("Loss", "float32", "softmax_cross_entropy", core_options("softmax_cross_entropy", {}))
    expected = np.log(1 + (classes - 1) * np.exp(-1.0))
    close(loss.value(logits, np.ones(4, np.int32), None), expected, 1e-6, "loss")
    close(fo.kernels.softmax(logits)[:, 1], np.full(4, np.exp(-expected)), 1e-6, "softmax")
