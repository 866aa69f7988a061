"""Trainer.fit: what it reads, in which order, what it records, and what happens when it is stopped."""

import io
import pickle
import re
import sys
import threading
import time
import warnings
from itertools import chain

import fastopt as fo
import numpy as np
import pytest
from helpers import close, refuses
from native import core


def data(rows=50, seed=131):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 100, (rows, 4)).astype(np.float64)
    return x, (x[:, 0] > x[:, 1]).astype(np.int64) + (x[:, 2] > 80)


def trainer_of(dtype="float64", loss="softmax_cross_entropy", outputs=3, seed=1, learning_rate=1e-3, **options):
    net = fo.mlp(4, [8], outputs, activation="tanh", dtype=dtype, seed=seed, standardize=True)
    return fo.Trainer(net, loss, fo.optimizers.Adam(learning_rate=learning_rate), **options)


def weights(trainer):
    return np.concatenate([view.ravel() for view in trainer.network.parameters.values()])


def test_fit_is_steps_over_the_shuffled_batches():
    """The order is that of fo.data.batches; the last batch is short; the epoch's loss is the mean over the rows."""
    x, y = data()
    a, b = trainer_of(), trainer_of()
    history = a.fit(x, y, epochs=3, batch_size=16)
    b.network.adapt(x)
    for epoch in range(3):
        values = [(b.step(xb, yb), len(xb)) for xb, yb in fo.data.batches(x, y, batch_size=16, seed=b.seed, epoch=epoch)]
        assert [n for _, n in values] == [16, 16, 16, 2], "the last short batch is used"
        close(history["loss"][epoch], sum(v * n for v, n in values) / 50, 1e-12, f"loss of epoch {epoch}")
    np.testing.assert_array_equal(weights(a), weights(b), err_msg="fit and the same steps by hand give other bits")
    assert (a.steps, a.epoch, len(history.rows)) == (12, 3, 3)
    assert history["epoch"] == [0, 1, 2]
    assert history["learning_rate"] == [1e-3] * 3
    assert set(history) == {"epoch", "loss", "learning_rate"}


def seen_by(**fit_options):
    """Rows that a loss written in Python is shown, epoch by epoch."""
    x, seen = np.arange(20.0).reshape(-1, 1), []

    def loss(prediction, target):
        seen.append(target.ravel().tolist())
        return 0.0, np.zeros_like(prediction)

    trainer = fo.Trainer(fo.Network(1, [fo.layers.Dense(1)], dtype="float64", seed=3), loss, "sgd")
    trainer.fit(x, x.copy(), epochs=2, batch_size=6, **fit_options)
    half = len(seen) // 2
    return [list(chain(*part)) for part in (seen[:half], seen[half:])]


def test_shuffling():
    first, second = seen_by()
    assert sorted(first) == sorted(second) == list(range(20)), "each epoch shows each row once"
    assert first != second, "each epoch has an order of its own"
    assert seen_by() == [first, second], "the order is a function of seed and epoch"
    assert seen_by(shuffle=False) == [list(range(20))] * 2


def test_validation_fraction():
    x, y = data(200)
    y = (np.arange(200) % 10 == 0).astype(int)  # a tenth of the rows in class 1
    targets = []

    def spy(target, prediction):
        targets.append(np.array(target))
        assert len(prediction) == len(target)
        return 0.0

    history = trainer_of(outputs=2).fit(x, y, epochs=2, batch_size=32, validation=0.2, metrics=[spy, "accuracy"])
    assert [np.bincount(t).tolist() for t in targets] == [[36, 4], [36, 4]], "the held-out rows have the classes' shares"
    np.testing.assert_array_equal(targets[0], targets[1], err_msg="the same rows are held out in every epoch")
    assert {"val_loss", "val_spy", "val_accuracy"} <= set(history)


def test_validation_rows_are_not_trained_on():
    x, shown, validated = np.arange(40.0).reshape(-1, 1), [], set()

    def loss(prediction, target):
        shown.append(np.ravel(target).tolist())
        return 0.0, np.zeros_like(prediction)

    def spy(target, prediction):
        validated.update(np.ravel(target).tolist())
        return 0.0

    trainer = fo.Trainer(fo.Network(1, [fo.layers.Dense(1)], dtype="float64"), loss, "sgd")
    trainer.fit(x, x.copy(), epochs=1, batch_size=5, validation=0.25, metrics=[spy])
    trained = set(chain(*shown[:6]))  # six batches of five; what follows is the validation
    assert len(validated) == 10
    assert trained | validated == set(range(40)), "a row was lost"
    assert not trained & validated, f"rows {sorted(trained & validated)} were trained on and held out"


def test_validation_arrays_and_metrics():
    x, y = data()
    xv, yv = data(33, seed=132)
    trainer = trainer_of()
    history = trainer.fit(x, y, epochs=3, validation=(xv, yv), metrics=["accuracy"])
    result = trainer.evaluate(xv, yv, metrics=["accuracy"])
    assert history["val_loss"][-1] == result["loss"], "evaluate sees what the last epoch saw"
    assert history["val_accuracy"][-1] == result["accuracy"] == np.mean(trainer.predict(xv) == yv)
    outputs = trainer.network(xv)
    close(result["loss"], fo.losses.SoftmaxCrossEntropy()(outputs, yv), 1e-12, "loss of the outputs")
    probabilities = trainer.predict_proba(xv)
    close(probabilities.sum(axis=1), np.ones(33), 1e-12, "probabilities sum to 1")
    np.testing.assert_array_equal(probabilities.argmax(axis=1), trainer.predict(xv))


def test_metrics_without_validation_are_those_of_training():
    x, y = data()
    trainer = trainer_of()
    history = trainer.fit(x, y, epochs=2, metrics=["accuracy"])
    assert history["accuracy"][-1] == np.mean(trainer.predict(x) == y)
    regression = trainer_of(loss="mse", outputs=1)
    history = regression.fit(x, x[:, 0] / 50, epochs=40, batch_size=10, metrics=["mse", "r2"])
    p, target = regression.predict(x), x[:, 0] / 50
    assert p.shape == (50,)
    close(history["mse"][-1], np.square(p - target).mean(), 1e-12, "mse")
    close(history["r2"][-1], 1 - np.square(p - target).sum() / np.square(target - target.mean()).sum(), 1e-12, "r2")


@pytest.mark.parametrize("write", ["parameters", "load_state_dict"])
def test_weights_written_into_a_schedule_free_run_need_a_reset(write):
    rng = np.random.default_rng(126)
    x, y = rng.standard_normal((40, 4)), rng.standard_normal((40, 1))
    start = fo.mlp(4, [5], 1, seed=8).state_dict()

    def written():
        trainer = fo.Trainer(fo.mlp(4, [5], 1, seed=7), "mse", fo.optimizers.ScheduleFreeAdamW(warmup_steps=3), seed=1)
        trainer.fit(x, y, epochs=2)
        if write == "parameters":
            for name, view in trainer.network.parameters.items():
                view[...] = start[name]
        else:
            trainer.network.load_state_dict(start)
        return trainer

    def distance(trainer):
        return max(float(np.abs(view - start[name]).max()) for name, view in trainer.network.parameters.items())

    kept, reset = written(), written()
    kept.step(x, y)
    assert distance(kept) > 0.1, "the rule goes on from what it remembers"
    reset.reset()
    reset.step(x, y)
    assert distance(reset) < 0.01
    fresh = fo.Trainer(fo.mlp(4, [5], 1, seed=8), "mse", fo.optimizers.ScheduleFreeAdamW(warmup_steps=3), seed=1)
    fresh.step(x, y)
    for trainer in (reset, fresh):
        trainer.fit(x, y, epochs=3, batch_size=8)
    np.testing.assert_array_equal(reset.predict(x), fresh.predict(x))


def test_going_on_is_the_same_as_never_stopping():
    x, y = data()
    a, b = trainer_of("float32", ema=0.9), trainer_of("float32", ema=0.9)
    a.fit(x, y, epochs=5, batch_size=8)
    b.fit(x, y, epochs=2, batch_size=8)
    b.fit(x, y, epochs=3, batch_size=8)
    np.testing.assert_array_equal(weights(a), weights(b))
    assert a.history["loss"] == b.history["loss"]
    assert b.epoch == 5


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_inputs_of_any_kind_give_the_same_bits(dtype, tmp_path):
    x, y = data()
    reference = trainer_of(dtype)
    reference.fit(x.astype(dtype), y, epochs=2, batch_size=8)
    np.save(tmp_path / "x.npy", x.astype(np.float32))
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    wide = np.zeros((50, 9))
    wide[:, 1:9:2] = x
    padded = np.zeros((50, 7), np.float32)
    padded[:, :4] = x
    read_only = x.copy()
    read_only.flags.writeable = False
    kinds = {
        "float32": x.astype(np.float32), "float64": x, "Fortran order": np.asfortranarray(x), "strided": wide[:, 1:9:2],
        "rows apart": padded[:, :4], "reversed": x[::-1].copy()[::-1], "int64": x.astype(np.int64), "uint8": x.astype(np.uint8),
        "int16": x.astype(np.int16), "big-endian": x.astype(">f8"), "list": x.tolist(), "read-only": read_only, "memory map": mapped,
        "float16": x.astype(np.float16),
    }  # fmt: skip
    for kind, given in kinds.items():
        trainer = trainer_of(dtype)
        trainer.fit(given, y, epochs=2, batch_size=8)
        np.testing.assert_array_equal(weights(trainer), weights(reference), err_msg=f"X as {kind}")
    for kind, labels in {"int8": y.astype(np.int8), "float": y.astype(float), "list": y.tolist(), "column": y[:, None]}.items():
        trainer = trainer_of(dtype)
        trainer.fit(x, labels, epochs=2, batch_size=8)
        np.testing.assert_array_equal(weights(trainer), weights(reference), err_msg=f"y as {kind}")


def test_statistics_do_not_depend_on_the_layout():
    """Float64 stays float64 until its statistics are taken, whatever the order of its elements and bytes."""
    x, y = np.random.default_rng(2).normal(1e6, 1.0, (300, 4)), np.arange(300) % 3

    def trained(given):
        net = fo.Network(4, [fo.layers.Standardize(), fo.layers.Dense(3)], seed=1)
        fo.Trainer(net, "cross_entropy").fit(given, y, epochs=1)
        return net

    reference = trained(x)
    rounded = x.astype(np.float32)
    assert not np.array_equal(trained(rounded).buffers["0.variance"], reference.buffers["0.variance"]), "the data tells the difference"
    for kind, given in {
        "Fortran order": np.asfortranarray(x),
        "big-endian": x.astype(">f8"),
        "every second": np.repeat(x, 2, 1)[:, ::2],
        "unaligned": np.frombuffer(b"x" + x.tobytes(), np.uint8)[1:].view(np.float64).reshape(x.shape),
    }.items():
        for name, value in reference.buffers.items():
            np.testing.assert_array_equal(trained(given).buffers[name], value, err_msg=f"{name}, {kind}")


def test_columns_in_small_units_are_warned_of():
    """Where eps is not small beside the variance; a constant column is no such case."""
    x, y = np.random.default_rng(3).normal(size=(200, 4)), np.arange(200) % 3
    x[:, 1] *= 1e-5
    x[:, 2] = 7.0
    net = fo.mlp(4, [], 3, standardize=True)
    with pytest.warns(UserWarning, match=r"column 1 has a standard deviation of 1e-05.* instead of 1; give") as caught:
        fo.Trainer(net, "cross_entropy").fit(x, y)
    assert caught[0].filename == __file__
    trainer = fo.Trainer(fo.mlp(4, [], 3, standardize=True), "cross_entropy")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        refuses("as an error", trainer.fit, x, y, errors=UserWarning)
    assert trainer.network.buffers["0.count"] == 0, "what failed has left no statistics"
    with pytest.warns(UserWarning, match="column 0 and 2 more"):
        fo.mlp(4, [], 3, standardize=True).adapt(1e-5 * np.delete(x, 1, 1)[:, [0, 0, 1, 2]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fo.Network(4, [fo.layers.Standardize(eps=1e-14), fo.layers.Dense(3)]).adapt(x)
        fo.mlp(4, [], 3, standardize=True).adapt(np.delete(x, 1, 1)[:, [0, 0, 1, 2]])


def test_columns_that_a_dtype_does_not_tell_apart_are_warned_of():
    """Rows are rounded to the dtype of the network before the mean is subtracted."""
    x = np.random.default_rng(3).normal(size=(200, 2)) + np.array([1e5, 1.7e9])
    with pytest.warns(UserWarning, match=r"column 1 has mean 1.7e\+09 and standard deviation .* float32 .* only to 1.3e\+02; subtract"):
        fo.mlp(2, [], 1, standardize=True).adapt(x)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fo.mlp(2, [], 1, standardize=True, dtype="float64").adapt(x)


def test_statistics_of_a_fit_that_does_no_step_are_forgotten():
    x, y = np.random.default_rng(4).normal(size=(60, 4)), np.arange(60) % 3
    trainer = fo.Trainer(fo.mlp(4, [], 3, standardize=True, seed=0), "cross_entropy")

    class Fails(fo.callbacks.Callback):
        def on_fit_begin(self, trainer):
            raise OSError("no log")

    with pytest.raises(OSError, match="no log"):
        trainer.fit(1000 * x + 5000, y, callbacks=[Fails()])
    assert trainer.network.buffers["0.count"] == 0
    undisturbed = fo.Trainer(fo.mlp(4, [], 3, standardize=True, seed=0), "cross_entropy")
    assert trainer.fit(x, y, epochs=3)["loss"] == undisturbed.fit(x, y, epochs=3)["loss"]


def test_masked_batches_are_refused():
    x, y = np.ones((6, 4), np.float32), np.zeros(6, np.int32)
    trainer = fo.Trainer(fo.mlp(4, [], 3, seed=0), "cross_entropy")
    for given in ((np.ma.masked_array(x, x > 0), y), (x, np.ma.masked_array(y, y == 0))):
        refuses("a step", trainer.step, *given, errors=TypeError, match="mask would be lost")
        refuses("batches", fo.data.batches, *given, errors=TypeError, match="mask would be lost")
    assert trainer.steps == 0


def test_pandas_frames():
    pandas = pytest.importorskip("pandas")
    x, y = data()
    reference, trainer, mixed = trainer_of(), trainer_of(), trainer_of()
    reference.fit(x, y, epochs=2)
    frame = pandas.DataFrame(x, columns=list("abcd"), index=np.arange(50)[::-1])
    trainer.fit(frame, pandas.Series(y), epochs=2)
    np.testing.assert_array_equal(weights(trainer), weights(reference))
    mixed.fit(frame.astype({"a": "int32", "b": "float32"}), pandas.Series(y), epochs=2)
    np.testing.assert_array_equal(weights(mixed), weights(reference))
    np.testing.assert_array_equal(trainer.predict(frame), reference.predict(x))


def test_frames_with_other_columns_are_refused(tmp_path):
    """A trainer remembers the columns of the frame it was fitted on; arrays and frames without names have none."""
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("safetensors")
    x, y = data()
    frame = pandas.DataFrame(x, columns=list("abcd"))
    turned = frame[list("dcba")]
    trainer = trainer_of()
    refuses("validation", trainer.fit, frame, y, validation=(turned, y), match="validation X.*column 0 is 'd', not 'a'")
    assert trainer.columns is None
    trainer.fit(frame, y, epochs=1)
    trainer.save(tmp_path / "t.safetensors")
    for each in (trainer, pickle.loads(pickle.dumps(trainer)), fo.Trainer.load(tmp_path / "t.safetensors")):
        assert each.columns == list("abcd")
        for what, call in {"fit": each.fit, "evaluate": each.evaluate}.items():
            refuses(what, call, turned, y, errors=ValueError, match=r"column 0 is 'd', not 'a'; select \[\['a', 'b', 'c', 'd'\]\]")
        refuses("step", each.step, turned, y, errors=ValueError, match="column 0")
        refuses("batches", each.fit, [(turned, y)], errors=ValueError, match="batch 0 has other columns")
        refuses("range test", fo.callbacks.LearningRateFinder().run, each, turned, y, errors=ValueError, match="column 0")
        refuses("predict", each.predict, frame.rename(columns={"c": "e"}), errors=ValueError, match="column 2 is 'e', not 'c'")
        np.testing.assert_array_equal(each.predict(turned[each.columns]), each.predict(x))
        np.testing.assert_array_equal(each.predict(pandas.DataFrame(x)), each.predict(x))
    first = fo.Trainer(fo.mlp(4, [8], trainer.network.outputs), trainer.loss)
    refuses("first batches", first.fit, [(frame, y), (turned, y)], errors=ValueError, match="batch 1 has other columns")
    assert first.columns is None
    first.fit([(frame, y)])
    assert first.columns == list("abcd")
    trainer.reset()
    failing = fo.Trainer(fo.mlp(4, [3], 3), "cross_entropy", fo.optimizers.SGD(learning_rate=1e30))
    with pytest.raises(fo.NonFiniteLossError):
        failing.fit(1e20 * frame, y, epochs=3, batch_size=10)
    assert failing.columns is None, "nothing was learned of these"
    trainer.fit(turned, y, epochs=1)
    assert trainer.columns == list("dcba")
    with pytest.raises(ValueError, match=r"is 'x', not 'd'; its to_numpy"):
        trainer.predict(turned.set_axis(list("xcba"), axis=1))


def test_weights_of_samples_and_classes():
    x, y = data()
    a, b, c = trainer_of(), trainer_of(), trainer_of()
    a.fit(x, y, epochs=2, class_weight={0: 1.0, 1: 2.0, 2: 0.5})
    b.fit(x, y, epochs=2, sample_weight=np.array([1.0, 2.0, 0.5])[y])
    np.testing.assert_array_equal(weights(a), weights(b), err_msg="class weights are sample weights")
    c.fit(x, y, epochs=2, class_weight="balanced")
    balanced = 50 / (3 * np.bincount(y))
    b = trainer_of()
    b.fit(x, y, epochs=2, sample_weight=balanced[y])
    np.testing.assert_array_equal(weights(c), weights(b), err_msg="balanced")


@pytest.mark.parametrize("scale", [1e-37, 1e-30, 1e30, 1e37])
def test_the_scale_of_weights_is_free(scale):
    """In float32 too, where products of weights and losses would leave its range."""
    x, y = data()
    plain, scaled = trainer_of("float32"), trainer_of("float32")
    for trainer, factor in ((plain, 1.0), (scaled, scale)):
        trainer.fit(1e3 * x, y, epochs=2, sample_weight=np.full(len(x), factor))
    close(scaled.history["loss"], plain.history["loss"], 1e-5, "losses of epochs")
    close(weights(scaled), weights(plain), 1e-3, "weights", floor=0.1)


def test_a_loss_written_in_python():
    x, _ = data()
    target = x[:, :1] / 100

    def squares(prediction, target):
        return float(np.square(prediction - target).mean()), 2 * (prediction - target) / prediction.size

    a, b = trainer_of(loss=squares, outputs=1), trainer_of(loss="mse", outputs=1)
    assert a.fit(x, target, epochs=3)["loss"] == pytest.approx(b.fit(x, target, epochs=3)["loss"], rel=1e-10)
    close(weights(a), weights(b), 1e-10, "weights")


def test_batches_of_an_iterable():
    x, y = data()
    a, b = trainer_of(), trainer_of()
    for trainer in (a, b):
        trainer.network.adapt(x)
    a.fit(lambda: ((x[i : i + 10], y[i : i + 10]) for i in range(0, 50, 10)), epochs=2)
    b.fit(x, y, epochs=2, batch_size=10, shuffle=False)
    np.testing.assert_array_equal(weights(a), weights(b))


def test_schedules_reach_every_step():
    x, y = data()
    schedule = fo.schedules.warmup(fo.schedules.cosine_decay(0.05, 30), 5)
    a, b = trainer_of(learning_rate=schedule), trainer_of(learning_rate=lambda t: schedule(t))
    c = trainer_of(learning_rate=schedule)
    a.fit(x, y, epochs=5, batch_size=10)
    b.fit(x, y, epochs=5, batch_size=10)
    c.network.adapt(x)
    for epoch in range(5):
        for xb, yb in fo.data.batches(x, y, batch_size=10, seed=c.seed, epoch=epoch):
            assert c.learning_rate == schedule(c.steps)
            c.step(xb, yb)
    np.testing.assert_array_equal(weights(a), weights(b), err_msg="a schedule and the same as a plain function")
    np.testing.assert_array_equal(weights(a), weights(c), err_msg="fit and steps by hand")
    constant = trainer_of(learning_rate=0.05)
    constant.fit(x, y, epochs=5, batch_size=10)
    assert not np.array_equal(weights(a), weights(constant))


@pytest.mark.parametrize("name", ["perceptron", "hinge", "squared_hinge"])
def test_linear_models_without_hidden_layers(name):
    rng = np.random.default_rng(133)
    x = rng.standard_normal((200, 3))
    margin = x @ [1.0, -2.0, 0.5] + 0.3
    x, y = x[abs(margin) > 0.2], np.where(margin[abs(margin) > 0.2] > 0, 1.0, -1.0)
    net = fo.Network(3, [fo.layers.Dense(1)], dtype="float64", seed=6)
    trainer = fo.Trainer(net, name, fo.optimizers.SGD(learning_rate=0.1))
    trainer.fit(x, y, epochs=200, batch_size=10)
    np.testing.assert_array_equal(trainer.predict(x), (y > 0).astype(int), err_msg=f"{name}: separable data is separated")


def test_learns_real_digits():
    datasets = pytest.importorskip("sklearn.datasets")
    x, y = datasets.load_digits(return_X_y=True)
    train, _, test = fo.data.split(x / 16.0, y, validation=0.0, test=0.2, seed=0)
    trainer = fo.Trainer(fo.mlp(64, [128, 64], 10, seed=0), "cross_entropy", fo.optimizers.Adam(learning_rate=1e-3))
    trainer.fit(*train, epochs=40, batch_size=32)
    assert trainer.evaluate(*test, metrics=["accuracy"])["accuracy"] >= 0.97


def test_progress_bar(capsys):
    x, y = data()
    trainer_of().fit(x, y, epochs=2, progress=False)
    assert capsys.readouterr() == ("", ""), "silent when not asked for"
    trainer_of().fit(x, y, epochs=2, validation=(x, y), metrics=["accuracy"], progress=True)
    shown = capsys.readouterr().err
    for word in ("epoch", "2/2", "loss", "val_loss", "val_accuracy", "samples/s"):
        assert word in shown, f"{word!r} is not in the progress bar: {shown!r}"


def test_progress_bar_shows_figures_of_the_epoch_or_the_one_before(capsys):
    x, y = data()
    history = trainer_of().fit(x, y, epochs=100, progress=True, callbacks=[lambda *_: time.sleep(0.003)])
    losses = [f"{loss:.4g}" for loss in history["loss"]]
    drawn = re.findall(r"epoch (\d+)/100.*?, loss (\S+?)\]", capsys.readouterr().err)
    assert len(drawn) >= 3, "0.3 s are drawn several times"
    for number, loss in drawn:
        assert loss in losses[max(0, int(number) - 2) : int(number)], f"epoch {number} is shown with the loss {loss}"


@pytest.mark.parametrize("stream", ["no isatty", "closed", "none"])
def test_no_bar_where_standard_error_is_no_terminal(stream, monkeypatch):
    class ToLog:
        def write(self, text):
            raise AssertionError("nothing was asked for")

    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", {"no isatty": ToLog(), "closed": closed, "none": None}[stream])
    assert trainer_of().fit(*data(), epochs=2)


@pytest.mark.parametrize("last", [0, 40, 10**6])
def test_a_bar_that_nobody_reads_any_more_ends_nothing(last, monkeypatch):
    """However many characters are read before."""

    class Pipe(io.StringIO):
        def write(self, text):
            if self.tell() + len(text) > last:
                raise BrokenPipeError(32, "Broken pipe")
            return super().write(text)

    ended = []

    class Ends(fo.callbacks.Callback):
        def on_fit_end(self, trainer):
            ended.append(trainer.epoch)

    monkeypatch.setattr(sys, "stderr", Pipe())
    trainer_of().fit(*data(), epochs=40, progress=True, callbacks=[lambda *_: time.sleep(0.003), Ends()])
    assert ended == [40]


def test_a_bar_whose_drawing_fails_keeps_no_other_thread_from_drawing(monkeypatch):
    class Full(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    trainer_of().fit(*data(), epochs=2, progress=True)
    beside = threading.Thread(target=lambda: trainer_of().fit(*data(), epochs=2, progress=True), daemon=True)
    beside.start()
    beside.join(60)
    assert not beside.is_alive()


def test_an_interrupted_bar_keeps_no_other_thread_from_drawing(monkeypatch):
    class Interrupts(io.StringIO):
        def write(self, text):
            if threading.current_thread() is threading.main_thread() and "%" in text:
                raise KeyboardInterrupt
            return super().write(text)

    monkeypatch.setattr(sys, "stderr", Interrupts())
    with pytest.raises(KeyboardInterrupt):
        trainer_of().fit(*data(), epochs=2, progress=True)
    beside = threading.Thread(target=lambda: trainer_of().fit(*data(), epochs=2, progress=True), daemon=True)
    beside.start()
    beside.join(60)
    assert not beside.is_alive()


def test_predictions_follow_the_link():
    rng = np.random.default_rng(134)
    x = rng.standard_normal((20, 3))

    def outputs_and_trainer(loss, outputs):
        net = fo.mlp(3, [4], outputs, dtype="float64", seed=7)
        return net(x), fo.Trainer(net, loss)

    raw, trainer = outputs_and_trainer("bce", 1)
    np.testing.assert_array_equal(trainer.predict(x), (raw[:, 0] > 0).astype(int))
    close(trainer.predict_proba(x), 1 / (1 + np.exp(-raw[:, 0])), 1e-12, "probability of class 1")
    raw, trainer = outputs_and_trainer("poisson", 1)
    close(trainer.predict(x), np.exp(raw[:, 0]), 1e-12, "rate")
    refuses("a regression has no probabilities", trainer.predict_proba, x, errors=ValueError, match="poisson")
    raw, trainer = outputs_and_trainer("gaussian_nll", 4)
    np.testing.assert_array_equal(trainer.predict(x), raw[:, ::2])
    raw, trainer = outputs_and_trainer("perceptron", 5)
    np.testing.assert_array_equal(trainer.predict(x), raw.argmax(axis=1))
    raw, trainer = outputs_and_trainer("hinge", 1)
    np.testing.assert_array_equal(trainer.predict(x), (raw[:, 0] > 0).astype(int))
    raw, trainer = outputs_and_trainer("mse", 2)
    np.testing.assert_array_equal(trainer.predict(x), raw)


def test_permutation_is_the_order_of_the_epoch():
    x = np.arange(9.0).reshape(-1, 1)
    shown = [int(v) for xb, _ in fo.data.batches(x, x, batch_size=4, seed=5, epoch=3) for v in xb[:, 0]]
    assert shown == core.permutation(9, 5, 3).tolist()


def test_orders_of_several_epochs(cut_for_threads):
    """Each is that of its epoch, whichever thread draws it."""
    for n, dtype in ((0, np.int32), (1, np.int32), (700, np.int32), (70_000, np.int32)):
        for threads in (1, 3):
            cut_for_threads(threads)
            orders = core.permutations(n, 5, 2, 7)
            assert orders.shape == (7, n)
            assert orders.dtype == dtype
            for epoch, order in enumerate(orders, 2):
                np.testing.assert_array_equal(order, core.permutation(n, 5, epoch))


def test_what_a_run_of_steps_refuses():
    """Rows outside the table, and labels outside the outputs in the rows that it would read; nothing is changed then."""
    x, y = np.ones((10, 3), np.float32), np.zeros(10, np.int32)
    y[7] = 2
    trainer = fo.Trainer(fo.mlp(3, [4], 2, seed=1), "cross_entropy")
    rates, losses, weights = np.full(2, 0.1), np.zeros(2), np.zeros(2)
    before = trainer.state_dict()
    for dtype in (np.int32, np.int64):
        for order in ([0, 10, 1, 2], [0, 1, 2, -1], [0, 1, 2, 7], [*range(10), 7]):
            steps = (x, y, None, np.array(order, dtype), -(-len(order) // 2), rates, losses, weights)
            refuses(f"{order}", trainer._native.run_steps, *steps, match=r"0\.\.")
    refuses("float rows", trainer._native.run_steps, x, y, None, np.zeros(4), 2, rates, losses, weights)
    whole = (x, y, None, np.arange(4), 2, rates, losses, weights)
    for first, stop in ((-1, 1), (2, 1), (0, 3), (3, -1)):
        refuses(f"steps {first} to {stop}", trainer._native.run_steps, *whole, first, stop, match=r"0\.\.2")
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)

    def run(dtype, *pieces):
        trainer = fo.Trainer(fo.mlp(3, [4], 2, seed=1), "cross_entropy")
        order = np.array([9, 8, 6, 0, 3], dtype)
        rates, losses, weights = np.array([0.1, 0.2, 0.3]), np.zeros(3), np.zeros(3)
        done = [trainer._native.run_steps(x, y, None, order, 2, rates, losses, weights, *piece) for piece in pieces]
        assert sum(done) == 3
        return np.concatenate([losses, weights, *(view.ravel() for view in trainer.network.parameters.values())])

    whole = run(np.int32, ())
    np.testing.assert_array_equal(run(np.int64, ()), whole)
    np.testing.assert_array_equal(run(np.int32, (0, 1), (1, 1), (1, 3)), whole)
    np.testing.assert_array_equal(run(np.int64, (0, 2), (2,)), whole)
    as_many_as_there_are = np.array([*range(7), 9, 9, 8, 8, 0], np.int32)  # but never the row of the wrong label
    assert trainer._native.run_steps(x, y, None, as_many_as_there_are, 6, rates, losses, weights) == 2


@pytest.mark.parametrize("threads", [1, 2])
def test_numbers_too_small_to_be_normal_are_0_while_steps_run(threads):
    """Moments of units that no longer fire end as 0, not as the smallest numbers there are; outside of the steps these are kept."""
    fo.set_num_threads(threads)
    tiny = np.finfo(np.float32).tiny
    rng = np.random.default_rng(132)
    x = rng.standard_normal((256, 64)).astype(np.float32)
    trainer = fo.Trainer(fo.mlp(64, [256], 1, seed=1), "mse", fo.optimizers.Adam(beta2=0.9))
    trainer.fit(x, x[:, 0], epochs=1, batch_size=64, progress=False)
    trainer.network.parameters["0.bias"][:100] = -1e6  # no gradient from here on
    trainer.fit(x, x[:, 0], epochs=300, batch_size=64, progress=False)  # 0.9^1200 is 1e-55
    for name, state in trainer.state_arrays().items():
        small = (state != 0) & (abs(state) < tiny)
        assert not small.any(), f"{name}: {small.sum()} of {small.size}"
    smallest = np.full((300, 300), 1e-40, np.float32)
    out = np.zeros_like(smallest)
    core.matmul(smallest, np.eye(300, dtype=np.float32), out, False, False)
    np.testing.assert_array_equal(out, smallest, err_msg="a kernel after training")
    assert (smallest * np.float32(1) == smallest).all(), "NumPy after training"
