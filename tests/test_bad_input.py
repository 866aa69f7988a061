"""Bad input raises TypeError or ValueError, names the argument, shows both shapes or the allowed values, and changes nothing."""

import decimal

import fastopt as fo
import numpy as np
import pytest
from fastopt import _evaluate, _validate
from helpers import refuses
from native import core

X, Y = np.ones((6, 4)), np.array([0, 1, 2, 0, 1, 2])


@pytest.fixture
def trainer():
    return fo.Trainer(fo.mlp(4, [5], 3, seed=1), "cross_entropy")


def state(trainer):
    return {name: np.array(value) for name, value in trainer.state_dict().items()}


def test_what_the_quick_look_at_arrays_takes():
    """Everything else is looked at in Python, and converted or refused there."""
    rows = np.arange(12.0).reshape(4, 3)
    big = rows.nbytes
    for dtype in (np.float32, np.float64, np.uint8, np.int16):
        assert core.ready_rows(rows.astype(dtype), 3, big, True)
    shifted = np.frombuffer(b"\0" * (big + 1), np.uint8, offset=1).view(np.float64).reshape(4, 3)
    others = [
        rows.astype(">f8"), rows.astype(np.int32), rows.astype(np.float16), rows.astype(bool), np.asfortranarray(rows), rows[:, :2],
        rows[:0], rows[::2], shifted, rows[0], rows[None], rows.tolist(), rows.view(np.recarray), None,
    ]  # fmt: skip
    assert not any(core.ready_rows(x, 3, big, True) for x in others)
    assert not core.ready_rows(rows, 4, big, True)
    assert not core.ready_rows(rows, 3, big - 1, True)
    for value in (np.nan, np.inf, -np.inf):
        for dtype in (np.float32, np.float64):
            bad = rows.astype(dtype)
            bad[3, 2] = value
            assert not core.ready_rows(bad, 3, big, True)
            assert core.ready_rows(bad, 3, big, False)
    for dtype in (np.int32, np.int64):
        exact = core.class_indices(np.array([0, 2, 1], dtype), 3)
        assert exact.dtype == np.int32
        assert exact.tolist() == [0, 2, 1]
        wrong = [np.array(y, dtype) for y in ([0, 3], [-1, 0], [[0], [1]], [])]
        wrong += [np.arange(6, dtype=dtype)[::3], np.zeros(2, np.dtype(dtype).newbyteorder())]
        assert all(core.class_indices(y, 3) is None for y in wrong)
    assert all(core.class_indices(y, 3) is None for y in (np.array([0, 2**32]), np.zeros(2), np.zeros(2, np.uint8), [0, 1], 0, None))


def nan_at(row):
    x = X.copy()
    x[row, 1] = np.nan
    return x


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_a_value_that_is_not_finite_is_found_anywhere(trainer, monkeypatch, order, dtype, value):
    """In any block, whatever the dtype and the strides; the largest finite values, whose sum is not finite, are let through."""
    for name in ("BLOCK_BYTES", "NATIVE_BLOCK_BYTES"):
        monkeypatch.setattr(_validate, name, 100)
    _validate.check_finite(np.full((50, 4), np.finfo(dtype).max, dtype=dtype, order=order), "X")
    x = np.full((50, 4), min(np.finfo(dtype).max, np.finfo(np.float32).max), dtype=dtype, order=order)
    _validate.check_finite(x, "X", np.dtype(np.float32))
    for row, column in ((0, 0), (17, 2), (49, 3)):
        bad = x.copy(order="K")
        bad[row, column] = value
        text = rf"X must be finite; got {value} at row {row}, column {column}$"
        refuses(f"{value} in row {row}", trainer.fit, bad, np.zeros(50, dtype=int), match=text)


FIT_CASES = {
    "X too narrow": ((X[:, :3], Y), {}, r"X.*4.*\(6, 3\)"),
    "X of one axis": ((X[0], Y), {}, r"X.*\(4,\)"),
    "X of three axes": ((np.ones((6, 2, 2)), Y), {}, r"X.*\(6, 2, 2\)"),
    "X empty": ((X[:0], Y[:0]), {}, "X"),
    "y of another length": ((X, Y[:5]), {}, r"6.*5"),
    "y missing": ((X,), {}, "y"),
    "label too large": ((X, Y + 1), {}, r"0\.\.2.*3"),
    "negative label": ((X, Y - 1), {}, "-1"),
    "fractional labels": ((X, Y + 0.5), {}, "y"),
    "labels of text": ((X, np.array(list("abcabc"))), {}, "y"),
    "object array": ((np.array([[object()] * 4] * 6), Y), {}, "X"),
    "complex numbers": ((X * 1j, Y), {}, "X"),
    "ragged lists": (([[1.0, 2.0, 3.0, 4.0], [1.0]], Y[:2]), {}, "X"),
    "NaN in X": ((nan_at(3), Y), {}, "X.*row 3"),
    "infinity in X": ((np.where(nan_at(3) == 1, 1, np.inf), Y), {}, "X"),
    "NaN in y": ((X, np.where(Y == 1, np.nan, Y)), {}, "y"),
    "epochs 0": ((X, Y), {"epochs": 0}, "epochs"),
    "epochs negative": ((X, Y), {"epochs": -1}, "epochs"),
    "epochs a float": ((X, Y), {"epochs": 1.5}, "epochs"),
    "batch size 0": ((X, Y), {"batch_size": 0}, "batch_size"),
    "validation 1.5": ((X, Y), {"validation": 1.5}, "validation"),
    "validation negative": ((X, Y), {"validation": -0.1}, "validation"),
    "validation of other columns": ((X, Y), {"validation": (X[:, :3], Y)}, r"validation.*4.*3"),
    "validation of other rows": ((X, Y), {"validation": (X, Y[:5])}, "validation"),
    "validation a string": ((X, Y), {"validation": "some"}, "validation"),
    "unknown metric": ((X, Y), {"metrics": ["acuracy"]}, "accuracy"),
    "metric of regression": ((X, Y), {"metrics": ["r2"]}, ""),
    "weights of another length": ((X, Y), {"sample_weight": np.ones(5)}, r"sample_weight.*6.*5"),
    "negative weights": ((X, Y), {"sample_weight": -np.ones(6)}, "sample_weight"),
    "NaN weights": ((X, Y), {"sample_weight": np.full(6, np.nan)}, "sample_weight"),
    "all weights 0": ((X, Y), {"sample_weight": np.zeros(6)}, "sample_weight"),
    "class weight of no class": ((X, Y), {"class_weight": {7: 1.0}}, "7"),
    "class weight unknown": ((X, Y), {"class_weight": "equal"}, "balanced"),
    "callback not callable": ((X, Y), {"callbacks": [3]}, "callbacks"),
    "callback a class": ((X, Y), {"callbacks": [fo.callbacks.EarlyStopping]}, "EarlyStopping"),
    "stopping without validation": ((X, Y), {"callbacks": [fo.callbacks.EarlyStopping()]}, r"val_loss.*: epoch, loss, learning_rate$"),
    "plateau without validation": ((X, Y), {"callbacks": [fo.callbacks.ReduceOnPlateau()]}, "monitor 'val_loss'"),
    "checkpoint on no metric": ((X, Y), {"callbacks": [fo.callbacks.ModelCheckpoint(monitor="accuracy")]}, "monitor 'accuracy'"),
    "monitor without validation, in batches": (([(X, Y)],), {"callbacks": [fo.callbacks.EarlyStopping()]}, "monitor 'val_loss'"),
}


ONE_OUTPUT = {"bce": ((0, 1),), "hinge": ((-1, 1), (0, 1)), "squared_hinge": ((-1, 1), (0, 1)), "perceptron": ((-1, 1), (0, 1))}


@pytest.mark.parametrize("loss", ONE_OUTPUT)
def test_class_weights_of_one_output(loss):
    """The classes are those of the loss, whether or not y holds both; a key that y's own coding rules out is refused."""

    def fitted(y, **options):
        trainer = fo.Trainer(fo.mlp(4, [5], 1, seed=1), loss)
        trainer.fit(X, y, epochs=2, **options)
        return trainer.network.state_dict()

    for low, high in ONE_OUTPUT[loss]:
        for y in (np.full(6, low), np.full(6, high), np.where(Y > 0, high, low)):
            plain = fitted(y, sample_weight=np.where(y == high, 5.0, 2.0))
            for name, value in fitted(y, class_weight={low: 2, high: 5}).items():
                np.testing.assert_array_equal(value, plain[name], err_msg=f"{loss}, classes {np.unique(y)}: {name}")
            refuses("no class", fitted, y, class_weight={7: 1.0}, errors=ValueError, match="7; the classes are")
        other = {(0, 1): -1, (-1, 1): 0}[low, high]
        match = rf"key {other}; the classes are \[{low}, {high}\]"
        refuses("the other coding", fitted, np.where(Y > 0, high, low), class_weight={other: 1.0}, errors=ValueError, match=match)


@pytest.mark.parametrize("case", FIT_CASES)
def test_fit(case, trainer):
    arguments, options, match = FIT_CASES[case]
    before, given = state(trainer), [np.array(a, copy=True) for a in arguments if isinstance(a, np.ndarray) and a.dtype != object]
    refuses(case, trainer.fit, *arguments, match=match, **options)
    after = state(trainer)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=f"{case}: {name} was changed")
    assert trainer.epoch == 0
    assert not trainer.history
    for array, kept in zip((a for a in arguments if isinstance(a, np.ndarray) and a.dtype != object), given, strict=True):
        np.testing.assert_array_equal(array, kept, err_msg=f"{case}: the caller's array was changed")
    assert len(trainer.fit(X, Y, epochs=1).rows) == 1, "the trainer is usable afterwards"


def test_step_evaluate_and_predict(trainer):
    before = state(trainer)
    refuses("step: X too narrow", trainer.step, X[:, :3], Y, match=r"4.*\(6, 3\)")
    refuses("step: lengths", trainer.step, X, Y[:4], match=r"6.*4")
    refuses("step: label", trainer.step, X, Y + 7, match=r"0\.\.2")
    refuses("step: float32 target of another shape", trainer.step, X.astype(np.float32), np.ones((6, 2), np.float32))
    refuses("step: weights", trainer.step, X, Y, np.ones(3), match="sample_weight")
    refuses("evaluate: lengths", trainer.evaluate, X, Y[:4], match=r"6.*4")
    refuses("evaluate: metric", trainer.evaluate, X, Y, metrics=["f3"], match="accuracy")
    refuses("predict: shape", trainer.predict, X[:, :2], match=r"4.*\(6, 2\)")
    refuses("predict: text", trainer.predict, np.array([["a"] * 4]), errors=TypeError)
    after = state(trainer)
    for name in before:
        np.testing.assert_array_equal(before[name], after[name], err_msg=f"{name} was changed")


def test_networks():
    layers, dense = fo.layers, fo.layers.Dense(2)
    refuses("no inputs", fo.Network, 0, [dense], match="inputs")
    refuses("fractional inputs", fo.Network, 2.5, [dense], errors=TypeError, match="inputs")
    refuses("no layers", fo.Network, 3, [], match="layers")
    refuses("a layer, no list", fo.Network, 3, dense, match="layers")
    refuses("a class", fo.Network, 3, [fo.layers.BatchNorm], match="BatchNorm")
    refuses("a string", fo.Network, 3, ["relu"], match="layers")
    refuses("dtype", fo.Network, 3, [dense], dtype="float16", match="float32")
    refuses("negative seed", fo.Network, 3, [dense], seed=-1, match="seed")
    refuses("positional dtype", fo.Network, 3, [dense], "float32", errors=TypeError)
    refuses("Standardize in the middle", fo.Network, 3, [dense, layers.Standardize()], match="Standardize")
    refuses("no units", layers.Dense, 0, match="units")
    refuses("unknown activation", layers.Dense, 3, activation="rellu", match="leaky_relu")
    refuses("a loss of elsewhere", fo.losses.get, "categorical_crossentropy", match=r"known are: bce.*did you mean 'cross_entropy'\?")
    refuses("an exact name but for a space", fo.optimizers.get, "adam w", match=r"did you mean 'adamw'\?")
    refuses("two letters swapped", fo.optimizers.get, "adma", match=r"did you mean 'adam'\?")
    refuses("a short name", fo.metrics.get, "acc", match=r"did you mean 'accuracy'\?")
    refuses("unknown initialiser", layers.Dense, 3, init="he", match="he_uniform")
    refuses("rate 1", layers.Dropout, 1.0, match="rate")
    refuses("a name of elsewhere", fo.optimizers.Adam, lr=0.1, match="has no option 'lr'; it is called learning_rate here; its options")
    refuses("a name of elsewhere for two", fo.optimizers.Adam, betas=(0.9, 0.99), match="beta1 and beta2")
    refuses("a mistyped option", layers.Dense, 3, activtion="relu", match="no option 'activtion'; its options are: units, activation,")
    refuses("momentum 2", layers.BatchNorm, momentum=2.0, match="momentum")
    refuses("hidden a number", fo.mlp, 3, 5, 2, match="hidden")
    net = fo.mlp(3, [4], 2, seed=1)
    refuses("x too wide", net, np.ones((2, 4)), match=r"\(rows, 3\).*\(2, 4\)")
    refuses("x one row without its axis", net, np.ones(3), match="None")
    refuses("out of another shape", net, np.ones((2, 3), np.float32), out=np.zeros((2, 3), np.float32), match="out")
    refuses("out of another dtype", net, np.ones((2, 3), np.float32), out=np.zeros((2, 2)), match="out")
    refuses("gradient of another shape", net.backward, np.ones((5, 2)))


def test_trainers():
    net = fo.mlp(3, [4], 2, seed=1)
    refuses("no network", fo.Trainer, "net", "mse", match="network")
    refuses("unknown loss", fo.Trainer, net, "mean_square", match="mse")
    refuses("unknown optimizer", fo.Trainer, net, "mse", "adamm", match="adamw")
    refuses("a loss that cannot read the outputs", fo.Trainer, fo.mlp(3, [4], 3), "gaussian_nll", match="3")
    refuses("negative l1", fo.Trainer, net, "mse", l1=-1.0, match="l1")
    refuses("clip_norm 0", fo.Trainer, net, "mse", clip_norm=0.0, match="clip_norm")
    refuses("ema 1", fo.Trainer, net, "mse", ema=1.0, match="ema")
    refuses("negative seed", fo.Trainer, net, "mse", seed=-1, errors=ValueError, match="seed must be at least 0; got -1")
    refuses("seed too large", fo.Trainer, net, "mse", seed=2**64, errors=ValueError, match=r"seed must be below 2\*\*63")
    refuses("threads 0", fo.set_num_threads, 0, match="n")
    refuses("threads beyond an int", fo.set_num_threads, 10**12, errors=ValueError, match="n must be at most 4096; got 1000000000000")
    refuses("threads a float", fo.set_num_threads, 1.0, errors=TypeError)


def test_kernels():
    k, a = fo.kernels, np.ones((3, 4))
    refuses("inner sizes", k.matmul, a, a, match=r"\(3, 4\)")
    refuses("out of another dtype", k.matmul, a, a.T, out=np.zeros((3, 3), np.float32), errors=TypeError, match="float64")
    refuses("out of another shape", k.matmul, a, a.T, out=np.zeros((3, 4)), match=r"\(3, 3\).*\(3, 4\)")
    square = np.ones((4, 4))
    refuses("out is an input", k.matmul, square, square, out=square, match="memory")
    read_only = np.zeros((3, 3))
    read_only.flags.writeable = False
    refuses("out is read-only", k.matmul, a, a.T, out=read_only, match="read-only")
    refuses("out is strided", k.matmul, a, a.T, out=np.zeros((3, 6))[:, ::2], match="contiguous")
    refuses("unknown activation", k.dense_forward, a, a.T, activation="rellu", match="relu")
    refuses("bias", k.dense_forward, a, a.T, np.ones(4), match=r"\(3,\).*\(4,\)")


def test_a_mistyped_optimizer_is_told_of_solvers_too():
    refuses("name", fo.Trainer, fo.mlp(4, [5], 1), "mse", "lbfgz", match="(?s)adam.*lbfgs.*newton")
    refuses("class", fo.Trainer, fo.mlp(4, [5], 1), "mse", fo.optimizers.Adam, match=r"write Adam\(\)")


def test_frames():
    """Columns that pandas would make numbers of, depending on their neighbours: dates, missing dates, digits as text."""
    pandas = pytest.importorskip("pandas")
    number, dates = [1.5, 2.0], pandas.to_datetime(["2020-01-01", None])
    refused = {
        "date": pandas.DataFrame({"a": number, "b": dates}),
        "duration": pandas.DataFrame({"a": number, "b": dates - dates[0]}),
        "digits": pandas.DataFrame({"a": number, "b": ["10", "2"]}),
        "categories": pandas.DataFrame({"a": number, "b": pandas.Categorical(["10", "2"])}),
        "two of one name": pandas.DataFrame([[1.5, "10"], [2.0, "2"]], columns=["b", "b"]),
    }
    for name, frame in refused.items():
        refuses(name, _validate.numeric, frame, "X", errors=TypeError, match="column 'b' of X must hold real numbers")
    refuses("series", _validate.numeric, pandas.Series(["1", "2"]), "y", errors=TypeError, match="y must hold real numbers")
    taken = [
        pandas.DataFrame({"a": number, "b": pandas.Categorical([3, 4])}),
        pandas.DataFrame({"a": number, "b": [decimal.Decimal(3), decimal.Decimal(4)]}),
        pandas.DataFrame({"a": number, "b": pandas.array([3, 4], dtype="Int64")}),
        np.array([[1.5, 3], [2.0, 4]], object),
    ]
    for table in taken:
        np.testing.assert_array_equal(_validate.numeric(table, "X"), [[1.5, 3.0], [2.0, 4.0]])
    missing = _validate.numeric(pandas.DataFrame({"a": number, "b": pandas.array([3, None], dtype="Int64")}), "X")
    refuses("missing", _validate.check_finite, missing, "X", match="nan at row 1, column 1")


@pytest.mark.parametrize(("loss", "outputs"), [("cross_entropy", 3), ("bce", 1), ("hinge", 1)])
def test_rows_that_have_no_class(loss, outputs):
    trainer = fo.Trainer(fo.mlp(4, [5], outputs, seed=1), loss)
    refuses("predict", trainer.predict, nan_at(2), errors=ValueError, match="outputs of row 2 are NaN")
    measured = trainer.evaluate(nan_at(2), Y % 2, metrics=["accuracy"])
    assert np.isnan([measured["loss"], measured["accuracy"]]).all()
    assert np.isnan(fo.Trainer(fo.mlp(4, [5], 1, seed=1), "mse").predict(nan_at(2))).tolist() == [False, False, True, False, False, False]


def test_weights_that_vanish(trainer):
    weight = np.zeros(6)
    weight[0] = 1.0
    refuses("of one share", trainer.fit, X, Y, validation=0.5, sample_weight=weight, match="sample_weight 0; give validation=")
    refuses("in float32", trainer.fit, X, Y, sample_weight=np.full(6, 1e-50), match="all zero in float32.*1e-50")
    refuses("too large for float32", trainer.fit, X, Y, sample_weight=np.full(6, 1e50), match=r"fit into float32; got 1e\+50 at row 0")
    refuses("not normal", trainer.fit, X, Y, sample_weight=np.full(6, 1e-38), match=r"must reach 1.2e-38; .* largest is 1e-38")
    double = fo.Trainer(fo.mlp(4, [5], 3, dtype="float64", seed=1), "cross_entropy")
    refuses("too large to add", double.fit, X, Y, sample_weight=np.full(6, 1e308), match="finite sum")


@pytest.mark.parametrize("blocks", [False, True])
def test_statistics_of_broken_data(blocks, monkeypatch):
    """A Standardize layer takes none that are not finite, and keeps none of a fit whose first epoch fails."""
    share = {}
    if blocks:  # rows of a share that do not fit into memory
        monkeypatch.setattr(_evaluate, "MATERIALIZE_BYTES", 0)
        share = {"validation": 0.1}
    x = np.random.default_rng(3).standard_normal((40, 4))
    y = x[:, 0]
    trainer = fo.Trainer(fo.mlp(4, [5], 1, standardize=True, seed=1), "mse")
    column = "column 2( are too large|$)"
    for value, dtype in ((1e300, np.float64), (np.finfo(np.float32).min, np.float32)):
        bad = x.astype(dtype)
        bad[7, 2] = value
        with np.errstate(over="ignore", invalid="ignore"):
            refuses(f"{value}", trainer.fit, bad[7:] if blocks else bad, y[7:] if blocks else y, match=column, **share)
        refuses(f"{value}, by hand", trainer.network.adapt, bad, match=column)
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(x * 100 + 7, y * 1e30)
    trainer.fit(x, y)
    np.testing.assert_allclose(trainer.network.buffers["0.mean"], x.mean(axis=0), atol=1e-6)
    with pytest.raises(fo.NonFiniteLossError):
        trainer.fit(x * 100 + 7, y * 1e30)
    np.testing.assert_allclose(trainer.network.buffers["0.mean"], x.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize("blocks", [False, True])
def test_features_beyond_the_dtype(blocks, monkeypatch):
    if blocks:
        monkeypatch.setattr(_validate, "BLOCK_BYTES", 100)
        monkeypatch.setattr(_validate, "NATIVE_BLOCK_BYTES", 100)
    x = np.random.default_rng(3).standard_normal((40, 3))
    narrow, wide = (fo.Trainer(fo.mlp(3, [4], 1, dtype=dtype), "mse") for dtype in ("float32", "float64"))
    for value in (1e39, -3.5e38, 1e300):
        x[17, 2] = value
        refuses(f"{value}", narrow.fit, x, x[:, 0], match=r"^X must fit into float32; got .* at row 17, column 2$")
        refuses(f"{value} in Fortran order", narrow.fit, np.asfortranarray(x), x[:, 0], match="row 17, column 2$")
    x[17, 2] = 1e39
    wide.fit(x, x[:, 0])
    x[17, 2] = 3e38
    narrow.fit(x * 1e-3, x[:, 0])


def test_memory_that_is_not_aligned():
    """Inputs are copied; only what is written in place must be aligned."""

    def shifted(values):
        bytes_ = np.zeros(values.nbytes + 1, np.uint8)
        out = bytes_[1:].view(values.dtype).reshape(values.shape)
        out[...] = values
        assert not out.flags.aligned
        return out

    rng = np.random.default_rng(3)
    x, y, w = rng.standard_normal((20, 1)), rng.standard_normal(20), rng.random(20)
    net = fo.mlp(1, [2], 1, dtype="float64")
    np.testing.assert_array_equal(net(shifted(x)), net(x))
    np.testing.assert_array_equal(net.forward(shifted(x)), net.forward(x))
    assert fo.losses.MeanSquaredError()(shifted(x), shifted(y), shifted(w)) == fo.losses.MeanSquaredError()(x, y, w)
    losses = []
    for change in (lambda a: a, shifted):
        trainer = fo.Trainer(fo.mlp(1, [2], 1, dtype="float64"), "mse")
        trainer.fit(change(x), change(y), sample_weight=change(w), validation=(change(x), change(y)), epochs=2)
        losses.append([trainer.history["loss"], trainer.history["val_loss"], trainer.evaluate(change(x), change(y))])
    assert losses[0] == losses[1]
    labels = rng.integers(0, 2, 20).astype(np.int32)
    fo.Trainer(fo.mlp(1, [2], 2), "softmax_cross_entropy").fit(shifted(x), shifted(labels))


def test_numbers_that_no_option_holds():
    for call in (lambda n: fo.mlp(n, [2], 1), lambda n: fo.mlp(2, [2], n), fo.layers.Dense, lambda n: fo.schedules.linear(0.1, n)):
        refuses("integer", call, 10**30, match=r"must be below 2\*\*63")
    for infinite in (lambda v: fo.layers.Dense(1, l2=v), lambda v: fo.Trainer(fo.mlp(1, [1], 1), "mse", clip_norm=v)):
        refuses("infinity", infinite, np.inf, match="must be finite; got inf")
    refuses("dtype", fo.mlp, 2, [2], 1, dtype=None, match="dtype must be")
    trainer = fo.Trainer(fo.mlp(4, [3], 1), "mse")
    for option in ("shuffle", "progress"):
        refuses(option, trainer.fit, X, X[:, 0], match=f"{option} must be True or False; got 'no'", **{option: "no"})
    refuses("restore_best", fo.callbacks.EarlyStopping, restore_best="no", match="restore_best must be True or False")


def test_functions_that_return_something_else():
    x, y = X.astype(np.float64), X[:, :1].astype(np.float64)
    for result, match in ((("x", y), "could not convert"), (((1.0, 1j * y)), "real"), ((y, y), "a number and an array")):
        trainer = fo.Trainer(fo.mlp(4, [3], 1), lambda p, t, result=result: result)
        refuses("loss", trainer.fit, x, y, match=f"the loss must return.*{match}")
    trainer = fo.Trainer(fo.mlp(4, [3], 1), "mse")
    for result in (None, "x", np.zeros(3)):
        refuses("metric", trainer.fit, x, y, metrics={"odd": lambda t, p, result=result: result}, match="metric 'odd'")


def test_sizes_beyond_memory():
    for inputs, units in ((2**31, 2**31), (1, 2**62), (2**40, 2**20)):
        refuses(f"{inputs} x {units}", fo.Network, inputs, [fo.layers.Dense(units, init="zeros")], match="fit into memory")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_layers_without_units(dtype):
    x, nothing = np.ones((3, 70), dtype), np.ones((70, 0), dtype)
    assert fo.kernels.dense_forward(x, nothing).shape == (3, 0)
    grad_x, grad_weight, grad_bias = fo.kernels.dense_backward(np.ones((3, 0), dtype), x, nothing, np.ones(0, dtype))
    np.testing.assert_array_equal(grad_x, np.zeros((3, 70)))
    assert (grad_weight.shape, grad_bias.shape) == ((70, 0), (0,))


def test_results_over_rows_that_go_down_or_stand_still():
    net = fo.mlp(8, [16], 8, seed=1)
    rows = np.random.default_rng(4).standard_normal((600, 8)).astype(np.float32)
    for name, view in (("down", lambda a: a[::-1]), ("still", lambda a: np.broadcast_to(a[-1], a.shape))):
        refuses(name, net, view(rows), out=rows, errors=ValueError, match="shares memory")
        refuses(name, net._native.infer, view(rows), rows, match="shares memory")
    for dtype in (np.uint8, np.int16, np.float64):  # read where they are, or after a conversion
        memory = np.zeros(rows.size, np.float64)
        x, out = memory.view(dtype)[: rows.size].reshape(rows.shape), memory.view(np.float32)[: rows.size].reshape(rows.shape)
        refuses(str(dtype), net, x, out=out, errors=ValueError, match="shares memory")


def test_a_rate_too_large_for_the_dtype(trainer):
    before = state(trainer)
    refuses(
        "rate", trainer._native.step, X.astype(np.float32), Y.astype(np.int32), None, 1e39, match="learning_rate must be a finite number"
    )
    for name, value in state(trainer).items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    sgd, w = fo.optimizers.SGD(learning_rate=1e39), np.ones(5, np.float32)
    of_w = sgd.init(w)
    refuses("alone", sgd.step, w, np.ones_like(w), of_w, match="at least 0 in float32")
    assert of_w.step == 0
    assert w.tolist() == [1] * 5
    wide = np.ones(5)
    sgd.step(wide, np.ones(5), sgd.init(wide))
    assert wide.tolist() == [-1e39] * 5


def test_outputs_that_overlap_reversed_rows():
    rows = np.zeros((11, 3), np.float32)
    net = fo.Network(3, [fo.layers.Dense(3)], seed=0)
    refuses("overlap", net._native.infer, rows[10:0:-1], rows[:10], errors=ValueError)
    net._native.infer(rows[10:5:-1], rows[:5])


def test_gradients_that_overlap_what_is_written():
    """Also where a short gradient lies between the start of a long one and the parameter inside of it."""
    rule = core.Optimizer_float32("sgd", {"momentum": 0.0, "nesterov": False, "weight_decay": 0.0, "decay_all": False})
    shared = np.zeros(100, np.float32)

    def parts(*sizes):
        return [np.zeros(size, np.float32) for size in sizes]

    wrong = ([*parts(60, 10), shared[40:50]], [shared[:60], shared[:10], *parts(10)])
    refuses("inside", rule.step, *wrong, [], np.empty(0), 1, 0.1, errors=ValueError)
    rule.step([*parts(60, 10), shared[70:80]], [shared[:60], shared[:10], *parts(10)], [], np.empty(0), 1, 0.1)


def test_arrays_without_bytes(trainer):
    """Of a dtype whose elements have none: refused, not divided by."""
    nothing = np.empty(6, "V0")
    refuses("labels", trainer.fit, X, nothing, errors=TypeError, match="real numbers")
    refuses("rows", trainer.fit, np.empty((6, 4), "V0"), Y, errors=TypeError, match="real numbers")
    refuses("weights", trainer.fit, X, Y, sample_weight=nothing, errors=TypeError)
    refuses("inference", trainer.network, np.empty((6, 4), "V0"), errors=TypeError, match="real numbers")
