"""How a fit ends: interrupts, callbacks, losses that are not finite. The trainer is usable afterwards."""

import contextlib
import csv
import os
import shutil
import stat
import sys

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from fastopt import _snapshot, _state
from helpers import close, refuses


def data(rows=40):
    rng = np.random.default_rng(141)
    return rng.standard_normal((rows, 3)), rng.standard_normal((rows, 1))


def trainer_of(optimizer=None, seed=1, **options):
    return fo.Trainer(fo.mlp(3, [6], 1, activation="tanh", dtype="float64", seed=seed), "mse", optimizer or "adam", **options)


def state(trainer):
    return {name: np.array(value) for name, value in trainer.state_dict().items()}


def assert_same_state(a, b, what):
    assert set(a) == set(b)
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=f"{what}: {name}")


def test_interrupt_by_a_callback():
    x, y = data()
    trainer, undisturbed = trainer_of(), trainer_of()

    def interrupt(trainer, row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, epochs=10, batch_size=8, callbacks=[interrupt])
    assert trainer.epoch == 3
    assert len(trainer.history.rows) == 3, "the epochs done are recorded"
    trainer.fit(x, y, epochs=2, batch_size=8)
    undisturbed.fit(x, y, epochs=5, batch_size=8)
    assert_same_state(state(trainer), state(undisturbed), "going on after an interrupt")


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")
def test_interrupt_by_a_signal():
    """Ctrl-C in the middle of a fit that would run for hours; the child ends by itself soon after, or the runner's limit ends it."""
    out = run_python("""
        import os, signal, threading
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may have had it ignored
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((2000, 8)), rng.standard_normal((2000, 1))
        trainer = fo.Trainer(fo.mlp(8, [16], 1, seed=0), "mse")
        trainer.fit(x, y, epochs=1)
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            trainer.fit(x, y, epochs=10**8, batch_size=32)
        except KeyboardInterrupt:
            before = trainer.steps
            trainer.fit(x, y, epochs=1, batch_size=32)
            print("stopped", trainer.steps - before, np.isfinite(trainer.predict(x)).all(), signal.getsignal(signal.SIGINT).__name__)
    """)
    assert out == "stopped 63 True default_int_handler"


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")
@pytest.mark.parametrize("accumulate", [1, 3])
def test_the_schedule_after_a_signal(accumulate):
    """Wherever it hits, the rate is that of the next step, and a saved trainer has it too."""
    out = run_python(f"""
        import os, signal, tempfile, threading
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((100000, 4), dtype=np.float32), rng.integers(0, 2, 100000)
        rate = fo.schedules.linear(0.01, steps=100000)
        net = fo.mlp(4, [32], 2, seed=0)
        trainer = fo.Trainer(net, "cross_entropy", fo.optimizers.Adam(learning_rate=rate), accumulate={accumulate})
        for _ in range(4):
            threading.Timer(0.15, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                trainer.fit(x, y, epochs=10**8)
            except KeyboardInterrupt:
                path = os.path.join(tempfile.mkdtemp(), "trainer")
                trainer.save(path)
                print(trainer.learning_rate == fo.Trainer.load(path).learning_rate == rate(trainer.steps))
    """)
    assert out.split() == ["True"] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends signals")
@pytest.mark.parametrize("layout", ["C", "F"])
def test_signals_are_looked_for_inside_of_a_long_inference(layout):
    """The last rows of seconds of work are not there; the network works on."""
    out = run_python(f"""
        import signal
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x = np.asarray(rng.standard_normal((50000, 8)), dtype=np.float32, order="{layout}")
        net = fo.mlp(8, [2048, 2048], 1, seed=0)
        out = np.full((len(x), 1), np.nan, np.float32)
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            net(x, out=out)
        except KeyboardInterrupt:
            print(np.isnan(out[-1, 0]), np.array_equal(net(x[:5]), net(x[:900])[:5]))
    """)
    assert out == "True True"


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends signals")
@pytest.mark.parametrize(("dtype", "rows"), [("float32", 9000), ("float64", 4500)])
def test_signals_are_looked_for_inside_of_long_products(dtype, rows):
    """Three products in pieces of 50 ms, with the sums of uncut ones; between layers and calls alone there would be five looks."""
    out = run_python(f"""
        import signal
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal(({rows}, 2000), dtype=np.{dtype}) for _ in range(2))
        net = fo.Network(2000, [fo.layers.Dense(2000, activation="relu")], dtype="{dtype}", seed=0)
        weight, bias = (net.parameters[name].copy() for name in ("0.weight", "0.bias"))
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        outputs = net.forward(x, training=True)
        gradient = net.backward(y)
        signal.setitimer(signal.ITIMER_REAL, 0)
        same = np.array_equal(outputs, fo.kernels.dense_forward(x, weight, bias, activation="relu"))
        uncut = fo.kernels.dense_backward(y, x, weight, bias, activation="relu")
        cut = gradient, net.gradients["0.weight"], net.gradients["0.bias"]
        print(same, *map(np.array_equal, uncut, cut), len(seen) >= 9 or len(seen))
    """)
    assert out.split() == ["True"] * 5


@pytest.mark.skipif(sys.platform == "win32", reason="sends SIGINT to itself")
def test_a_signal_in_the_middle_of_a_long_step():
    """The step has not been: its statistics and its count are taken back."""
    out = run_python("""
        import os, signal, threading
        signal.signal(signal.SIGINT, signal.default_int_handler)
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((20000, 300), dtype=np.float32), rng.integers(0, 2, 20000)
        trainer = fo.Trainer(fo.mlp(300, [500, 500], 2, batch_norm=True, seed=0), "cross_entropy")
        trainer.fit(x, y, epochs=1, batch_size=None)
        counts = []
        for delay in (0.11, 0.13, 0.17, 0.19):
            threading.Timer(delay, os.kill, (os.getpid(), signal.SIGINT)).start()
            try:
                trainer.fit(x, y, epochs=10**8, batch_size=None)
            except KeyboardInterrupt:
                buffers = trainer.network.buffers
                print(trainer.steps == trainer.network.training_step == buffers["1.count"][0])
    """)
    assert out.split() == ["True"] * 4


@pytest.mark.skipif(sys.platform == "win32", reason="needs a timer that sends signals")
def test_signals_are_looked_for_inside_of_long_steps_of_small_networks():
    """On several threads too, which else take rows of their own through all layers, where nobody looks."""
    out = run_python("""
        import signal
        import numpy as np, fastopt as fo
        fo.set_num_threads(2)
        x = np.random.default_rng(0).standard_normal((100000, 64), dtype=np.float32)
        trainer = fo.Trainer(fo.mlp(64, [256, 256], 1, seed=0), "mse")
        trainer.step(x, x[:, :1])
        seen = []
        signal.signal(signal.SIGALRM, lambda *_: seen.append(1))
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        trainer.step(x, x[:, :1])
        signal.setitimer(signal.ITIMER_REAL, 0)
        print(len(seen) >= 6 or len(seen))
    """)
    assert out == "True"


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")
def test_a_signal_handler_that_uses_the_network():
    """In the middle of a call it is told so; it does not wait for itself."""
    out = run_python("""
        import os, signal, threading
        import numpy as np, fastopt as fo
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((20000, 300), dtype=np.float32), rng.integers(0, 2, 20000)
        trainer = fo.Trainer(fo.mlp(300, [500, 500], 2, seed=0), "cross_entropy")
        said = []

        def handler(number, frame):
            try:
                said.append(len(trainer.predict(x[:3])))
            except RuntimeError as error:
                said.append(str(error))

        signal.signal(signal.SIGUSR1, handler)
        for delay in range(1, 12):
            threading.Timer(0.05 * delay, os.kill, (os.getpid(), signal.SIGUSR1)).start()
        history = trainer.fit(x, y, epochs=12, batch_size=None)
        print(all(s == 3 or "signal handler" in s for s in said), len(said) > 0, np.isfinite(history["loss"]).all())
    """)
    assert out == "True True True"


def test_a_callback_that_returns_true_stops():
    x, y = data()
    trainer, seen = trainer_of(), []

    def watch(trainer, row):
        seen.append(dict(row))
        return row["epoch"] == 1

    history = trainer.fit(x, y, epochs=10, callbacks=[watch], validation=(x, y))
    assert [row["epoch"] for row in seen] == [0, 1]
    assert seen == history.rows
    trainer.fit(x, y, epochs=3)
    assert trainer.epoch == 5, "the next fit runs all its epochs"


@pytest.mark.parametrize("stop", [True, np.True_])
def test_what_a_function_returns(stop):
    """A bool of NumPy stops too; anything else does not, say what `setdefault` gives; one callback needs no list."""
    x, y = data()
    assert len(trainer_of().fit(x, y, epochs=4, callbacks=lambda trainer, row: stop).rows) == 1
    assert len(trainer_of().fit(x, y, epochs=4, callbacks=[lambda trainer, row: row.setdefault("mine", 3)]).rows) == 4
    assert len(trainer_of().fit(x, y, epochs=4, callbacks=fo.callbacks.EarlyStopping(patience=1, monitor="epoch")).rows) == 2
    refuses("no list", trainer_of().fit, x, y, callbacks=3, match="callbacks must be a list.*int")


def test_the_direction_of_a_column_of_ones_own():
    x, y = data()

    def share(target, prediction):
        return float(np.mean(np.abs(target - prediction) < 1))

    for mode in ("min", "max"):
        trainer_of().fit(x, y, metrics=[share], callbacks=[fo.callbacks.EarlyStopping(monitor="share", mode=mode)])
    for callback in (fo.callbacks.EarlyStopping, fo.callbacks.ModelCheckpoint):
        with pytest.warns(UserWarning, match="small values of 'share'.*mode='max'") as said:
            trainer_of().fit(x, y, metrics=[share], callbacks=[callback(monitor="share")])
        assert [warning.filename for warning in said] == [__file__], "it points to the call of fit"


def test_a_log_can_be_read_whatever_it_holds(tmp_path):
    x, y = data()
    log, path = [lambda trainer, row: row.update(note='halved, "best" kept')], tmp_path / "log.csv"
    trainer = trainer_of()
    trainer.fit(x, y, epochs=2, callbacks=[*log, fo.callbacks.CSVLogger(path)])
    trainer.fit(x, y, epochs=1, callbacks=[*log, fo.callbacks.CSVLogger(path, append=True)])
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["note"] for row in rows] == ['halved, "best" kept'] * 3
    assert [float(row["loss"]) for row in rows] == trainer.history["loss"]


@pytest.mark.parametrize(("cooldown", "scales"), [(0, [1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.125]), (2, [1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25])])
def test_the_cooldown_of_a_plateau_counts_all_epochs(cooldown, scales):
    """Those that improve, too; and a scale that somebody made smaller is not raised to min_scale."""
    trainer = trainer_of()
    plateau = fo.callbacks.ReduceOnPlateau(monitor="loss", factor=0.5, patience=1, cooldown=cooldown)
    plateau.on_fit_begin(trainer)
    seen = []
    for epoch, loss in enumerate([5.0, 6.0, 4.0, 3.0, 2.0, 7.0, 8.0]):
        plateau.on_epoch_end(trainer, {"epoch": epoch, "loss": loss})
        seen.append(trainer.rate_scale)
    assert seen == scales
    trainer.rate_scale = 1e-3
    small = fo.callbacks.ReduceOnPlateau(monitor="loss", patience=1, min_scale=0.1)
    small.on_fit_begin(trainer)
    for epoch in range(3):
        small.on_epoch_end(trainer, {"epoch": epoch, "loss": 1.0})
    assert trainer.rate_scale == 1e-3


def test_a_log_whose_last_line_was_not_written_to_its_end(tmp_path):
    x, y = data()
    path = tmp_path / "log.csv"
    path.write_text("epoch,loss\n0,1.5")
    trainer_of().fit(x, y, epochs=2, callbacks=[fo.callbacks.CSVLogger(path, append=True)])
    lines = path.read_text().splitlines()
    assert lines[:2] == ["epoch,loss", "0,1.5"]
    assert [line.split(",")[0] for line in lines[2:]] == ["0", "1"]


def test_a_log_with_other_columns(tmp_path):
    x, y = data()
    path = tmp_path / "log.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"log\.csv has other columns, a, b; log to another file"):
        trainer_of().fit(x, y, callbacks=[fo.callbacks.CSVLogger(path, append=True)])
    assert path.read_text() == "a,b\n1,2\n"


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"optimizer": "schedule_free_adamw"}])
def test_an_interrupt_while_average_and_weights_change_places(options, tmp_path):
    """Wherever it falls, the trainer goes on, with its weights where they were."""
    x, y = data()
    trainer = trainer_of(**options)
    trainer.fit(x, y, epochs=2)
    before = state(trainer)

    def interrupt(trainer, row):
        trainer.load_state_dict(before)
        trainer._native.swap_evaluation_point()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        trainer.fit(x, y, callbacks=[interrupt])
    assert_same_state(state(trainer), before, "swapped back")
    trainer.save(tmp_path / "trainer.safetensors")
    trainer.fit(x, y)


def test_an_interrupt_while_a_state_is_put_back(monkeypatch):
    """All of it is, that of the range test too."""
    x, y = data()
    trainer, other = trainer_of(), trainer_of()
    trainer.fit(x, y)
    other.fit(x, y, epochs=3)
    kept, wanted = state(trainer), state(other)
    original, calls = _state.arrays, 0

    class Views(dict):
        """Raises once, when some of its arrays were written."""

        def items(self):
            nonlocal calls
            for i, item in enumerate(super().items()):
                if i == 2 and calls == 0:
                    calls += 1
                    raise KeyboardInterrupt
                yield item

    with monkeypatch.context() as patch:
        patch.setattr(_state, "arrays", lambda trainer: Views(original(trainer)))
        with pytest.raises(KeyboardInterrupt):
            trainer.load_state_dict(wanted)
    assert_same_state(state(trainer), wanted, "loaded")
    trainer.load_state_dict(kept)
    load, loads = fo.Trainer.load_state_dict, 0

    def interrupted(self, given):
        nonlocal loads
        loads += 1
        if loads == 1:
            raise KeyboardInterrupt
        load(self, given)

    monkeypatch.setattr(fo.Trainer, "load_state_dict", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fo.callbacks.LearningRateFinder(steps=10).run(trainer, x, y)
    assert_same_state(state(trainer), kept, "found")


def test_early_stopping_restores_the_best_weights():
    x, y = data()
    trainer, best = trainer_of(fo.optimizers.SGD(learning_rate=lambda t: 0.05 if t < 40 else 0.9)), {}

    def keep(trainer, row):
        if not best or row["val_loss"] < best["loss"]:
            best.update(loss=row["val_loss"], weights={n: v.copy() for n, v in trainer.network.parameters.items()})

    stop = fo.callbacks.EarlyStopping(patience=3)
    history = trainer.fit(x, y, epochs=200, batch_size=8, validation=(x[:20], -y[:20]), callbacks=[keep, stop])
    assert len(history.rows) < 200
    assert len(history.rows) == history.best()["epoch"] + 4, "patience epochs after the best one"
    for name, view in trainer.network.parameters.items():
        np.testing.assert_array_equal(view, best["weights"][name], err_msg=name)


MONITOR_CASES = {
    "bare": ({}, {}),
    "penalty": ({"l2": 0.1}, {}),
    "metrics of training": ({}, {"metrics": ["mae", "r2"]}),
    "metrics of validation": ({"l1": 0.1}, {"metrics": ["mae", "r2"], "validation": 0.5}),
    "lbfgs": ({"optimizer": "lbfgs"}, {"batch_size": None, "validation": 0.5}),
    "levenberg_marquardt": ({"optimizer": "levenberg_marquardt", "l2": 0.1}, {"batch_size": None, "metrics": ["mae"]}),
}


@pytest.mark.parametrize("case", MONITOR_CASES)
def test_columns_that_can_be_monitored(case, tmp_path):
    """All of the history's; another one is refused before anything has happened, also to a Standardize layer."""
    options, fit = MONITOR_CASES[case]
    x, y = data()
    trainer = fo.Trainer(fo.mlp(3, [6], 1, activation="tanh", standardize=True, seed=1), "mse", **options)
    before, log = state(trainer), tmp_path / "log.csv"
    typo = [fo.callbacks.CSVLogger(log), fo.callbacks.GradientMonitor(), fo.callbacks.EarlyStopping(monitor="lost")]
    text = refuses(case, trainer.fit, x, y, callbacks=typo, match="^monitor 'lost' is not a column", **fit)
    assert_same_state(state(trainer), before, case)
    assert not log.exists()
    columns = list(trainer.fit(x, y, **fit).rows[0])
    assert text.endswith(f"there are: {', '.join(columns)}")
    trainer.fit(x, y, callbacks=[fo.callbacks.ModelCheckpoint(monitor=name) for name in columns], **fit)


class Mine(fo.callbacks.EarlyStopping):
    """Adds its column itself."""

    def on_epoch_end(self, trainer, row):
        row["mine"] = -row["loss"]
        return super().on_epoch_end(trainer, row)


def test_columns_that_callbacks_add():
    """They are there for the callbacks behind; that they are not is seen after the first epoch, and the trainer goes on."""
    x, y = data()
    trainer, plateau = trainer_of(), fo.callbacks.ReduceOnPlateau(monitor="mine", patience=1, mode="min")

    def add(trainer, row):
        row["mine"] = row["loss"]

    assert "mine" in trainer.fit(x, y, callbacks=[add, plateau])
    assert "mine" in trainer.fit(x, y, callbacks=[Mine(monitor="mine", mode="max"), plateau])
    steps = trainer.steps
    refuses("added too late", trainer.fit, x, y, callbacks=[plateau, add], match="monitor 'mine'.*: epoch, loss, learning_rate$")
    assert trainer.steps == steps
    refuses("never added", trainer.fit, x, y, callbacks=[lambda trainer, row: None, plateau], match="monitor 'mine'")
    assert trainer.steps > steps
    trainer.fit(x, y)


def test_a_fit_that_breaks_off_leaves_a_usable_trainer():
    """What only shows on the way: a batch that does not fit, an iterator at its end, a schedule below 0; the steps done stay."""
    x, y = data()
    good = (x[:20], y[:20])
    falling = fo.optimizers.SGD(learning_rate=lambda t: 0.1 if t < 2 else -0.1)
    cases = {
        "a wrong batch": (trainer_of(), [good, (x[:20], y[:19])], 1, "batch 1", 1, 0),
        "a wrong batch, accumulated": (trainer_of(accumulate=2), [good] * 3 + [(x[:20], y[:19])], 1, "batch 3", 1, 0),
        "an iterator at its end": (trainer_of(), iter([good, good]), 2, "fresh", 2, 1),
        "a negative rate": (trainer_of(falling), [good, good], 2, "step 2", 2, 1),
    }
    for what, (trainer, batches, epochs, match, steps, rows) in cases.items():
        refuses(what, trainer.fit, batches, epochs=epochs, match=match)
        assert (trainer.steps, trainer.epoch, len(trainer.history.rows)) == (steps, rows, rows), what
        trainer.load_state_dict(trainer.state_dict())
        if what != "a negative rate":
            trainer.fit(x, y, epochs=2)
            assert trainer.epoch == rows + 2, what


@pytest.fixture(params=["memory", "file"])
def snapshot(request, monkeypatch, tmp_path):
    """Where the copy of the state lies during a fit: in memory for a small network, in a file for a large one."""
    if request.param == "file":
        monkeypatch.setattr(_snapshot, "IN_MEMORY_BYTES", 0)
        monkeypatch.setattr(_snapshot, "PIECE_BYTES", 100)  # several writes, the last one short
        monkeypatch.setenv("TMPDIR", str(tmp_path))
    return request.param


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_loss_that_is_not_finite(dtype, snapshot):
    """Three good epochs, then a rate that blows everything up: the state is that after the third epoch."""
    x, y = data()
    steps = 5

    def trainer_and_rate(rate):
        net = fo.mlp(3, [6], 1, dtype=dtype, seed=1)
        return fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=rate, momentum=0.9), ema=0.9)

    trainer, good = trainer_and_rate(lambda t: 0.01 if t < 3 * steps + 2 else 1e30), trainer_and_rate(lambda t: 0.01)
    with pytest.raises(fo.NonFiniteLossError) as caught:
        trainer.fit(x, y, epochs=10, batch_size=8)
    error = caught.value
    assert error.epoch == 3
    assert 3 * steps + 2 <= error.step < 5 * steps
    assert str(error.step) in str(error)
    good.fit(x, y, epochs=3, batch_size=8)
    assert_same_state(state(trainer), state(good), "after the error")
    assert len(trainer.history.rows) == trainer.epoch == 3
    trainer.step(x, y)


def test_fits_that_fail_one_after_another(snapshot):
    """Each is put back to its own beginning, also behind a reset and behind weights that were changed by hand."""
    x, y = data()

    def trainer_and_rate(rate):
        return fo.Trainer(fo.mlp(3, [6], 1, dtype="float64", seed=1), "mse", fo.optimizers.NAdam(learning_rate=rate), ema=0.9)

    rates = [0.01]
    trainer, good = trainer_and_rate(lambda t: rates[0]), trainer_and_rate(lambda t: 0.01)
    for change in (lambda t: None, lambda t: t.reset(), lambda t: t.network.parameters["0.weight"].fill(0.25), lambda t: None):
        for each in (trainer, good):
            change(each)
            each.fit(x, y, epochs=1, batch_size=8)
        rates[0] = 1e300
        with pytest.raises(fo.NonFiniteLossError):
            trainer.fit(x, y, epochs=3, batch_size=8)
        rates[0] = 0.01
        assert_same_state(state(trainer), state(good), "after a failure")


def test_micro_batches_of_a_failed_epoch_do_not_reach_the_next_update():
    """The third of three micro-batches has no finite loss: two wait for it."""
    x, y = data()
    spoilt = y.astype(np.float32)
    spoilt[20] = 1e30
    failing, good = (fo.Trainer(fo.mlp(3, [6], 1, seed=1), "mse", accumulate=3) for _ in range(2))
    for trainer in (failing, good):
        trainer.fit(x, y, epochs=1, batch_size=8, shuffle=False)
    with pytest.raises(fo.NonFiniteLossError):
        failing.fit(x, spoilt, epochs=1, batch_size=8, shuffle=False)
    for trainer in (failing, good):
        trainer.fit(x, y, epochs=1, batch_size=8, shuffle=False)
    assert_same_state(state(failing), state(good), "an epoch after the failure")


def test_the_copy_of_a_large_state_leaves_no_file(snapshot, tmp_path):
    x, y = data()
    seen = []
    trainer_of().fit(x, y, epochs=2, callbacks=[lambda trainer, row: seen.extend(tmp_path.iterdir())])
    assert not seen, "the file has no name during the fit"
    assert not list(tmp_path.iterdir())


def test_no_room_for_the_copy_of_a_large_state(monkeypatch, tmp_path):
    """The fit is refused before its first step, with the folder and the way out."""
    monkeypatch.setattr(_snapshot, "IN_MEMORY_BYTES", 0)
    x, y = data()
    trainer = trainer_of()
    before = state(trainer)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "missing"))
    with pytest.raises(OSError, match=r"missing.*set TMPDIR"):
        trainer.fit(x, y, epochs=2)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    usage = shutil.disk_usage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=100))
        with pytest.raises(OSError, match=r"No space.*set TMPDIR"):
            trainer.fit(x, y, epochs=2)
    assert_same_state(state(trainer), before, "after the refusals")
    trainer.fit(x, y, epochs=1)


def test_a_weight_that_is_not_finite_after_the_last_step():
    """The loss of an epoch's last step says nothing about its update: the weights are looked at, wherever the bad one is."""
    x, y = data()
    for value in (np.nan, np.inf, -np.inf):
        for place in ("0.weight", "1.bias"):
            trainer = trainer_of()

            def spoil(trainer, row, place=place, value=value):
                trainer.network.parameters[place].flat[-1] = value if row["epoch"] == 1 else 0.0

            assert trainer.network._native.finite()
            spoil(trainer, {"epoch": 1})
            assert not trainer.network._native.finite(), f"{value} in {place}"
            with pytest.raises(fo.NonFiniteLossError):
                trainer.fit(x, y)


def test_huge_weights_are_finite():
    """Their sum overflows."""
    net = fo.mlp(3, [6], 1, dtype="float32")
    for view in net.parameters.values():
        view[...] = np.finfo(np.float32).max
    assert net._native.finite()


@pytest.mark.parametrize("options", [{"ema": 0.5}, {"optimizer": "schedule_free_adamw"}])
def test_weights_to_evaluate_at(options):
    """They come and go without a trace, also one context within another; nothing trains in between."""
    x, y = data()
    trainer = trainer_of(**options)
    trainer.fit(x, y, epochs=2)
    before, prediction = state(trainer), trainer.predict(x)
    with trainer.evaluation_weights() as network:
        inside = network(x)
        np.testing.assert_array_equal(trainer.predict(x), inside[:, 0], err_msg="predict opens a context of its own")
        np.testing.assert_array_equal(network(x), inside)
        refuses("a step on the average", trainer.step, x, y, match="evaluate")
        refuses("a fit on the average", trainer.fit, x, y, match="evaluate")
    np.testing.assert_array_equal(prediction, inside[:, 0])
    assert_same_state(state(trainer), before, "after the context")
    assert not np.array_equal(trainer.network(x), inside), "the training weights are others"
    trainer.step(x, y)


def test_a_step_that_is_not_finite_changes_nothing():
    x, y = data()
    trainer = trainer_of()
    trainer.step(x, y)
    before = state(trainer)
    with pytest.raises(fo.NonFiniteLossError):
        trainer.step(x * 1e200, y * 1e200)
    after = state(trainer)
    for name in before:
        if name != "counters":  # dropout's counter of forwards may have moved on
            np.testing.assert_array_equal(before[name], after[name], err_msg=name)
    assert trainer.steps == 1


def test_a_callback_that_fails_leaves_a_usable_trainer():
    x, y = data()
    trainer = trainer_of()

    def fail(trainer, row):
        raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        trainer.fit(x, y, epochs=3, callbacks=[fail])
    assert trainer.fit(x, y, epochs=1).rows[0]["epoch"] == 1


def test_save_and_load(tmp_path):
    x, y = data()
    for optimizer in (fo.optimizers.AdamW(learning_rate=fo.schedules.cosine_decay(0.01, 50)), fo.optimizers.SGD(momentum=0.9)):
        a, b = trainer_of(optimizer, ema=0.9, l2=1e-3, clip_norm=1.0), trainer_of(optimizer, ema=0.9, l2=1e-3, clip_norm=1.0)
        a.fit(x, y, epochs=2, batch_size=8)
        a.save(tmp_path / "trainer.safetensors")
        loaded = fo.Trainer.load(tmp_path / "trainer.safetensors")
        assert_same_state(state(a), state(loaded), "loaded")
        loaded.fit(x, y, epochs=3, batch_size=8)
        b.fit(x, y, epochs=5, batch_size=8)
        assert_same_state(state(loaded), state(b), "resumed")
        assert loaded.history["loss"] == b.history["loss"]
        close(loaded.predict(x), b.predict(x), 0.0, "predictions")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names here")
def test_a_trainer_is_saved_to_a_file_alone(tmp_path):
    """Anything else is left as it is: a device would be replaced."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target, what in ((pipe, "device or pipe"), (tmp_path, "folder")):
        with pytest.raises(ValueError, match=what):
            trainer_of().save(target)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert [entry.name for entry in tmp_path.iterdir()] == ["pipe"]


def test_a_checkpoint_may_be_used_for_one_network_after_the_other():
    x, y = data()
    checkpoint, kept = fo.callbacks.ModelCheckpoint(monitor="loss"), []
    for units in (4, 9):
        trainer = fo.Trainer(fo.mlp(3, [units], 1, seed=1), "mse")
        trainer.fit(x, y, epochs=3, callbacks=checkpoint)
        kept.append(checkpoint.state)
        checkpoint.restore(trainer)
    assert [state["parameters/0.weight"].shape for state in kept] == [(3, 4), (3, 9)]


@pytest.mark.parametrize("solver", ["lbfgs", "levenberg_marquardt", "newton_cg"])
def test_what_turns_rates_refuses_a_solver(solver):
    x, y = data()
    trainer = fo.Trainer(fo.mlp(3, [4], 1, activation="tanh", seed=1), "mse", solver)
    refuses("range test", fo.callbacks.LearningRateFinder().run, trainer, x, y, errors=ValueError, match="chooses its own steps")
    plateau = fo.callbacks.ReduceOnPlateau(monitor="loss")
    refuses("plateau", trainer.fit, x, y, callbacks=plateau, batch_size=None, errors=ValueError, match="chooses its own steps")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamax", "lion", "rmsprop"])
def test_the_range_test_stays_below_the_rate_of_the_smallest_loss(optimizer):
    rng = np.random.default_rng(8)
    x = rng.standard_normal((300, 4))
    trainer = fo.Trainer(fo.mlp(4, [32], 1, seed=1), "mse", optimizer)
    found = fo.callbacks.LearningRateFinder().run(trainer, x, np.sin(x[:, 0]))
    assert found.suggestion == pytest.approx(found.rates[np.argmin(found.smoothed)] / 10)
    optimizer = type(trainer.optimizer)(learning_rate=found.suggestion)
    losses = fo.Trainer(fo.mlp(4, [32], 1, seed=1), "mse", optimizer).fit(x, np.sin(x[:, 0]), epochs=10)["loss"]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("how", ["batches", "full", "stream", "joined"])
def test_weights_whose_loss_is_not_finite_are_not_kept(how):
    """The last step of an epoch, which no later one has seen, throws them too far: what is put back has a finite loss."""
    rng = np.random.default_rng(7)
    x, y = rng.standard_normal((96, 4)), rng.standard_normal((96, 2))
    size = 96 if how == "full" else 32
    last = 3 * (96 // size) - 1  # step of the third epoch
    rate = lambda step: 1e12 if step == last else 1e-2  # noqa: E731
    trainer = fo.Trainer(fo.mlp(4, [8], 2, seed=0), "mse", fo.optimizers.SGD(learning_rate=rate))
    if how == "joined":
        trainer.fit(x, y, epochs=1, batch_size=size)  # the pace is known then
    first = trainer.epoch
    given = (lambda: fo.data.batches(x, y, batch_size=size),) if how == "stream" else (x, y)
    with pytest.raises(fo.NonFiniteLossError, match=r"the loss is (inf|nan) after step .*start of epoch 2"):
        trainer.fit(*given, epochs=5 - first, batch_size=size)
    assert (trainer.epoch, trainer.steps, len(trainer.history.rows)) == (2, 2 * 96 // size, 2)
    assert np.isfinite(trainer.evaluate(x, y)["loss"])


@pytest.mark.parametrize("rate", [0.1, 0.3, 3.0])
@pytest.mark.parametrize("seed", range(4))
def test_exponentials_overflow_under_modest_weights(seed, rate):
    """An error or not: the weights that stay have a finite loss."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal((64, 4)), rng.poisson(3, 64)
    trainer = fo.Trainer(fo.mlp(4, [32], 1, seed=seed), "poisson", fo.optimizers.SGD(learning_rate=rate))
    with contextlib.suppress(fo.NonFiniteLossError):
        trainer.fit(x, y, epochs=3, batch_size=None)
    assert np.isfinite(trainer.evaluate(x, y)["loss"])


def test_rows_without_weight_are_no_explosion():
    """Also where all rows that are looked at have none."""
    rng = np.random.default_rng(8)
    x, y = rng.standard_normal((3000, 4)), rng.poisson(3, 3000)
    weight = np.repeat([0.0, 1.0], [2000, 1000])
    trainer = fo.Trainer(fo.mlp(4, [8], 1, seed=0), "poisson")
    assert len(trainer.fit(x, y, epochs=2, sample_weight=weight).rows) == 2


def test_a_look_at_the_last_batch_changes_nothing():
    """Statistics, masks and bits are those of a training without looks."""
    rng = np.random.default_rng(9)
    x, y = rng.standard_normal((90, 4)), rng.poisson(3, 90)

    looked, again = (
        fo.Trainer(fo.mlp(4, [16], 1, batch_norm=True, dropout=0.2, seed=3), "poisson", fo.optimizers.Adam(learning_rate=1e-2))
        for _ in range(2)
    )
    looked.fit(x, y, epochs=6, batch_size=20)
    assert looked.network.training_step == looked.steps == 30
    for epoch in range(6):
        for rows, target in fo.data.batches(x, y, batch_size=20, seed=3, epoch=epoch):
            again.step(rows, target)
    expected = again.state_dict()
    for name, value in looked.state_dict().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


def test_weights_that_were_no_numbers_once():
    """A fit that fails for them does not blind the next one."""
    rng = np.random.default_rng(10)
    x, y = rng.standard_normal((60, 3)), rng.standard_normal(60)
    trainer = fo.Trainer(fo.mlp(3, [4], 1, seed=0), "mse", fo.optimizers.SGD(learning_rate=lambda t: 1e30 if t == 5 else 1e-2))
    trainer.network.parameters["0.weight"][0, 0] = np.nan
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(x, y)
    trainer.network.initialize(1)
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(x, y, epochs=5)
    assert np.isfinite(trainer.evaluate(x, y)["loss"])
