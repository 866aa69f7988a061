"""Trainer.profile: which stages it names, that they make up the wall time, and that it changes nothing."""

import time

import fastopt as fo
import numpy as np
import pytest
from fastopt.profile import Profile
from networks import every_layer

ROWS, BATCH, EPOCHS = 70, 16, 2
STEPS = EPOCHS * -(-ROWS // BATCH)  # the last batch is short


def rows_and_targets():
    rng = np.random.default_rng(61)
    return rng.standard_normal((ROWS, 6)), rng.integers(0, 3, ROWS)


def layers_of_every_kind():
    layer = fo.layers
    return [
        layer.Standardize(), layer.Dense(9), layer.BatchNorm(), layer.Activation("gelu"), layer.Dropout(0.2),
        layer.Dense(8, activation="relu"), layer.Dropout(0.0), layer.Dense(3),
    ]  # fmt: skip


def trainer_of(layers=None, loss="softmax_cross_entropy", dtype="float32", **options):
    return fo.Trainer(fo.Network(6, layers or layers_of_every_kind(), dtype=dtype, seed=7), loss, **options)


def squared_error(prediction, target):
    residual = prediction - np.eye(3)[target]
    return float((residual**2).mean()), 2 * residual / residual.size


def fitted(trainer, **options):
    x, y = rows_and_targets()
    return trainer.fit(x, y, **({"epochs": EPOCHS, "batch_size": BATCH} | options))


def profiled(trainer, **options):
    with trainer.profile() as profile:
        fitted(trainer, **options)
    return profile


def test_stages_of_a_step_in_order():
    assert list(profiled(trainer_of())) == [
        "gather", "0.forward", "1.forward", "2.forward", "4.forward", "5.forward", "7.forward", "loss",
        "7.input_gradient", "7.weight_gradient", "5.input_gradient", "5.weight_gradient", "4.input_gradient", "2.input_gradient",
        "1.weight_gradient", "update", "snapshot", "order", "python", "clock",
    ]  # fmt: skip


def test_stages_of_every_option():
    trainer = trainer_of(clip_norm=1.0, ema=0.9, accumulate=2)
    profile = profiled(trainer, validation=0.2, callbacks=[lambda trainer, row: None])
    steps, updates = EPOCHS * 4, EPOCHS * 2  # 56 rows are left for training
    expected = {"gather": steps, "accumulate": steps, "norm": updates, "update": updates, "average": updates}
    expected |= {"snapshot": 2 * EPOCHS, "order": EPOCHS, "evaluation": EPOCHS, "callbacks": EPOCHS}
    assert {name: profile[name].calls for name in expected} == expected
    assert profile.steps == steps


def test_a_frozen_layer_has_no_weight_gradient():
    dense = fo.layers.Dense
    profile = profiled(trainer_of([dense(5), dense(4, trainable=False), dense(3)]))
    backward = [name for name in profile if name.endswith("gradient")]
    assert backward == ["2.input_gradient", "2.weight_gradient", "1.input_gradient", "0.weight_gradient"]


@pytest.mark.parametrize(("batch_norm", "waits"), [(False, 2), (True, 0)])
def test_threads_meet_twice_where_rows_are_alone(cut_for_threads, batch_norm, waits):
    """The short batch of six rows has too few for two threads."""
    trainer = fo.Trainer(every_layer(6, 9, 3, seed=7, batch_norm=batch_norm), "softmax_cross_entropy")
    cut_for_threads(2)
    profile = profiled(trainer)
    assert ("wait" in profile) == (waits > 0)
    assert waits == 0 or profile["wait"].calls == waits * (STEPS - EPOCHS)
    layers = 3 if waits else 1  # updated each for itself
    assert profile["update"].calls == layers * (STEPS - EPOCHS) + EPOCHS


def test_operations_are_those_of_the_products():
    """The short batch counts as it is; sums over layers add up; what is no product has none."""
    profile, seen = profiled(trainer_of()), ROWS * EPOCHS
    for layer, weights in ((1, 6 * 9), (5, 9 * 8), (7, 8 * 3)):
        for part in ("forward", "weight_gradient", "input_gradient"):
            if (layer, part) != (1, "input_gradient"):
                stage = profile[f"{layer}.{part}"]
                assert (stage.calls, stage.flops) == (STEPS, 2 * seen * weights)
                assert stage.gflops == pytest.approx(1e-9 * stage.flops / stage.seconds)
    assert profile["forward"].flops == 2 * seen * (6 * 9 + 9 * 8 + 8 * 3)
    assert profile["forward"].calls == 6 * STEPS
    assert profile["forward"].seconds == pytest.approx(sum(profile[f"{layer}.forward"].seconds for layer in (0, 1, 2, 4, 5, 7)))
    assert {row.stage for row in profile.rows if row.flops == 0} >= {"gather", "loss", "update", "2.forward", "clock", "python"}


def test_stages_make_up_the_wall_time():
    trainer = trainer_of()
    profile = trainer.profile()
    outside = time.perf_counter()
    with profile:
        inside = time.perf_counter()
        fitted(trainer)
        inside = time.perf_counter() - inside
    outside = time.perf_counter() - outside
    assert inside <= profile.seconds <= outside
    rows = profile.rows
    assert sum(row.seconds for row in rows) == pytest.approx(profile.seconds)
    assert sum(row.share for row in rows) == pytest.approx(1.0)
    assert all(row.seconds >= 0.0 for row in rows)
    assert profile["update"].micros_per_step == pytest.approx(1e6 * profile["update"].seconds / STEPS)
    assert profile["clock"].calls == sum(row.calls for row in rows if row.stage != "clock")
    assert 0.0 < profile["clock"].seconds <= profile["clock"].calls * profile.clock_seconds * (1 + 1e-9)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    "options",
    [{}, {"clip_norm": 0.5, "ema": 0.9, "l2": 1e-3}, {"accumulate": 3}, {"loss": squared_error}],
    ids=["plain", "penalty", "micro-batches", "python loss"],
)
def test_the_bits_are_those_without_a_profile(dtype, options):
    plain, watched = trainer_of(dtype=dtype, **options), trainer_of(dtype=dtype, **options)
    history = fitted(plain)
    with watched.profile():
        watched_history = fitted(watched)
    assert watched_history["loss"] == history["loss"]
    state = plain.state_dict()
    for name, value in watched.state_dict().items():
        np.testing.assert_array_equal(value, state[name], err_msg=name)


def test_single_steps_streams_and_python_losses():
    x, y = rows_and_targets()
    trainer = trainer_of([fo.layers.Dense(3)])
    with trainer.profile() as profile:
        trainer.step(x, y)
        trainer.fit([(x[:30], y[:30]), (x[30:], y[30:])], epochs=2)
    assert list(profile) == ["gather", "0.forward", "loss", "0.weight_gradient", "update", "snapshot", "python", "clock"]
    assert (profile.steps, profile["0.forward"].flops) == (5, 2 * 3 * ROWS * 6 * 3)
    profile = profiled(trainer_of([fo.layers.Dense(3)], loss=squared_error))
    assert list(profile) == ["0.forward", "loss", "0.input_gradient", "0.weight_gradient", "update", "snapshot", "order", "python", "clock"]
    assert profile.steps == profile["update"].calls == STEPS


def test_nothing_is_measured_outside_of_the_context():
    trainer = trainer_of()
    profile = trainer.profile()
    assert isinstance(profile, Profile)
    assert (list(profile), profile.steps, profile.seconds) == ([], 0, 0.0)
    fitted(trainer)
    assert profile.steps == 0
    with profile:
        fitted(trainer)
    before = profile.rows
    fitted(trainer)
    assert profile.rows == before
    with profile:
        fitted(trainer)
    assert profile.steps == 2 * STEPS, "entered again it adds"


def test_one_profile_at_a_time():
    trainer = trainer_of()
    with trainer.profile() as outer:
        with pytest.raises(ValueError, match="profiled already"), trainer.profile():
            pass
        fitted(trainer)
    assert outer.steps == STEPS
    with pytest.raises(ZeroDivisionError), trainer.profile():
        raise ZeroDivisionError
    assert profiled(trainer).steps == STEPS, "an error ends a profile"


def test_a_step_that_is_refused_has_no_backward():
    trainer = trainer_of([fo.layers.Dense(3)])
    x, y = rows_and_targets()
    with trainer.profile() as profile, pytest.raises(fo.NonFiniteLossError):
        trainer.step(np.full_like(x, np.inf), y)
    assert list(profile) == ["gather", "0.forward", "loss", "python", "clock"]


def test_text():
    profile = profiled(trainer_of())
    lines = str(profile).splitlines()
    assert lines[0].startswith(f"{STEPS} steps in ")
    assert [line.split()[0] for line in lines[2:]] == list(profile)
    assert lines[1].split() == ["stage", "calls", "seconds", "µs/step", "share", "GFLOP/s"]
    assert repr(profile).startswith(f"Profile({STEPS} steps")
    assert len(profile) == len(lines) - 2
    with pytest.raises(KeyError, match=r"'sleep'; the stages are: gather, 0\.forward"):
        profile["sleep"]
