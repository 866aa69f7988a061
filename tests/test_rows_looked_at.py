"""Whether X is finite is found out by the first epoch as it copies the rows, where reading all of X before it would take long."""

import fastopt as fo
import numpy as np
import pytest
from fastopt import _prepare
from native import core
from numpy.testing import assert_array_equal

ROWS, INPUTS, OUTPUTS, BATCH = 700, 500, 3, 64
L = fo.layers
# By which way a step gathers its rows, with more than one thread.
WAYS = {
    "halves of the units": ([L.Dense(32, activation="relu"), L.Dense(32, activation="relu")], BATCH),
    "rows alone": ([L.Dense(16, activation="relu"), L.Dense(16, activation="relu"), L.Dense(8), L.Dense(8)], BATCH),
    "shared products": ([L.Dense(16, activation="relu"), L.BatchNorm()], BATCH),
    "blocks of rows": ([L.Dense(8, activation="relu")], None),
    "a line": ([], BATCH),
}


@pytest.fixture
def looked_later(monkeypatch):
    """Data as small as a test wants; counts the fits that looked later."""
    monkeypatch.setattr(_prepare, "LOOK_LATER_BYTES", 1 << 10)
    found = []
    may = _prepare.may_look_later
    monkeypatch.setattr(_prepare, "may_look_later", lambda *args: found.append(may(*args)) or found[-1])
    return found


def table(dtype="float32", rows=ROWS):
    rng = np.random.default_rng(2)
    return rng.standard_normal((rows, INPUTS)).astype(dtype), rng.integers(0, OUTPUTS, rows)


def trainer_of(layers, dtype="float32"):
    net = fo.Network(INPUTS, [*layers, L.Dense(OUTPUTS)], dtype=dtype, seed=4)
    return fo.Trainer(net, "cross_entropy", fo.optimizers.Adam(learning_rate=1e-3), ema=0.9)


def assert_same_state(trainer, state):
    now = trainer.state_dict()
    assert now.keys() == state.keys()
    for name, value in state.items():
        assert_array_equal(now[name], value, err_msg=name)


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_row_that_is_not_finite_changes_nothing(cut_for_threads, looked_later, way, threads):
    """Wherever it is, also where relu would hide it; the fit after that is the one that would have been without it."""
    layers, batch = WAYS[way]
    cut_for_threads(threads)
    x, y = table()
    trainer = trainer_of(layers)
    trainer.fit(x, y, epochs=2, batch_size=batch, progress=False)
    trainer.history.message = "as before"
    twin = trainer_of(layers)
    twin.fit(x, y, epochs=2, batch_size=batch, progress=False)
    state, rows = trainer.state_dict(), list(trainer.history.rows)
    for row, column, value in ((0, 0, np.nan), (ROWS - 1, INPUTS - 1, np.inf), (ROWS // 2, 7, -np.inf)):
        bad = x.copy()
        bad[row, column] = value
        with pytest.raises(ValueError, match=rf"^X must be finite; got {value} at row {row}, column {column}$") as caught:
            trainer.fit(bad, y, epochs=3, batch_size=batch, progress=False)
        assert caught.value.__context__ is None
        assert_same_state(trainer, state)
        assert (trainer.history.rows, trainer.history.message, trainer.epoch) == (rows, "as before", 2)
    assert looked_later == [True] * 5
    after = trainer.fit(x, y, epochs=2, batch_size=batch, progress=False)
    assert after.rows == twin.fit(x, y, epochs=2, batch_size=batch, progress=False).rows
    assert_same_state(trainer, twin.state_dict())


@pytest.mark.parametrize(("source", "dtype"), [("float64", "float32"), ("float32", "float64"), ("float64", "float64")])
def test_other_dtypes_and_strides(looked_later, source, dtype):
    x, y = table(source)
    wide = np.concatenate([x, np.full((ROWS, 12), np.nan, source)], axis=1)
    trainer = trainer_of([L.Dense(8, activation="relu")], dtype)
    state = trainer.state_dict()
    rows = wide[:, :INPUTS]  # what lies between the rows is nobody's business
    rows[5, 3] = np.finfo(source).max
    if source == "float64" and dtype == "float32":
        with pytest.raises(ValueError, match=r"^X must fit into float32; got 1\.79.*e\+308 at row 5, column 3$"):
            trainer.fit(rows, y, epochs=1, batch_size=BATCH, progress=False)
        rows[5, 3] = 0
    rows[9, 0] = np.nan
    with pytest.raises(ValueError, match=r"^X must be finite; got nan at row 9, column 0$"):
        trainer.fit(rows, y, epochs=1, batch_size=BATCH, progress=False)
    assert_same_state(trainer, state)
    rows[9, 0] = 0
    rows[5, 3] = 1
    assert len(trainer.fit(rows, y, epochs=1, batch_size=BATCH, progress=False).rows) == 1
    assert all(looked_later)


def test_only_rows_of_the_first_epoch_are_looked_at(looked_later, monkeypatch):
    x, y = table()
    trainer, looks = trainer_of([L.Dense(8)]), []
    native = trainer._native

    class Spy:
        def __getattr__(self, name):
            return getattr(native, name)

        def run_steps(self, *args):
            looks.append((args[9] - args[8], args[-1]))
            return native.run_steps(*args)

    monkeypatch.setattr(trainer, "_native", Spy())
    trainer.fit(x, y, epochs=5, batch_size=BATCH, progress=False)
    steps = -(-ROWS // BATCH)
    looked = [last for count, last in looks for _ in range(count)]
    assert looked == [True] * steps + [False] * 4 * steps


@pytest.mark.parametrize(
    "why",
    [
        "an epoch that is long",
        "rows that are short",
        "few bytes",
        "a share held out",
        "callbacks",
        "statistics",
        "a loss in Python",
        "integers",
    ],
)
def test_all_are_looked_at_before_anything_else(looked_later, monkeypatch, why):
    """Where the error would come late, or something else reads the rows; nothing is run then."""
    x, y = table()
    x[ROWS - 1, 3] = np.nan
    layers, loss, options = [L.Dense(8)], "cross_entropy", {}
    if why == "an epoch that is long":
        monkeypatch.setattr(_prepare, "LOOK_LATER_SECONDS", 0.0)
    elif why == "rows that are short":
        x = np.ascontiguousarray(x[:, :60])
    elif why == "few bytes":
        monkeypatch.setattr(_prepare, "LOOK_LATER_BYTES", x.nbytes + 1)
    elif why == "a share held out":
        options = {"validation": 0.1}
    elif why == "callbacks":
        options = {"callbacks": [fo.callbacks.EarlyStopping(monitor="loss")]}
    elif why == "statistics":
        layers = [L.Standardize(), *layers]
    elif why == "a loss in Python":
        loss = lambda p, t: (float((p**2).mean()), 2 * p / p.size)  # noqa: E731
    elif why == "integers":
        x = np.zeros((ROWS, INPUTS), np.int16)
    trainer = fo.Trainer(fo.Network(x.shape[1], [*layers, L.Dense(OUTPUTS)], seed=0), loss, "adam")
    state = trainer.state_dict()
    if why == "integers":
        trainer.fit(x, y, epochs=1, progress=False)
    else:
        monkeypatch.setattr(_prepare.ArrayData, "refuse", lambda self, dtype: pytest.fail("found by an epoch"))
        with pytest.raises(ValueError, match=rf"^X must be finite; got nan at row {ROWS - 1}, column 3$"):
            trainer.fit(x, y, epochs=1, progress=False, **options)
        assert_same_state(trainer, state)
    assert not any(looked_later)


def test_a_memory_map_and_pieces(looked_later, tmp_path, monkeypatch):
    """Pieces of one step each: found in the piece that meets it, and no later one is run."""
    x, y = table()
    x[BATCH + 3] = np.inf
    path = tmp_path / "x.npy"
    np.save(path, x)
    trainer = trainer_of([L.Dense(8, activation="relu")])
    state, calls = trainer.state_dict(), []
    monkeypatch.setattr(fo._array_epochs, "PIECE_SECONDS", 1e-9)
    monkeypatch.setattr(fo._array_epochs.Pace, "saw", lambda self, steps, seconds: calls.append(steps))
    with pytest.raises(ValueError, match=r"^X must be finite; got inf at row 67, column 0$"):
        trainer.fit(np.load(path, mmap_mode="r"), y, epochs=1, batch_size=BATCH, shuffle=False, progress=False)
    assert calls == [1]  # what the piece before it was told
    assert all(looked_later)
    assert_same_state(trainer, state)


def test_native_runs_say_so():
    """-1 whatever the loss is, and only when asked to look."""
    x, y = table()
    trainer = trainer_of([L.Dense(8, activation="relu")])
    order, rates, losses, weights = np.arange(ROWS), np.full(11, 1e-3), np.zeros(11), np.zeros(11)

    def run(rows, look):
        return trainer._native.run_steps(rows, y.astype(np.int32), None, order, BATCH, rates, losses, weights, look=look)

    assert run(x, True) == run(x, False) == 11
    assert core.all_finite(x)
    x[70, 0] = -np.inf
    assert run(x, True) == -1
    assert run(x, False) == 1  # the loss of its batch is not finite


@pytest.mark.parametrize("broken", [False, True])
def test_an_interrupt_in_that_epoch(looked_later, monkeypatch, broken):
    """The steps done stay, unless a row that nobody has seen yet has broken the weights."""
    x, y = table()
    trainer = trainer_of([L.Dense(8, activation="relu")])
    state, original = trainer.state_dict(), fo._array_epochs.ArrayEpochs._native_steps

    def interrupted(self, *args):
        original(self, *args)
        if broken:
            trainer.network.parameters["0.weight"][0, 0] = np.nan
        raise KeyboardInterrupt

    monkeypatch.setattr(fo._array_epochs.ArrayEpochs, "_native_steps", interrupted)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=1, batch_size=BATCH, progress=False)
    assert looked_later == [True]
    assert (trainer.steps == 0) == broken
    if broken:
        assert_same_state(trainer, state)
