"""The estimators, by scikit-learn's own conformance checks and against the trainer they are made of."""

import pickle

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from helpers import refuses

pytest.importorskip("sklearn", minversion="1.6")
from fastopt.sklearn import MLPClassifier, MLPRegressor
from sklearn import datasets
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

# Repeated rows make other batches, and the check asks for more digits than float32 has; in float64 with the full batch it passes.
BATCHES = {"check_sample_weight_equivalence_on_dense_data": "weights are repeated rows where all are one batch"}
WHOLE = {"batch_size": None, "dtype": "float64", "max_iter": 200}


@parametrize_with_checks(
    [kind(random_state=0, **options) for kind in (MLPClassifier, MLPRegressor) for options in ({}, WHOLE)],
    expected_failed_checks=lambda estimator: {} if estimator.batch_size is None else BATCHES,
)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning", "ignore:Standardize")
def test_conformance(estimator, check):
    check(estimator)


@pytest.fixture(scope="module")
def wine():
    x, y = datasets.load_wine(return_X_y=True)
    return x, np.array(["white", "red", "rose"])[y]


def test_a_classifier_is_its_trainer(wine):
    """Labels of text, and the same bits as the calls that it stands for."""
    x, labels = wine
    model = MLPClassifier((16, 8), max_iter=30, batch_size=32, random_state=3).fit(x, labels)
    seed = model.network_.seed
    trainer = fo.Trainer(fo.mlp(13, [16, 8], 3, standardize=True, seed=seed), "cross_entropy", "adam", l2=1e-4 / 64, seed=seed)
    classes, codes = np.unique(labels, return_inverse=True)
    trainer.fit(x, codes, epochs=30, batch_size=32)
    np.testing.assert_array_equal(model.classes_, classes)
    np.testing.assert_array_equal(model.predict_proba(x), trainer.predict_proba(x))
    np.testing.assert_array_equal(model.predict(x), classes[trainer.predict(x)])
    assert model.loss_curve_ == trainer.history["loss"]
    assert (model.n_iter_, model.loss_) == (30, trainer.history["loss"][-1])
    assert model.score(x, labels) > 0.97


def test_in_searches_pipelines_and_copies(wine):
    x, labels = wine
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((12,), batch_size=32, random_state=0))
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    assert cross_val_score(pipeline, x, labels, cv=folds).mean() > 0.93
    grid = {"mlpclassifier__alpha": [1e-4, 1.0], "mlpclassifier__solver": ["lbfgs", fo.optimizers.AdamW(learning_rate=1e-2)]}
    search = GridSearchCV(pipeline, grid, cv=folds, n_jobs=2).fit(x, labels)
    alone = GridSearchCV(pipeline, grid, cv=folds).fit(x, labels)
    np.testing.assert_array_equal(search.cv_results_["mean_test_score"], alone.cv_results_["mean_test_score"])
    assert search.best_score_ > 0.95
    model = search.best_estimator_
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(model)).predict_proba(x), model.predict_proba(x))
    assert CalibratedClassifierCV(clone(model), cv=3).fit(x, labels).score(x, labels) > 0.95
    assert not hasattr(clone(model)[-1], "trainer_")


def test_names_of_features(wine):
    pandas = pytest.importorskip("pandas")
    x, labels = wine
    frame = pandas.DataFrame(x, columns=[f"c{i}" for i in range(13)])
    model = MLPClassifier((8,), max_iter=5, random_state=0).fit(frame, labels)
    assert model.feature_names_in_.tolist() == list(frame.columns)
    refuses("order", model.predict, frame[frame.columns[::-1]], errors=ValueError, match="feature names")


@pytest.mark.parametrize("loss", ["hinge", "bce", "focal", "multiclass_hinge"])
def test_losses_of_two_classes(loss):
    x, y = datasets.load_breast_cancer(return_X_y=True)
    names = np.array(["malignant", "benign"])[y]
    model = MLPClassifier((8,), loss=loss, max_iter=60, random_state=0).fit(x, names)
    assert model.score(x, names) > 0.95
    np.testing.assert_array_equal(model.predict(x), model.classes_[(model.decision_function(x) > 0).astype(int)])
    assert hasattr(model, "predict_proba") == (loss in ("bce", "focal"))
    if hasattr(model, "predict_proba"):
        p = model.predict_proba(x)
        np.testing.assert_allclose(p.sum(axis=1), 1.0, rtol=1e-6)
        with np.errstate(divide="ignore"):
            np.testing.assert_array_equal(model.predict_log_proba(x), np.log(p))
        np.testing.assert_array_equal(model.predict(x), model.classes_[p.argmax(axis=1)])


def test_several_labels_at_once():
    x, y = datasets.make_multilabel_classification(300, 10, n_classes=4, random_state=0)
    model = MLPClassifier((64,), learning_rate_init=1e-2, max_iter=150, random_state=0).fit(x, y)
    assert (model.predict(x) == y).mean() > 0.9
    assert model.predict_proba(x).shape == (300, 4)
    np.testing.assert_array_equal(model.predict(x), (model.predict_proba(x) > 0.5).astype(int))
    refuses("fewer", model.set_params(warm_start=True).fit, x, y[:, :3], errors=ValueError, match="several labels")
    refuses("loss", MLPClassifier(loss="cross_entropy").fit, x, y, errors=ValueError, match="not one of several labels")


def test_weights_by_label():
    x, y = datasets.make_classification(400, weights=[0.9], flip_y=0.2, random_state=0)
    names = np.array(["often", "rarely"])[y]
    found = {
        key: (MLPClassifier((), max_iter=200, class_weight=weight, random_state=0).fit(x, names).predict(x) == "rarely").mean()
        for key, weight in {"none": None, "balanced": "balanced", "table": {"rarely": 9.0}}.items()
    }
    assert found["none"] < 0.7 * found["balanced"]
    assert found["none"] < 0.7 * found["table"]
    refuses(
        "unknown", MLPClassifier(class_weight={"never": 1.0}).fit, x, names, errors=ValueError, match="class_weight has the key 'never'"
    )


def test_going_on(wine):
    """partial_fit epoch by epoch, and a warm start."""
    x, labels = wine
    model = MLPClassifier((8,), random_state=0, tol=0.0, n_iter_no_change=1000, batch_size=32)
    refuses("classes", model.partial_fit, x, labels, errors=ValueError, match="needs classes")
    for _ in range(6):
        model.partial_fit(x, labels, classes=["red", "rose", "white"])
    whole = clone(model).set_params(max_iter=6).fit(x, labels)
    np.testing.assert_allclose(model.predict_proba(x), whole.predict_proba(x), rtol=1e-3)  # statistics of features from elsewhere
    refuses("other classes", model.partial_fit, x, labels, classes=["red", "rose"], errors=ValueError, match="those of the first call")
    warm = clone(model).set_params(max_iter=3, warm_start=True).fit(x, labels).fit(x, labels)
    np.testing.assert_array_equal(warm.predict_proba(x), whole.predict_proba(x))
    assert warm.n_iter_ == len(warm.loss_curve_) == 6
    refuses("new class", warm.fit, x, np.where(labels == "red", "blue", labels), errors=ValueError, match="y holds 'blue'")


def test_early_stopping(wine):
    x, labels = wine
    model = MLPClassifier((64,), max_iter=2000, early_stopping=True, validation_fraction=0.3, random_state=0).fit(x, labels)
    assert 10 < model.n_iter_ < 2000
    assert len(model.validation_loss_curve_) == len(model.loss_curve_) == model.n_iter_
    assert len(model.validation_loss_curve_) - np.argmin(model.validation_loss_curve_) <= 11


def test_a_regressor_of_a_large_target():
    """The scale of the target does not matter, one or several columns."""
    x, y = datasets.load_diabetes(return_X_y=True)
    model = MLPRegressor((16,), max_iter=100, batch_size=32, random_state=0, dtype="float64").fit(x, y)
    assert model.score(x, y) > 0.5
    scaled = clone(model).fit(x, 1e6 * y - 5e7)
    np.testing.assert_allclose(scaled.predict(x), 1e6 * model.predict(x) - 5e7, rtol=1e-6)
    several = clone(model).fit(x, np.stack([y, -3.0 * y], axis=1))
    assert several.predict(x).shape == (442, 2)
    assert several.score(x, np.stack([y, -3.0 * y], axis=1)) > 0.5
    assert model.predict(x).shape == (442,)


def test_the_penalty_is_that_of_scikit_learn():
    """A linear network under alpha is ridge regression."""
    x, y = datasets.load_diabetes(return_X_y=True)
    x = StandardScaler().fit_transform(x)
    options = {"standardize": False, "scale_target": False, "dtype": "float64", "solver": "newton_cg", "random_state": 0}
    model = MLPRegressor((), alpha=30.0, **options).fit(x, y)
    np.testing.assert_allclose(model.predict(x), Ridge(alpha=30.0).fit(x, y).predict(x), rtol=1e-8)
    several = np.stack([y, y[::-1], x[:, 0]], axis=1)
    np.testing.assert_allclose(model.fit(x, several).predict(x), Ridge(alpha=30.0).fit(x, several).predict(x), rtol=1e-7, atol=1e-8)


LOGISTIC = {"solver": "lbfgs", "max_iter": 500, "tol": 0.0, "standardize": False, "dtype": "float64", "random_state": 0}


def test_the_penalty_of_several_labels_is_that_of_one_model_each():
    x, rng = small(200)
    labels = (x @ rng.standard_normal((3, 4)) + rng.standard_normal((200, 4)) > 0).astype(int)
    found = MLPClassifier((), alpha=3.0, **LOGISTIC).fit(x, labels).predict_proba(x)
    for j in range(4):
        alone = LogisticRegression(C=1 / 3.0, tol=1e-10, max_iter=1000).fit(x, labels[:, j])
        np.testing.assert_allclose(found[:, j], alone.predict_proba(x)[:, 1], atol=1e-5)


@pytest.mark.parametrize("class_weight", [{0: 10.0, 1: 1.0}, {1: 3.0}, "balanced"])
def test_weights_of_classes_are_factors_on_those_of_rows(class_weight):
    x, rng = small(200)
    y = (x[:, 0] + rng.standard_normal(200) > 0.8).astype(int)
    weights = np.where(rng.random(200) < 0.3, 0.0, rng.uniform(0.5, 2.0, 200))
    model = MLPClassifier((), loss="bce", alpha=30.0, class_weight=class_weight, **LOGISTIC)
    for given in (None, weights):
        oracle = LogisticRegression(C=1 / 30.0, tol=1e-10, max_iter=1000)
        rows = np.ones(200) if given is None else given
        if class_weight == "balanced":
            sums = np.bincount(y, weights=rows)
            factors = rows.sum() / (2 * sums)
        else:
            factors = np.array([class_weight.get(0, 1.0), class_weight[1]])
        oracle.fit(x, y, sample_weight=rows * factors[y])
        np.testing.assert_allclose(model.fit(x, y, sample_weight=given).predict_proba(x), oracle.predict_proba(x), atol=1e-5)
        if class_weight == "balanced" and given is not None:
            kept = given > 0
            np.testing.assert_allclose(
                clone(model).fit(x[kept], y[kept], sample_weight=given[kept]).predict_proba(x), model.predict_proba(x), atol=1e-7
            )


def test_rows_of_weight_0_are_not_there_whatever_they_hold():
    x, _ = small()
    y, weights = x[:, 0] + 5, np.ones(80)
    weights[:5] = 0.0
    far, strange = x.copy(), y.copy()
    far[:5], strange[:5] = 1e15, 1e20
    options = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 3, "random_state": 0, "dtype": "float64"}
    a = MLPRegressor(**options).fit(far, strange, sample_weight=weights)
    b = MLPRegressor(**options).fit(x[5:], y[5:])
    np.testing.assert_allclose(a.predict(x[5:]), b.predict(x[5:]), rtol=1e-9)


def test_wrong_options_are_called_as_the_estimator_calls_them():
    x, _ = small()
    y = x[:, 0] > 0
    for options, match in [
        ({"alpha": -1.0}, "alpha must be at least 0"), ({"alpha": "a"}, "alpha must be a number"),
        ({"max_iter": 0}, "max_iter must be at least 1"), ({"max_iter": None}, "max_iter must be an integer"),
        ({"tol": -1.0}, "tol must be at least 0"), ({"n_iter_no_change": 0}, "n_iter_no_change must be at least 1"),
        ({"early_stopping": True, "validation_fraction": None}, "validation_fraction must be a number"),
        ({"class_weight": 3}, "class_weight must be"), ({"class_weight": "even"}, "class_weight must be"),
        ({"class_weight": {0: -1.0, 1: 1.0}}, "class_weight.0. must be at least 0"), ({"class_weight": {2: 1.0}}, "has the key 2"),
    ]:  # fmt: skip
        refuses(str(options), MLPClassifier((4,), **options).fit, x, y, errors=(TypeError, ValueError), match=match)
    model = MLPClassifier((4,), max_iter=2)
    refuses("negative", model.fit, x, y, -np.ones(80), errors=ValueError, match="sample_weight must not be negative")
    refuses("NaN", model.fit, x, y, np.full(80, np.nan), errors=ValueError, match="sample_weight must be finite")
    refuses("zeros", model.fit, x, y, np.zeros(80), errors=ValueError, match="at least one non-zero")
    refuses("large", model.fit, x * 1e20, y, np.ones(80), errors=ValueError, match="column 0 are too large")
    refuses("large y", MLPRegressor().fit, x, x[:, 0] * 1e160, errors=ValueError, match="scale_target")
    several = np.stack([y, ~y], axis=1).astype(int)
    refuses("labels", model.partial_fit, x, several, [0, 1, 2], errors=ValueError, match="are their columns")
    balanced = MLPClassifier((4,), class_weight="balanced")
    refuses("a part", balanced.partial_fit, x, y, [False, True], errors=ValueError, match="needs all rows")
    refuses("several", balanced.fit, x, several, errors=ValueError, match="needs one label a row")


def test_a_model_that_goes_on_keeps_its_loss_and_counts_what_has_ended():
    x, _ = small()
    y = x[:, 0] > 0
    model = MLPClassifier((4,), loss="hinge", max_iter=3, warm_start=True, random_state=0).fit(x, y)
    model.set_params(loss="bce")
    assert not hasattr(model, "predict_proba")
    model.fit(x, y)
    assert isinstance(model.trainer_.loss, fo.losses.Hinge)
    assert not hasattr(model, "predict_proba")
    fresh = MLPRegressor((4,), solver="sgd", learning_rate_init=1e-3, max_iter=5, warm_start=True, scale_target=False, standardize=False)
    fresh.fit(x, x[:, 0])
    with pytest.raises(fo.NonFiniteLossError):
        fresh.fit(x * 1e4, x[:, 0] * 1e8)
    assert fresh.n_iter_ == len(fresh.loss_curve_) == fresh.trainer_.epoch >= 5


def test_a_fit_that_fails_leaves_the_model_before(wine):
    x, labels = wine
    model = MLPClassifier((8,), max_iter=20, random_state=0).fit(x, labels)
    before = model.predict(x)
    refuses("option", model.set_params(dropout=7.0).fit, x, np.char.upper(labels), errors=ValueError, match="rate")
    refuses("one class", model.fit, x, np.full(len(x), "one"), errors=ValueError, match="one class")
    np.testing.assert_array_equal(model.predict(x), before)
    fresh = MLPRegressor((8,), solver=fo.optimizers.SGD(learning_rate=1e30), random_state=0)
    with pytest.raises(fo.NonFiniteLossError):
        fresh.fit(x, x[:, 0])
    with pytest.raises(NotFittedError):
        fresh.predict(x)


def test_one_row_after_the_other():
    """The first row alone says nothing of the scale of the features."""
    x, y = datasets.load_iris(return_X_y=True)
    model = MLPClassifier((16,), random_state=0, learning_rate_init=1e-2)
    for i in np.tile(np.random.default_rng(0).permutation(150), 4):
        model.partial_fit(x[i : i + 1], y[i : i + 1], classes=[0, 1, 2])
    assert model.score(x, y) > 0.85
    refuses("early", model.set_params(early_stopping=True).partial_fit, x, y, errors=ValueError, match="no use for early_stopping")


def test_weights_of_one_are_no_weights(wine):
    x, labels = wine
    for early in (False, True):
        model = MLPClassifier((8,), max_iter=20, early_stopping=early, random_state=0, dtype="float64").fit(x, labels)
        same = clone(model).fit(x, labels, sample_weight=np.ones(len(x)))
        np.testing.assert_allclose(same.predict_proba(x), model.predict_proba(x), rtol=1e-9)


def test_losses_of_regression():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 3))
    y = 100 + 50 * x[:, 0] + rng.normal(0, 10, 600)
    bands = MLPRegressor((16,), loss=fo.losses.Quantile(quantiles=(0.1, 0.9)), max_iter=300, random_state=0).fit(x, y).predict(x)
    assert 0.7 < ((y > bands[:, 0]) & (y < bands[:, 1])).mean() < 0.9
    counts = rng.poisson(np.exp(1 + x[:, 0]))
    rates = MLPRegressor((16,), loss="poisson", max_iter=200, batch_size=32, random_state=0).fit(x, counts).predict(x)
    np.testing.assert_allclose(rates, np.exp(1 + x[:, 0]), rtol=0.7)
    refuses("loss", MLPRegressor(loss="bce").fit, x, y, errors=ValueError, match="is one of classes")


def small(rows=80):
    rng = np.random.default_rng(0)
    return rng.standard_normal((rows, 3)), rng


def test_decisions_are_made_with_the_weights_of_probabilities():
    """A schedule-free rule has others to train at."""
    x, _ = small()
    model = MLPClassifier((4,), solver="schedule_free_adamw", loss="bce", max_iter=3, random_state=0).fit(x, x[:, 0] > 0)
    np.testing.assert_allclose(1 / (1 + np.exp(-model.decision_function(x))), model.predict_proba(x)[:, 1], rtol=1e-5)


def test_a_regression_with_weights_is_that_of_repeated_rows():
    """Its statistics of rows and target too."""
    x, rng = small(40)
    y, weights = x[:, 0] ** 3 + 5, rng.integers(1, 4, 40)
    options = {"hidden_layer_sizes": (4,), "solver": "lbfgs", "max_iter": 1, "alpha": 10.0, "random_state": 0, "dtype": "float64"}
    a = MLPRegressor(**options).fit(x, y, sample_weight=weights)
    b = MLPRegressor(**options).fit(np.repeat(x, weights, axis=0), np.repeat(y, weights))
    np.testing.assert_allclose(a.network_.buffers["0.mean"], b.network_.buffers["0.mean"], rtol=1e-9)
    np.testing.assert_allclose(a.predict(x), b.predict(x), rtol=1e-9)


def test_options_reach_the_fit():
    x, rng = small()
    options = {"hidden_layer_sizes": (4,), "batch_size": 10, "max_iter": 2, "random_state": 0}
    assert MLPRegressor(**options, shuffle=False).fit(x, x[:, 0]).loss_curve_ != MLPRegressor(**options).fit(x, x[:, 0]).loss_curve_
    noise = rng.standard_normal(80)
    model = MLPRegressor(
        (8,), early_stopping=True, validation_fraction=0.5, learning_rate_init=0.3, n_iter_no_change=3, random_state=0
    )  # fmt: skip
    trainer = model.fit(x, noise).trainer_
    _, held = fo.data.hold_out(80, 40, None, trainer.seed)
    scaled = (noise[held] - noise.mean()) / noise.std()
    assert trainer.evaluate(x[held], scaled)["loss"] == pytest.approx(min(model.validation_loss_curve_), rel=1e-5)


def test_a_constant_target():
    x, _ = small()
    assert MLPRegressor(max_iter=100, random_state=0).fit(x, np.full(80, 7.0)).predict(x) == pytest.approx(7.0, abs=1.0)


def test_without_scikit_learn():
    out = run_python("""
        import sys
        sys.modules["sklearn"] = None
        try:
            import fastopt.sklearn
        except ImportError as error:
            print(error)
    """)
    assert "pip install 'fastopt[sklearn]'" in out
