"""Splitting and metrics, against their plain definitions."""

import functools

import fastopt as fo
import numpy as np
import pytest
from helpers import close, refuses

m = fo.metrics


def test_split_parts():
    x, y = np.arange(200.0).reshape(100, 2), np.arange(100) % 4
    for stratify in (True, False):
        parts = fo.data.split(x, y, validation=0.2, test=0.1, stratify=stratify, seed=3)
        rows = [part[0][:, 0].astype(int) // 2 for part in parts]
        assert [len(r) for r in rows] == [70, 20, 10]
        assert sorted(np.concatenate(rows).tolist()) == list(range(100)), "the parts overlap or lose rows"
        for (px, py), r in zip(parts, rows, strict=True):
            np.testing.assert_array_equal(px, x[r], err_msg="rows of X")
            np.testing.assert_array_equal(py, y[r], err_msg="X and y no longer belong together")
        again = fo.data.split(x, y, validation=0.2, test=0.1, stratify=stratify, seed=3)
        np.testing.assert_array_equal(again.test[0], parts.test[0], err_msg="the same seed")
        other = fo.data.split(x, y, validation=0.2, test=0.1, stratify=stratify, seed=4)
        assert not np.array_equal(other.test[0], parts.test[0]), "another seed"


def test_split_keeps_the_shares_of_the_classes():
    y = np.repeat([0, 1, 2], [500, 300, 200])
    for labels in (y, y.astype(bool), np.array(["a", "b", "c"])[y]):
        parts = fo.data.split(np.zeros((1000, 1)), labels, validation=0.1, test=0.2, seed=1)
        whole = np.unique(labels, return_counts=True)[1] / 1000
        for _, part in parts:
            shares = np.unique(part, return_counts=True)[1] / len(part)
            assert abs(shares - whole).max() <= 1 / len(part), f"shares {shares}, of all {whole}"


def test_split_refuses():
    x, y = np.zeros((10, 1)), np.zeros(10)
    refuses("lengths", fo.data.split, x, y[:9], errors=ValueError, match=r"10.*9")
    refuses("nothing left", fo.data.split, x, y, validation=0.5, test=0.5, errors=ValueError)
    refuses("negative share", fo.data.split, x, y, validation=-0.1, errors=ValueError, match="validation")
    for n in (1, 3):
        shares = {"validation": 0.6, "test": 0.39}
        refuses(f"{n} rows, none left after rounding", fo.data.split, x[:n], y[:n], **shares, errors=ValueError, match=f"{n} rows")
    assert len(fo.data.split(x[:3], y[:3], validation=0.3, test=0.3).train[1]) == 1


def test_seeds_and_epochs_of_splits_and_batches():
    x, y = np.zeros((10, 1)), np.zeros(10)
    for call in (fo.data.split, fo.data.batches):
        refuses("negative", call, x, y, seed=-1, errors=ValueError, match="seed must be at least 0; got -1")
        refuses("too large", call, x, y, seed=2**63, errors=ValueError, match=r"seed must be below 2\*\*63; got 9223372036854775808")
        refuses("text", call, x, y, seed="a", errors=TypeError, match="seed must be an integer; got 'a'")
        refuses("a float", call, x, y, seed=1.0, errors=TypeError, match="seed must be an integer")
        call(x, y, seed=np.int64(2**63 - 1))
    refuses("negative epoch", fo.data.batches, x, y, epoch=-1, errors=ValueError, match="epoch must be at least 0")
    refuses("epoch too large", fo.data.batches, x, y, epoch=2**64, errors=ValueError, match=r"epoch must be below 2\*\*63")
    refuses("batch_size", fo.data.batches, x, y, batch_size=0, errors=ValueError, match="batch_size")


def test_regression_metrics():
    rng = np.random.default_rng(151)
    y, p, w = rng.standard_normal((30, 2)), rng.standard_normal((30, 2)), rng.random(30)
    for weight in (None, w):
        v = np.ones(30) if weight is None else w
        square = (v @ ((y - p) ** 2).mean(axis=1)) / v.sum()
        close(m.mse(y, p, weight), square, 1e-12, "mse")
        close(m.rmse(y, p, weight), np.sqrt(square), 1e-12, "rmse")
        close(m.mae(y, p, weight), (v @ abs(y - p).mean(axis=1)) / v.sum(), 1e-12, "mae")
        centre = (v @ y) / v.sum()
        close(m.r2(y, p, weight), np.mean(1 - (v @ (y - p) ** 2) / (v @ (y - centre) ** 2)), 1e-12, "r2")


def test_classification_metrics():
    rng = np.random.default_rng(152)
    y, p, w = rng.integers(0, 4, 60), rng.integers(0, 4, 60), rng.random(60)
    close(m.accuracy(y, p), np.mean(y == p), 1e-15, "accuracy")
    close(m.accuracy(y, p, w), (w @ (y == p)) / w.sum(), 1e-12, "weighted accuracy")
    close(m.balanced_accuracy(y, p), np.mean([np.mean(p[y == c] == c) for c in range(4)]), 1e-12, "balanced accuracy")
    scores = rng.standard_normal((60, 4))
    best = np.argsort(-scores, axis=1)
    for k in (1, 2, 4):
        close(m.top_k(y, scores, k=k), np.mean([y[i] in best[i, :k] for i in range(60)]), 1e-12, f"top {k}")
    q = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    close(m.log_loss(y, q, w), -(w @ np.log(q[np.arange(60), y])) / w.sum(), 1e-12, "log loss")


def test_log_loss_of_shares():
    rng = np.random.default_rng(154)
    y, q, w = rng.dirichlet([1, 1, 1], 40), rng.dirichlet([2, 1, 1], 40), rng.random(40)
    close(m.log_loss(y, q), -np.sum(y * np.log(q), axis=1).mean(), 1e-12, "shares")
    close(m.log_loss(y, q, w), -(w @ np.sum(y * np.log(q), axis=1)) / w.sum(), 1e-12, "weighted shares")
    close(m.log_loss(np.eye(3)[[0, 2]], q[:2]), m.log_loss([0, 2], q[:2]), 0.0, "one-hot")
    refuses("a share that is NaN", m.log_loss, np.where(y < 0.1, np.nan, y), q, errors=ValueError, match="finite")
    refuses("shares beyond 1", m.log_loss, [[2.0, -1.0, 0.0]], q[:1], errors=ValueError, match=r"\[0, 1\]")
    labels = fo.Trainer(fo.mlp(2, [], 2), "bce")
    refuses("two labels", labels.fit, np.ones((4, 2)), np.eye(2)[[0, 1, 1, 0]], metrics=["log_loss"], match="2 independent labels")
    assert labels.steps == 0
    refuses("shares that do not sum to 1", m.log_loss, 0.5 * y, q, errors=ValueError, match="sum to 1")


@pytest.mark.parametrize(("loss", "outputs"), [("cross_entropy", 3), ("bce", 1)])
def test_log_loss_of_a_trainer_is_its_loss_for_shares_too(loss, outputs):
    rng = np.random.default_rng(155)
    x, y = rng.standard_normal((30, 2)), rng.dirichlet([1, 1, 1], 30)[:, :outputs]
    result = fo.Trainer(fo.mlp(2, [], outputs, dtype="float64", seed=1), loss).evaluate(x, y, metrics=["log_loss"])
    close(result["log_loss"], result["loss"], 1e-12, loss)


def test_which_way_a_column_is_better():
    known = {"loss": False, "val_loss": False, "penalty": False, "val_accuracy": True, "r2": True, "val_rmse": False, "mine": None}
    assert {column: m.larger_is_better(column) for column in known} == known
    history = fo.History([{"epoch": e, "val_accuracy": v, "val_loss": v, "mine": v} for e, v in enumerate([0.5, 0.9, float("nan"), 0.7])])
    assert history.best("val_accuracy")["epoch"] == 1
    assert history.best()["epoch"] == history.best("mine")["epoch"] == history.best("val_accuracy", largest=False)["epoch"] == 0


def test_area_under_the_curve():
    rng = np.random.default_rng(153)
    y, s, w = rng.integers(0, 2, 80), rng.integers(0, 15, 80) / 7, rng.random(80)  # with ties
    pairs = [(w[i] * w[j], (s[i] > s[j]) + 0.5 * (s[i] == s[j])) for i in np.flatnonzero(y == 1) for j in np.flatnonzero(y == 0)]
    close(m.auc(y, s), np.mean([value for _, value in pairs]), 1e-12, "auc")
    close(m.auc(y, s, w), sum(a * b for a, b in pairs) / sum(a for a, _ in pairs), 1e-12, "weighted auc")
    refuses("one class only", m.auc, np.ones(5), np.arange(5.0), errors=ValueError)


@pytest.mark.parametrize("name", m.names())
def test_metrics_have_names_and_needs(name):
    function = m.get(name)
    assert function.needs in ("labels", "values", "probabilities", "scores")
    assert isinstance(function.larger_is_better, bool)
    refuses("rows differ", function, np.zeros(3, int), np.zeros((4, 2)), errors=ValueError)


# A target and a prediction of two rows that each metric reads.
GOOD = {
    "top_k": ([0, 1], [[0.9, 0.1], [0.4, 0.6]]),
    "log_loss": ([0, 1], [[0.9, 0.1], [0.4, 0.6]]),
    "auc": ([0, 1], [0.1, 0.3]),
}


@pytest.mark.parametrize("name", m.names())
def test_metrics_check_their_weights(name):
    function, (y, p) = m.get(name), GOOD.get(name, ([0, 1], [0, 1]))
    plain = function(y, p)
    for column in ([0.5, 0.5], [[0.5], [0.5]]):
        close(function(y, p, column), plain, 1e-15, f"equal weights of shape {np.shape(column)}")
    for what, weight, match in (
        ("one weight", [1.0], r"\(2,\); got \(1,\)"),
        ("three weights", [1.0, 1.0, 1.0], r"\(2,\); got \(3,\)"),
        ("a number", 1.0, r"\(2,\); got \(\)"),
        ("a matrix", np.ones((2, 2)), r"\(2,\); got \(2, 2\)"),
        ("negative", [1.0, -1.0], "must not be negative; got -1.0 at row 1"),
        ("NaN", [np.nan, 1.0], "must be finite; got nan at row 0"),
        ("infinite", [1.0, np.inf], "must be finite; got inf at row 1"),
        ("all zero", [0.0, 0.0], "must not be all zero"),
    ):
        refuses(f"{name}: {what}", function, y, p, weight, errors=ValueError, match=f"sample_weight.*{match}")


@pytest.mark.parametrize("name", m.names())
def test_metrics_check_their_shapes(name):
    function, (y, p) = m.get(name), GOOD.get(name, ([0, 1], [0, 1]))
    close(function(np.reshape(y, (2, 1)), p), function(y, p), 0.0, "a target of one column")
    refuses("no rows", function, y[:0], np.asarray(p)[:0], errors=ValueError, match="at least one row")
    refuses("numbers", function, 1, 1, errors=ValueError, match=r"\(\)")
    refuses("one row against two", function, y[:1], p, errors=ValueError, match=r"\(1,\).*\(2")
    refuses("three columns", function, y, np.ones((2, 3, 1)), errors=ValueError, match=r"\(2,\).*\(2, 3, 1\)")


TWO = [[0.9, 0.1], [0.4, 0.6]]
METRIC_CASES = {
    "log_loss: negative class": (m.log_loss, ([-1, 0], TWO), r"target must be class indices 0\.\.1.*got -1 at row 0"),
    "log_loss: class too large": (m.log_loss, ([0, 3], TWO), r"target must be class indices 0\.\.1.*got 3 at row 1"),
    "log_loss: class 2 of a column": (m.log_loss, ([0, 2], [0.1, 0.9]), r"target must be class indices 0\.\.1.*got 2 at row 1"),
    "log_loss: fraction": (m.log_loss, ([0.5, 0], TWO), r"target must be class indices 0\.\.1; got 0\.5 at row 0"),
    "log_loss: logits": (m.log_loss, ([0, 1], [[0.0, 1.0], [3.0, -2.0]]), "probability must lie in .0, 1.; got 3.0 at row 1, column 0"),
    "log_loss: a logit": (m.log_loss, ([0, 1], [0.2, -0.5]), "probability must lie in .0, 1.; got -0.5 at row 1"),
    "log_loss: rows that do not sum to 1": (m.log_loss, ([0, 1], [[0.5, 0.5], [0.9, 0.9]]), "probability.*row 1 sums to 1.8"),
    "log_loss: NaN": (m.log_loss, ([0, 1], [[0.5, np.nan], [0.5, 0.5]]), "probability must be finite; got nan at row 0, column 1"),
    "top_k: negative class": (m.top_k, ([0, -1], TWO), r"target must be class indices 0\.\.1.*got -1 at row 1"),
    "top_k: class too large": (m.top_k, ([2, 0], TWO), r"target must be class indices 0\.\.1.*got 2 at row 0"),
    "top_k: NaN": (m.top_k, ([0, 1], [[np.nan, 0.5], [0.5, 0.5]]), "scores must not hold NaN; got nan at row 0, column 0"),
    "auc: NaN": (m.auc, ([0, 1, 1], [0.1, np.nan, 0.3]), "score must not hold NaN; got nan at row 1"),
    "auc: infinities of two columns": (m.auc, ([0, 1], [[0, 1], [np.inf, np.inf]]), "score must not hold NaN.*row 1"),
    "auc: a third class": (m.auc, ([0, 1, 2], [0.1, 0.2, 0.3]), "target must hold 0 and 1.*got 2 at row 2"),
    "auc: NaN in the target": (m.auc, ([0, 1, np.nan], [0.1, 0.2, 0.3]), "target must hold 0 and 1.*got nan at row 2"),
    "auc: two columns": (m.auc, (np.eye(2), np.ones((2, 2, 2))), r"\(2, 2\).*\(2, 2, 2\)"),
    "auc: three columns": (m.auc, (np.eye(3), np.ones((3, 3))), "two classes; got scores of 3"),
    "balanced_accuracy: two columns": (m.balanced_accuracy, (np.eye(2), np.eye(2)), r"target must have shape \(rows,\); got \(2, 2\)"),
    "accuracy: probabilities": (m.accuracy, ([0, 1], [0.2, 1]), "prediction must hold labels; got 0.2 at row 0"),
    "accuracy: NaN": (m.accuracy, ([0, np.nan], [0, 1]), "target must hold labels; got nan at row 1"),
    "balanced_accuracy: probabilities": (m.balanced_accuracy, ([0, 1], [0.2, 1]), "prediction must hold labels; got 0.2 at row 0"),
}


@pytest.mark.parametrize("case", METRIC_CASES)
def test_metrics_refuse_values_that_would_give_a_wrong_number(case):
    function, arguments, match = METRIC_CASES[case]
    refuses(case, function, *arguments, errors=ValueError, match=match)


def test_metrics_refuse_what_is_not_a_number():
    for name in ("mse", "rmse", "mae", "r2"):
        refuses(f"{name}: text", m.get(name), ["a"], ["b"], errors=TypeError, match="target must hold real numbers")
        refuses(f"{name}: complex", m.get(name), [1.0], [1j], errors=TypeError, match="prediction must hold real numbers")
    refuses("auc: text", m.auc, ["a", "b"], [1.0, 2.0], errors=TypeError, match="target must hold real numbers")
    refuses("accuracy: text against numbers", m.accuracy, [0, 1], ["0", "1"], errors=TypeError, match="got dtypes int64 and <U1")
    objects = np.array(["0", "1"], object)  # as pandas keeps text
    assert m.accuracy(objects, ["0", "0"]) == 0.5
    refuses("accuracy: the same as objects", m.accuracy, objects, [0, 1], errors=TypeError, match="got dtypes object and int64")
    several = np.array(["0", None], object)
    refuses("labels of several kinds", m.balanced_accuracy, several, objects, errors=TypeError, match="kinds: NoneType, text")
    masked = np.ma.masked_array([0, 1], [True, False])
    refuses("accuracy: masked", m.accuracy, masked, [0, 1], errors=TypeError, match="mask would be lost")
    for k in (0, -1):
        refuses(f"k = {k}", m.top_k, [0, 1], TWO, k=k, errors=ValueError, match="k must be at least 1")
    refuses("k a float", m.top_k, [0, 1], TWO, k=1.5, errors=TypeError, match="k must be an integer")


def test_metrics_read_all_kinds_of_labels():
    assert m.accuracy(["a", "b"], np.array(["a", "c"], dtype=object)) == 0.5
    assert m.accuracy([True, False], [1.0, 1]) == 0.5
    assert m.balanced_accuracy(["a", "b", "b"], ["a", "a", "b"]) == 0.75
    assert m.accuracy([[0, 1], [1, 1]], [[0, 1], [0, 1]]) == 0.75
    assert m.auc([-1.0, 1.0, 1.0], [0.1, np.inf, 0.3]) == 1.0
    assert m.auc([False, True], [0.1, 0.3]) == 1.0
    assert m.log_loss([0, 1], [[0.2], [0.7]]) == m.log_loss([0, 1], [0.2, 0.7]) == m.log_loss([0, 1], [[0.8, 0.2], [0.3, 0.7]])


def test_r2_of_a_constant_column():
    """Also of one whose mean does not round to its value, and of one that is constant where the weights are not 0."""
    for value in (0.1, 0.3, 2.0):
        y = np.full(3, value)
        assert m.r2(y, y) == 1.0
        assert m.r2(y, y + 1) == 0.0
        assert m.r2([*y, 9.0], [*y, 8.0], [1, 1, 1, 0]) == 1.0


def test_a_value_that_is_not_finite_shows_in_the_metric():
    """A run may overflow: metrics of values then say NaN or infinity, and never a number that looks like one."""
    for name in ("mse", "rmse", "mae", "r2"):
        assert np.isnan(m.get(name)([2.0, 2.0], [2.0, np.nan])), name
        assert np.isnan(m.get(name)([1.0, np.nan], [1.0, 2.0])), name


def brier(target, prediction, sample_weight=None):
    """Of the user, on probabilities of two classes."""
    return float(np.average((target - prediction[:, 1]) ** 2, weights=sample_weight))


brier.needs = "probabilities"


def test_metrics_of_the_user_get_weights_and_what_they_need():
    rng = np.random.default_rng(5)
    x, w = rng.standard_normal((60, 3)), rng.uniform(size=60)
    y = (x[:, 0] > 0).astype(np.int32)
    trainer = fo.Trainer(fo.mlp(3, [8], 2, seed=0), "cross_entropy")
    right = lambda target, prediction, sample_weight=None: float(np.average(target == prediction, weights=sample_weight))  # noqa: E731
    right.__name__ = "right"
    history = trainer.fit(x, y, epochs=2, validation=(x, y, w), metrics=[right, brier, "accuracy"])
    assert history["val_right"][-1] == pytest.approx(history["val_accuracy"][-1], abs=1e-12)
    p = trainer.predict_proba(x)[:, 1]
    assert history["val_brier"][-1] == pytest.approx(np.average((y - p) ** 2, weights=w), abs=1e-6)
    assert trainer.evaluate(x, y, metrics=[brier])["brier"] == pytest.approx(np.mean((y - p) ** 2), abs=1e-6)
    alike = lambda target, prediction: float(np.mean(target == prediction))  # noqa: E731
    with pytest.warns(UserWarning, match="metric '<lambda>' has no parameter sample_weight") as seen:
        trainer.evaluate(x, y, sample_weight=w, metrics=[alike])
    with pytest.warns(UserWarning, match="no parameter sample_weight") as more:
        trainer.fit(x, y, validation=(x, y, w), metrics=[alike])
    assert [each.filename for each in (*seen, *more)] == [__file__] * 2
    trainer.evaluate(x, y, metrics=[alike])


def test_a_partial_metric_is_the_metric():
    rng = np.random.default_rng(6)
    x = rng.standard_normal((50, 4))
    y = rng.integers(0, 3, 50)
    trainer = fo.Trainer(fo.mlp(4, [6], 3, seed=1), "cross_entropy")
    two = trainer.evaluate(x, y, metrics=[functools.partial(fo.metrics.top_k, k=2)])["top_k"]
    assert two == fo.metrics.top_k(y, trainer.network(x), k=2)
    unknown = lambda target, prediction: 0.0  # noqa: E731
    unknown.needs = "probs"
    refuses("needs", trainer.evaluate, x, y, metrics=[unknown], errors=ValueError, match="needs='probs'; it must be one of 'labels'")


def test_how_a_metric_takes_weights():
    """By a parameter of that name that is its own, and still open."""

    @functools.wraps(brier)
    def wrapped(target, prediction):
        return brier(target, prediction)

    def by_place(target, prediction, sample_weight=None, /):
        return 0.0

    class Called:
        def __call__(self, target, prediction, *, sample_weight):
            return 0.0

        def method(self, target, prediction, sample_weight=None):
            return 0.0

    taken = [m.takes_weights(each) for each in (brier, Called(), Called().method, m.accuracy, functools.partial(m.top_k, k=2))]
    assert taken == [True] * 5
    assert [m.takes_weights(each) for each in (wrapped, by_place, max, lambda t, p, **options: 0.0)] == [False] * 4
    assert m.takes_weights(functools.partial(brier, sample_weight=None)) is None


def test_decorated_metrics_take_weights():
    """Those of scikit-learn are wrapped by functions of (*args, **kwargs)."""
    sklearn_metrics = pytest.importorskip("sklearn.metrics")

    @functools.wraps(brier)
    def passes_on(*args, **options):
        return brier(*args, **options)

    assert m.takes_weights(passes_on)
    rng = np.random.default_rng(5)
    x, y, w = rng.standard_normal((40, 3)), np.arange(40) % 2, rng.random(40)
    trainer = fo.Trainer(fo.mlp(3, [4], 2, seed=0), "cross_entropy")
    found = trainer.evaluate(x, y, sample_weight=w, metrics=[sklearn_metrics.accuracy_score, "accuracy"])
    assert found["accuracy_score"] == pytest.approx(found["accuracy"], rel=1e-12)
    assert found["accuracy"] != trainer.evaluate(x, y, metrics=["accuracy"])["accuracy"]


def test_splits_and_batches_name_a_wrong_argument():
    x, y = np.zeros((10, 2)), np.arange(10)
    refuses("text", fo.data.split, "abc", "abc", errors=TypeError, match="X must be an array or a frame with rows; got str")
    refuses("no flag", fo.data.split, x, y, stratify="yes", errors=TypeError, match="stratify must be True or False")
    refuses("no flag", fo.data.batches, x, y, shuffle="no", errors=TypeError, match="shuffle must be True or False")
    refuses("a number", fo.data.batches, x, 4, errors=TypeError, match="y must be an array with rows; got 4")
