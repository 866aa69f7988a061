"""Short epochs that nothing looks between are one native run: the same bits, errors and records as one by one."""

import fastopt as fo
import numpy as np
import pytest
from fastopt import _array_epochs
from native import core
from numpy.testing import assert_array_equal

ROWS, BATCH = 50, 16
STEPS = 4  # an epoch, the last one short


def data():
    rng = np.random.default_rng(3)
    x = 100 * rng.standard_normal((ROWS, 5)).astype(np.float32)  # so that the gradients exceed 1
    return x, rng.integers(0, 3, ROWS).astype(np.int32)


def plain(trainer, **options):
    return trainer.fit(*data(), batch_size=BATCH, **options)


def one_by_one(trainer, **options):
    return plain(trainer, callbacks=lambda trainer, row: None, **options)


@pytest.fixture(autouse=True)
def pace(monkeypatch):
    """Pieces long enough for all epochs, however slow the first one was."""

    def saw(self, steps, seconds):
        self.steps, self.measured = 10_000, True

    monkeypatch.setattr(_array_epochs.Pace, "saw", saw)


@pytest.fixture
def runs(monkeypatch):
    """Steps of every native run."""
    lengths, original = [], _array_epochs.ArrayEpochs._native_steps

    def counted(self, order, rates, first, stop):
        lengths.append(stop - first)
        return original(self, order, rates, first, stop)

    monkeypatch.setattr(_array_epochs.ArrayEpochs, "_native_steps", counted)
    return lengths


def network(seed=1):
    layers = [fo.layers.Dense(7, activation="relu"), fo.layers.BatchNorm(), fo.layers.Dropout(0.2), fo.layers.Dense(3)]
    return fo.Network(5, layers, seed=seed)


def same_state(a, b):
    assert (a.epoch, a.steps) == (b.epoch, b.steps)
    assert a.history.rows == b.history.rows
    others = b.state_dict()
    for name, value in a.state_dict().items():
        if not name.endswith("seconds"):
            assert_array_equal(value, others[name], err_msg=name)


SCHEDULE = fo.schedules.cosine_decay(0.01, 50)


@pytest.mark.parametrize(
    ("optimizer", "options", "fit"),
    [
        (fo.optimizers.Adam(), {}, {}),
        (fo.optimizers.NAdam(learning_rate=SCHEDULE), {}, {}),
        (fo.optimizers.SGD(), {"l1": 1e-3, "l2": 1e-2}, {}),
        (fo.optimizers.RMSProp(), {"ema": 0.9, "clip_norm": 1.0}, {"shuffle": False}),
    ],
    ids=["adam", "schedule", "penalty", "average"],
)
def test_the_same_bits_as_one_by_one(runs, optimizer, options, fit):
    together, single = (fo.Trainer(network(), "cross_entropy", optimizer, seed=4, **options) for _ in range(2))
    history = plain(together, epochs=30, **fit)
    joined = list(runs)
    assert max(joined) > STEPS
    assert sum(joined) == 30 * STEPS
    assert history.rows == one_by_one(single, epochs=30, **fit).rows
    assert runs[len(joined) :] == [STEPS] * 30
    same_state(together, single)
    assert len(history.seconds) == 30
    assert min(history.seconds) > 0
    plain(together, epochs=3, **fit)
    one_by_one(single, epochs=3, **fit)
    same_state(together, single)


def test_a_later_fit_knows_how_long_steps_take(runs):
    """Its first epoch is no run of its own, unless its batches have another size."""
    trainer = fo.Trainer(network(), "cross_entropy")
    plain(trainer, epochs=4)
    plain(trainer, epochs=5)
    trainer.fit(*data(), epochs=3, batch_size=25)
    assert runs == [STEPS, 3 * STEPS, 5 * STEPS, 2, 4]


@pytest.mark.parametrize("step", [29, 31], ids=["within an epoch", "at the end of one"])
@pytest.mark.parametrize("epochs", [8, 20], ids=["the last epoch", "with epochs to come"])
def test_a_failure_is_that_of_its_epoch(runs, step, epochs):
    """The rate explodes at a step of the eighth epoch; its loss or that of the next step, or only the weights, are not finite."""
    rate = fo.schedules.piecewise((step, step + 1), (0.01, 3e38, 0.01))
    together, single = (fo.Trainer(fo.mlp(5, [7], 3, seed=1), "cross_entropy", fo.optimizers.SGD(learning_rate=rate)) for _ in range(2))
    errors = []
    for train, trainer in ((plain, together), (one_by_one, single)):
        with pytest.raises(fo.NonFiniteLossError) as caught:
            train(trainer, epochs=epochs)
        errors.append((str(caught.value), caught.value.step, caught.value.epoch))
    assert errors[0] == errors[1]
    assert errors[0][2] == together.epoch == 7
    assert max(runs) > STEPS
    same_state(together, single)


def test_epochs_that_ended_before_an_interrupt_are_recorded(monkeypatch):
    original = _array_epochs.ArrayEpochs._native_steps

    def interrupted(self, order, rates, first, stop):
        if len(order) == 1:
            return original(self, order, rates, first, stop)
        original(self, order, rates, first, 5 * STEPS + 1)
        raise KeyboardInterrupt

    monkeypatch.setattr(_array_epochs.ArrayEpochs, "_native_steps", interrupted)
    trainer, single = (fo.Trainer(network(), "cross_entropy", "adam") for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        plain(trainer, epochs=30)
    assert (trainer.epoch, trainer.steps) == (6, 6 * STEPS + 1)
    one_by_one(single, epochs=6)
    assert trainer.history.rows == single.history.rows


def test_epochs_that_ended_before_another_exception_are_recorded(monkeypatch):
    """What a signal handler raises comes when the native run is over; so does Ctrl-C while the epochs are written down."""
    trainer = fo.Trainer(network(), "cross_entropy", "adam")
    original = _array_epochs.ArrayEpochs._rows

    def late(self, epochs, rates):
        monkeypatch.setattr(_array_epochs.ArrayEpochs, "_rows", original)
        raise TimeoutError

    monkeypatch.setattr(_array_epochs.ArrayEpochs, "_rows", late)
    with pytest.raises(TimeoutError):
        plain(trainer, epochs=30)
    assert len(trainer.history.rows) == trainer.epoch == trainer.steps / STEPS > 1


def test_weights_that_are_not_finite_are_not_kept_after_an_interrupt(monkeypatch):
    original = _array_epochs.ArrayEpochs._native_steps

    def interrupted(self, order, *rest):
        done = original(self, order, *rest)
        if len(order) > 1:
            self.trainer.network.parameters["0.bias"][:] = np.inf
            raise KeyboardInterrupt
        return done

    monkeypatch.setattr(_array_epochs.ArrayEpochs, "_native_steps", interrupted)
    trainer, single = (fo.Trainer(network(), "cross_entropy", "adam") for _ in range(2))
    with pytest.raises(KeyboardInterrupt):
        plain(trainer, epochs=30)
    one_by_one(single, epochs=1)
    same_state(trainer, single)


def test_a_rate_that_fails_later_stops_the_fit_where_it_fails():
    x, y = np.zeros((ROWS, 5), np.float32), np.zeros(ROWS)  # no gradient, so that any finite rate does
    rate = fo.schedules.exponential_decay(1.0, 10.0)
    together, single = (fo.Trainer(fo.mlp(5, [4], 1, dtype="float64"), "mse", fo.optimizers.SGD(learning_rate=rate)) for _ in range(2))
    for options, trainer in (({}, together), ({"callbacks": lambda trainer, row: None}, single)):
        with pytest.raises(ValueError, match="step 309"), np.errstate(over="ignore"):
            trainer.fit(x, y, epochs=200, batch_size=BATCH, **options)
    assert together.steps == 309 // STEPS * STEPS
    same_state(together, single)


@pytest.mark.parametrize("inside", ["alone", "warmup", "join"])
def test_rates_of_a_function_are_asked_for_epoch_by_epoch(inside):
    """It may look at the trainer; also inside a schedule."""
    asked, trainers = [], []

    def rate(t):
        asked.append(trainers[0].epoch)
        return 0.01

    schedules = {"alone": rate, "warmup": fo.schedules.warmup(rate, 4), "join": fo.schedules.join((0.1, rate), (8,))}
    trainers.append(fo.Trainer(network(), "cross_entropy", fo.optimizers.SGD(learning_rate=schedules[inside])))
    plain(trainers[0], epochs=20)
    assert set(range(4, 20)) <= set(asked)
    assert max(map(asked.count, asked)) <= STEPS + 1


def test_the_bar_ends_with_the_last_epoch(capsys):
    pytest.importorskip("tqdm")
    plain(fo.Trainer(network(), "cross_entropy", "adam"), epochs=7, progress=True)
    assert "epoch 7/7" in capsys.readouterr().err.rsplit("\r", 1)[-1]


def test_what_is_looked_at_between_epochs_is_there(runs):
    """An evaluation, a callback, a schedule of the user's own: epochs one by one."""
    x, y = data()
    cases = {
        "validation": (fo.Trainer(network(), "cross_entropy", "adam"), {"validation": (x, y)}),
        "metrics": (fo.Trainer(network(), "cross_entropy", "adam"), {"metrics": ["accuracy"]}),
        "own schedule": (fo.Trainer(network(), "cross_entropy", fo.optimizers.SGD(learning_rate=lambda t: 0.1 / (1 + t))), {}),
        "micro-batches": (fo.Trainer(network(), "cross_entropy", "adam", accumulate=2), {}),
    }
    for name, (trainer, options) in cases.items():
        runs.clear()
        plain(trainer, epochs=5, **options)
        assert runs == [STEPS] * 5, name


def test_penalties_of_epochs_that_end_in_several_calls():
    """Each is written where its epoch is, whichever call ends it."""
    x = np.random.default_rng(171).standard_normal((64, 6)).astype(np.float32)
    y = x[:, :1] * x[:, 1:2]
    order = np.tile(np.arange(64, dtype=np.int32), 3)
    found = []
    for stops in ((12,), (5, 12), (4, 8, 12)):
        net = fo.Network(6, [fo.layers.Dense(4, activation="relu"), fo.layers.Dense(1)], seed=0)
        trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=0.05), l2=0.1)
        losses, scales, penalties = np.zeros(12), np.zeros(12), np.full(3, -1.0)
        first = 0
        for stop in stops:
            trainer._native.run_steps(x, y, None, order, 16, np.full(12, 0.05), losses, scales, first, stop, 64, penalties)
            first = stop
        found.append(penalties)
    assert (found[0] > 0).all()
    assert_array_equal(found[1], found[0])
    assert_array_equal(found[2], found[0])


def test_an_epoch_that_breaks_the_weights_and_one_that_mends_them(runs):
    """At the end of the eighth epoch the loss of its last row is infinite, and a step on the other row makes up for it."""
    x, y = np.array([[1e-3], [1.0]], np.float32), np.zeros(2, np.float32)
    rate = fo.schedules.piecewise((15, 16, 17), (0.0, 3e19, 0.5e6, 0.0))
    errors = []
    for callbacks in ((), (lambda trainer, row: None,)):
        net = fo.Network(1, [fo.layers.Dense(1, init="constant", init_value=1.0, bias=False)])
        trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=rate))
        with pytest.raises(fo.NonFiniteLossError) as caught:
            trainer.fit(x, y, epochs=20, batch_size=1, shuffle=False, callbacks=callbacks)
        errors.append((str(caught.value), trainer.epoch, trainer.history["loss"]))
    assert errors[0] == errors[1]
    assert errors[0][1] == 7
    assert max(runs) > 2


@pytest.mark.parametrize(("loss", "outputs"), [("poisson", 1), ("gaussian_nll", 2)])
def test_losses_with_exponentials_are_looked_at_after_each_epoch(runs, loss, outputs):
    x = 0.01 * data()[0]
    fo.Trainer(fo.mlp(5, [4], outputs, seed=1), loss, fo.optimizers.SGD(learning_rate=1e-6)).fit(
        x, x[:, 0] ** 2, epochs=5, batch_size=BATCH
    )
    assert runs == [STEPS] * 5


def test_a_rate_that_the_dtype_does_not_hold():
    rate = fo.schedules.piecewise((STEPS * 5,), (0.01, 1e39))
    for train in (plain, one_by_one):
        trainer = fo.Trainer(fo.mlp(5, [4], 3, seed=1), "cross_entropy", fo.optimizers.SGD(learning_rate=rate))
        with pytest.raises(ValueError, match=r"in float32; got 1e\+39"):
            train(trainer, epochs=8)
        assert trainer.epoch == 5


def test_a_loss_near_the_largest_number_on_two_threads(runs, monkeypatch):
    """They have begun later steps when it is seen; the epochs are then run one by one, to the same end."""
    monkeypatch.setattr(_array_epochs, "SUSPECT", 1e-12)
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((320, 30)).astype(np.float32), np.zeros((320, 2), np.float32)
    y[5] = 1e15
    before = fo.get_num_threads()
    fo.set_num_threads(2)
    core.set_work_per_thread(1)
    try:
        for together, callbacks in ((True, ()), (False, (lambda trainer, row: None,))):
            trainer = fo.Trainer(fo.mlp(30, [64, 64], 2, seed=1), "mse", fo.optimizers.SGD(learning_rate=1e-38))
            history = trainer.fit(x, y, epochs=12, batch_size=32, callbacks=callbacks)
            assert max(runs) == (110 if together else 10)
            runs.clear()
            assert trainer._native.steps_in_halves > 0
            assert len(history.rows) == 12
            assert max(history["loss"]) > 1e26
            if together:
                expected, first = history.rows, trainer
        assert history.rows == expected
        same_state(first, trainer)
    finally:
        core.set_work_per_thread(0)
        fo.set_num_threads(before)
