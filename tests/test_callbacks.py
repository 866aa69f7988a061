"""Callbacks by the rows they are given, without training where that is possible: when they act, what they keep, how the next fit begins."""

import fastopt as fo
import numpy as np
import pytest

X = np.random.default_rng(0).standard_normal((40, 3))
NAN = float("nan")


def trainer_of(**options):
    return fo.Trainer(fo.mlp(3, [4], 1, seed=1), "mse", **options)


def rows_of(values, name="val_loss"):
    return [{"epoch": epoch, name: value} for epoch, value in enumerate(values)]


def answers(callback, trainer, values, name="val_loss"):
    callback.on_fit_begin(trainer)
    return [bool(callback.on_epoch_end(trainer, row)) for row in rows_of(values, name)]


# losses of epochs, the one after which two in a row were no better
PATIENCE = {
    "an improvement in between": ([5, 6, 4, 5, 3, 4, 5], 6),
    "all equal": ([3, 3, 3], 2),
    "NaN after a number": ([5, NAN, NAN], 2),
    "NaN alone": ([NAN, NAN], 1),
    "NaN before numbers": ([NAN, 5, 4, 3], None),
}


@pytest.mark.parametrize("name", PATIENCE)
def test_patience(name):
    """Epochs in a row count, and the next fit begins anew."""
    values, ended = PATIENCE[name]
    stop, trainer = fo.callbacks.EarlyStopping(patience=2, restore_best=False), trainer_of()
    for _ in range(2):
        seen = answers(stop, trainer, values)
        assert (seen.index(True) if any(seen) else None) == ended == stop.stopped_epoch


def test_an_improvement_exceeds_min_delta():
    stop = fo.callbacks.EarlyStopping(patience=1, min_delta=1.0, restore_best=False)
    assert answers(stop, trainer_of(), [5.0, 3.5, 2.5]) == [False, False, True]


def test_a_column_of_the_users_own_is_minimized():
    stop = fo.callbacks.EarlyStopping(patience=1, monitor="own", restore_best=False)
    assert answers(stop, trainer_of(), [3.0, 2.0, 2.5], "own") == [False, False, True]


def test_a_plateau_counts_anew_after_a_reduction_and_in_the_next_fit():
    plateau, trainer, seen = fo.callbacks.ReduceOnPlateau(factor=0.5, patience=2, monitor="loss"), trainer_of(), []
    plateau.on_fit_begin(trainer)
    for row in rows_of([5, 5, 5, 5, 5, 9], "loss"):
        plateau.on_epoch_end(trainer, row)
        seen.append(trainer.rate_scale)
    assert seen == [1, 1, 0.5, 0.5, 0.25, 0.25]
    answers(plateau, trainer, [9, 9, 8], "loss")
    assert (trainer.rate_scale, plateau.best) == (0.25, 8)


def own_column(values, states=None):
    """A callback that writes the column "own", and copies of the state."""
    rest = iter(values)

    def write(trainer, row):
        row["own"] = next(rest)
        if states is not None:
            states.append(trainer.state_dict())

    return write


def test_the_best_weights_come_back_with_the_reduced_rate():
    trainer = trainer_of(optimizer="sgd")
    plateau = fo.callbacks.ReduceOnPlateau(patience=1, factor=0.5, monitor="own", mode="min")
    stop = fo.callbacks.EarlyStopping(patience=2, monitor="own", mode="min")
    trainer.fit(X, X[:, 0], epochs=4, callbacks=[own_column([1.0, 2.0, 3.0, 4.0]), plateau, stop])
    assert trainer.rate_scale == 0.25


@pytest.mark.parametrize("fits", [1, 2])
def test_the_best_state_of_the_last_fit_is_kept(fits):
    """Not the first improvement, and not the best one of a fit before."""
    trainer, best = trainer_of(optimizer="sgd"), fo.callbacks.ModelCheckpoint(monitor="own", mode="min")
    stop = fo.callbacks.EarlyStopping(patience=2, monitor="own", mode="min")
    for fit in range(fits):
        states = []
        trainer.fit(X, X[:, 0], epochs=4, callbacks=[own_column([3.0 + fit, 2.0 + fit, 2.5 + fit, 2.6 + fit], states), stop, best])
    for kept in (best.state["parameters/0.weight"], trainer.network.parameters["0.weight"]):
        np.testing.assert_array_equal(kept, states[1]["parameters/0.weight"])


def test_a_fit_goes_on_after_one_that_was_stopped():
    trainer = trainer_of()
    trainer.fit(X, X[:, 0], epochs=3, callbacks=[lambda trainer, row: True])
    assert len(trainer.fit(X, X[:, 0], epochs=3, callbacks=[lambda trainer, row: None]).rows) == 3


def test_the_log_of_a_second_fit_has_a_head(tmp_path):
    log, trainer = fo.callbacks.CSVLogger(tmp_path / "log"), trainer_of()
    for _ in range(2):
        trainer.fit(X, X[:, 0], callbacks=[log])
        assert (tmp_path / "log").read_text().startswith("epoch,loss")


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"optimizer": "schedule_free_adamw"}], ids=["ema", "schedule-free"])
@pytest.mark.parametrize("data", [{"validation": (X, X[:, 0])}, {}], ids=["validation", "training"])
def test_epochs_are_measured_at_the_average(options, data):
    """What callbacks look at belongs to the weights that evaluate and predict use."""
    trainer = trainer_of(**options)
    row = trainer.fit(X, X[:, 0], epochs=2, metrics=["mae"], **data).rows[-1]
    assert row["val_mae" if data else "mae"] == trainer.evaluate(X, X[:, 0], metrics=["mae"])["mae"]
