"""Splitting and metrics, against their plain definitions."""

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
