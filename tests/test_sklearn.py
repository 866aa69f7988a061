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
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

# Repeated rows make other batches, and the check asks for more digits than float32 has; in float64 with the full batch it passes.
BATCHES = {"check_sample_weight_equivalence_on_dense_data": "weights are repeated rows where all are one batch"}
WHOLE = {"batch_size": None, "dtype": "float64", "max_iter": 200}


@parametrize_with_checks(
    [kind(random_state=0, **options) for kind in (MLPClassifier, MLPRegressor) for options in ({"max_iter": 40}, WHOLE)],
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
    model = MLPClassifier((16, 8), max_iter=30, random_state=3).fit(x, labels)
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
    pipeline = make_pipeline(StandardScaler(), MLPClassifier((12,), max_iter=100, random_state=0))
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
    model = MLPClassifier((8,), random_state=0, tol=0.0, n_iter_no_change=1000)
    refuses("classes", model.partial_fit, x, labels, errors=ValueError, match="needs classes")
    for _ in range(6):
        model.partial_fit(x, labels, classes=["red", "rose", "white"])
    whole = clone(model).set_params(max_iter=6).fit(x, labels)
    np.testing.assert_array_equal(model.predict_proba(x), whole.predict_proba(x))
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
    model = MLPRegressor((16,), max_iter=100, random_state=0, dtype="float64").fit(x, y)
    assert model.score(x, y) > 0.5
    scaled = clone(model).fit(x, 1e6 * y - 5e7)
    np.testing.assert_allclose(scaled.predict(x), 1e6 * model.predict(x) - 5e7, rtol=1e-6)
    several = clone(model).fit(x, np.stack([y, -3.0 * y], axis=1))
    assert several.predict(x).shape == (442, 2)
    assert several.score(x, np.stack([y, -3.0 * y], axis=1)) > 0.5
    assert model.predict(x).shape == (442,)


def test_losses_of_regression():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (600, 3))
    y = 100 + 50 * x[:, 0] + rng.normal(0, 10, 600)
    bands = MLPRegressor((16,), loss=fo.losses.Quantile(quantiles=(0.1, 0.9)), max_iter=300, random_state=0).fit(x, y).predict(x)
    assert 0.7 < ((y > bands[:, 0]) & (y < bands[:, 1])).mean() < 0.9
    counts = rng.poisson(np.exp(1 + x[:, 0]))
    rates = MLPRegressor((16,), loss="poisson", max_iter=200, random_state=0).fit(x, counts).predict(x)
    np.testing.assert_allclose(rates, np.exp(1 + x[:, 0]), rtol=0.7)
    refuses("loss", MLPRegressor(loss="bce").fit, x, y, errors=ValueError, match="is one of classes")


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
