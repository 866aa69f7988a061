"""What a fit is told reaches its steps: weights, shares, rates, iterables, accumulation; and what comes back from files and failures."""

import fastopt as fo
import numpy as np
import pytest
from fastopt import _epochs, _evaluate, _fit, _snapshot, _validate
from helpers import refuses

RNG = np.random.default_rng(0)
X, W = RNG.standard_normal((60, 3)), RNG.uniform(0.1, 9.0, 60)
Y = X[:, 0]


def trainer_of(loss="mse", outputs=1, **options):
    return fo.Trainer(fo.mlp(3, [4], outputs, seed=1), loss, **options)


def assert_same_weights(a, b, rtol=0.0):
    for name, value in a.network.parameters.items():
        np.testing.assert_allclose(b.network.parameters[name], value, rtol=rtol, atol=1e-7 if rtol else 0, err_msg=name)


# Weights and shares


def test_class_and_sample_weights_multiply():
    labels = np.arange(60) % 2
    a, b = trainer_of("cross_entropy", 2), trainer_of("cross_entropy", 2)
    a.fit(X, labels, sample_weight=W, class_weight={1: 4.0})
    b.fit(X, labels, sample_weight=W * np.array([1.0, 4.0])[labels])
    assert_same_weights(a, b, rtol=1e-5)


def test_balanced_classes_are_counted_among_the_rows_that_are_trained_on():
    labels = (np.arange(103) % 10 == 0).astype(int)
    x = np.random.default_rng(0).standard_normal((103, 3))
    a, b = (trainer_of("cross_entropy", 2, optimizer="sgd") for _ in range(2))
    kept, _ = fo.data.hold_out(103, 31, labels, a.seed)
    weights = len(kept) / (2 * np.bincount(labels[kept]))
    a.fit(x, labels, validation=0.3, class_weight="balanced", batch_size=None)
    b.fit(x[kept], labels[kept], sample_weight=weights[labels[kept]], batch_size=None)
    assert_same_weights(a, b, rtol=1e-5)


def test_a_share_is_evaluated_with_its_weights():
    trainer = trainer_of()
    row = trainer.fit(X, Y, validation=0.3, sample_weight=W, metrics=["mae"]).rows[0]
    _, held = fo.data.hold_out(60, 18, None, trainer.seed)
    expected = trainer.evaluate(X[held], Y[held], metrics=["mae"], sample_weight=W[held])
    assert (row["val_loss"], row["val_mae"]) == (expected["loss"], expected["mae"])


@pytest.mark.parametrize("seed", range(3))
def test_a_share_has_as_many_of_each_class(seed):
    labels, seen = (np.arange(60) % 10 == 0).astype(float)[:, None], []

    def part(target, prediction):
        seen.append(target.mean())
        return 0.0

    trainer_of("bce", seed=seed).fit(X, labels, validation=0.5, metrics=[part])
    assert seen == [pytest.approx(0.1)]


@pytest.mark.parametrize("blocks", [False, True])
def test_standardize_sees_the_rows_that_are_trained_on(blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(_evaluate, "MATERIALIZE_BYTES", 0)
        monkeypatch.setattr(_validate, "BLOCK_ROWS", 7)
    x = np.random.default_rng(0).standard_normal((100, 3)) ** 3 + np.arange(100)[:, None]
    trainer = fo.Trainer(fo.mlp(3, [4], 1, standardize=True, seed=0, dtype="float64"), "mse")
    trainer.fit(x, x[:, 0], validation=0.3)
    kept, _ = fo.data.hold_out(100, 30, None, trainer.seed)
    np.testing.assert_allclose(trainer.network.buffers["0.mean"], x[kept].mean(axis=0), rtol=1e-9)
    np.testing.assert_allclose(trainer.network.buffers["0.variance"], x[kept].var(axis=0), rtol=1e-9)


def test_the_penalty_of_a_layer_is_reported():
    trainer = fo.Trainer(fo.Network(3, [fo.layers.Dense(1, l2=0.1)], seed=0), "mse")
    penalty = trainer.fit(X, Y).rows[-1]["penalty"]
    assert penalty == pytest.approx(0.1 * np.square(trainer.network.parameters["0.weight"]).sum())


# Rates


def test_a_scale_counts_from_the_next_step():
    """Also where the rates of a schedule were computed ahead."""
    trainer, rates = trainer_of(optimizer=fo.optimizers.SGD(learning_rate=fo.schedules.linear(1.0, steps=10))), []
    assert trainer.learning_rate == 1.0
    trainer.rate_scale = 0.5
    assert trainer.learning_rate == 0.5
    trainer.fit(X[:4], Y[:4], batch_size=2, callbacks=[lambda trainer, row: rates.append(row["learning_rate"])])
    assert rates == [0.45]


def test_a_scale_of_a_number():
    trainer = trainer_of(optimizer=fo.optimizers.SGD(learning_rate=0.1))
    trainer.fit(X, Y)
    before = trainer.state_dict()
    trainer.rate_scale = 0.0
    trainer.fit(X, Y)
    np.testing.assert_array_equal(trainer.network.parameters["0.weight"], before["parameters/0.weight"])


def test_a_rate_belongs_to_an_update_not_to_a_micro_batch():
    """A fit may begin in the middle of one."""
    rate = fo.schedules.linear(0.1, steps=50)
    a, b = (trainer_of(optimizer=fo.optimizers.SGD(learning_rate=rate), accumulate=3) for _ in range(2))
    for trainer in (a, b):
        trainer.step(X[:10], Y[:10])
        trainer.rate_scale = 0.5
    a.fit(X, Y, batch_size=10, shuffle=False)
    assert a.history.rows[-1]["learning_rate"] == pytest.approx(0.5 * rate(2))
    assert (b.learning_rate, b.steps) == (0.05, 0)


# Iterables, and what is accumulated


@pytest.mark.parametrize("accumulate", [1, 2, 4])
def test_batches_of_an_iterable_are_those_of_arrays(accumulate):
    a, b = trainer_of(accumulate=accumulate), trainer_of(accumulate=accumulate)
    a.fit(X, Y, sample_weight=W, batch_size=12, shuffle=False, epochs=2)
    b.fit([(X[i : i + 12], Y[i : i + 12], W[i : i + 12]) for i in range(0, 60, 12)], epochs=2)
    assert a.history.rows == b.history.rows
    assert a.steps == b.steps == 2 * -(-5 // accumulate)
    assert_same_weights(a, b)


# Files, states and failures


def test_a_file_has_both_seeds_and_the_seconds(tmp_path):
    trainer = fo.Trainer(fo.mlp(3, [4], 1, dropout=0.5, seed=5), "mse", seed=9)
    trainer.fit(X, Y, epochs=2)
    trainer.save(tmp_path / "trainer")
    again = fo.Trainer.load(tmp_path / "trainer")
    assert (again.seed, again.network.seed, again.history.seconds) == (9, 5, trainer.history.seconds)
    for each in (trainer, again):
        each.fit(X, Y, epochs=2, validation=0.2)
    assert again.history.rows == trainer.history.rows


def test_a_state_has_the_scale_and_both_counters():
    a, b = (fo.Trainer(fo.mlp(3, [8], 1, dropout=0.5, seed=1), "mse", "sgd", accumulate=2) for _ in range(2))
    a.fit(X, Y, batch_size=10)
    a.rate_scale = 0.5
    b.load_state_dict(a.state_dict())
    assert (b.rate_scale, b.steps, b.network.training_step) == (0.5, 3, 6)


def test_a_schedule_with_a_part_that_no_file_holds(tmp_path):
    trainer = trainer_of(optimizer=fo.optimizers.SGD(learning_rate=fo.schedules.warmup(lambda t: 0.1, steps=3)))
    trainer.save(tmp_path / "trainer")
    refuses("a function in a file", fo.Trainer.load, tmp_path / "trainer", errors=ValueError, match="plain function")


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}, {"accumulate": 4}], ids=str)
def test_a_failed_epoch_takes_back_everything(options):
    """Counters, slots, averages, statistics and what waits for an update."""
    trainer = fo.Trainer(fo.mlp(3, [4], 1, batch_norm=True, dropout=0.2, seed=0), "mse", "adam", **options)
    trainer.step(X[:20], Y[:20])
    before = trainer.state_dict()
    batches = [(X[i : i + 20], Y[:20] if i < 40 else np.full(20, 1e37)) for i in range(0, 60, 20)]
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(batches)
    after = trainer.state_dict()
    assert before.keys() == after.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


# (loss of the epoch before, mean of this one, loss of its last batch, a weight), and whether the last batch is looked at again
LOOKS = {
    "nothing": (1.0, 1.0, 1.0, 0.1, False),
    "a last loss that has jumped": (1.0, 1.0, 1.01 * _epochs.JUMPED, 0.1, True),
    "one that has not": (1.0, 1.0, 0.99 * _epochs.JUMPED, 0.1, False),
    "a mean that has risen": (1.0, 1.01 * _epochs.RISEN, 1.0, 0.1, True),
    "one that has not risen so much": (1.0, 0.99 * _epochs.RISEN, 1.0, 0.1, False),
    "a weight that has grown": (1.0, 1.0, 1.0, 1e6, True),
}


def plan_of(trainer):
    return _fit.plan(
        trainer, X, Y, epochs=1, batch_size=25, validation=None, sample_weight=None, class_weight=None, shuffle=False, metrics=(),
        callbacks=(), progress=False,
    )  # fmt: skip


@pytest.mark.parametrize("name", LOOKS)
def test_when_the_last_batch_is_looked_at_again(name, monkeypatch):
    before, mean, last, weight, looks = LOOKS[name]
    trainer, seen = trainer_of(), []
    trainer.fit(X, Y)
    trainer.history.rows[-1]["loss"] = before
    trainer.network.parameters["0.weight"][0, 0] = weight
    epochs = plan_of(trainer)
    epochs._last_loss = last

    def look(self):
        seen.append(mean)
        return mean

    monkeypatch.setattr(type(epochs), "_loss_now", look)
    snapshot = _snapshot.Snapshot(trainer)
    assert epochs._wrong(snapshot, mean) == ""
    assert len(seen) == looks
    epochs._last_loss = 1.0  # weights that have grown and been looked at are what others are compared with
    assert epochs._wrong(snapshot, 1.0) == ""
    assert len(seen) == looks


def test_the_batch_that_is_looked_at_is_the_last_one():
    trainer = trainer_of()
    epochs = plan_of(trainer)
    epochs.run()
    np.testing.assert_array_equal(epochs._last()[0], X[50:])
    assert epochs._last_loss > 0.0


# From outputs to numbers


def test_quantiles_are_measured_at_the_median():
    trainer = trainer_of(fo.losses.Quantile(quantiles=(0.1, 0.5, 0.9)), 3)
    row = trainer.fit(X, Y, metrics=["mae"]).rows[0]
    assert row["mae"] == pytest.approx(np.abs(trainer.predict(X)[:, 1] - Y).mean())


@pytest.mark.parametrize(("loss", "high", "low"), [("hinge", 1.0, -1.0), ("bce", 0.9, 0.4)])
def test_labels_of_targets_that_are_none(loss, high, low):
    trainer = trainer_of(loss)
    accuracy = trainer.evaluate(X, np.where(Y > 0, high, low), metrics=["accuracy"])["accuracy"]
    assert accuracy == np.mean(trainer.predict(X) == (Y > 0))


def test_an_output_of_zero_is_not_class_1():
    trainer = fo.Trainer(fo.Network(2, [fo.layers.Dense(1)], seed=0), "bce")
    trainer.network.parameters["0.weight"][...] = 0
    assert trainer.predict(np.ones((2, 2))).tolist() == [0, 0]


def test_an_output_that_is_nan_is_no_prediction():
    trainer = trainer_of("cross_entropy", 2)
    assert np.isnan(trainer.evaluate([[0.0, 1, 2], [1, 2, np.nan]], [0, 1], metrics=["accuracy"])["accuracy"])


def test_metrics_are_summed_in_float64_over_rows_that_count():
    assert fo.metrics.mse(np.float32([1e30]), np.float32([-1e30])) == pytest.approx(4e60)
    assert fo.metrics.balanced_accuracy([0, 0, 1, 2], [0, 0, 1, 1], [1, 1, 1, 0]) == 1.0
    assert fo.metrics.r2([0.1, 0.1, 5.0], [0.1, 0.2, 5.0], [1, 1, 0]) == 0.0


def test_weights_of_classes_are_checked_as_weights_of_rows():
    """Of the rows that are trained on, in the dtype of the network."""
    x, y = np.arange(10.0)[:, None], np.array([0] * 9 + [1])

    def fit(what, match, dtype="float32", rows=None, validation=None, **weights):
        trainer = fo.Trainer(fo.mlp(1, [3], 2, dtype=dtype, seed=0), "cross_entropy", seed=0)
        refuses(
            what, trainer.fit, x, y, validation=validation, class_weight=weights["of"], sample_weight=rows, errors=ValueError, match=match
        )
        assert trainer.steps == 0

    fit("none trained on counts", "weights of all rows to train on are 0", validation=0.9, of={0: 0.0})
    fit("counts as 0", "class_weight must not be all zero in float32", of={0: 1e-40, 1: 0.0})
    fit("too large", "class_weight must be finite", of={0: 1e300})
    fit("too large together", "sample_weight times class_weight must be finite", of={0: 1e30}, rows=np.full(10, 1e30))
    fit("infinite sum", "class_weight must have a finite sum", dtype="float64", of={0: 1e308})


@pytest.mark.parametrize("share", [0, 0.0, np.float32(0), np.float64(0), np.int64(0)])
def test_a_share_of_nothing_holds_out_nothing(share):
    history = fo.Trainer(fo.mlp(2, [3], 1, seed=0), "mse").fit(np.zeros((6, 2)), np.zeros(6), validation=share)
    assert "val_loss" not in history
