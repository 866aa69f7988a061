"""Networks: names, views, forward and backward against the twin, initialisation, copies, state, standardisation."""

import pickle
import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from operator import setitem

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from helpers import close, refuses
from native import DTYPES, core, native
from reference import initializers, layers, twin
from twins import rich_network, twin_of

TOLERANCE = {"float32": 2e-5, "float64": 1e-12}


def test_every_registered_layer_has_a_twin_and_a_spec():
    kinds = {cls.kind for cls in fo.layers.layer_classes()}
    assert set(core.layer_names()) == kinds, "layers of the core and of the Python specs"
    for name in core.layer_names():
        twin(layers.LAYERS, "layer", name)
    assert kinds == {layer.kind for layer in rich_network().layers}, "tests/twins.py: rich_network must have every kind of layer"


def test_names_and_shapes():
    net = rich_network()
    expected = {
        "1.weight": (7, 13), "1.bias": (13,), "2.gamma": (13,), "2.beta": (13,), "5.weight": (13, 5), "6.weight": (5, 3), "6.bias": (3,),
    }  # fmt: skip
    assert {name: view.shape for name, view in net.parameters.items()} == expected
    assert {name: view.shape for name, view in net.gradients.items()} == expected
    assert net.num_parameters == sum(int(np.prod(shape)) for shape in expected.values())
    assert {"0.mean", "0.variance", "0.count", "2.mean", "2.variance", "2.count"} == set(net.buffers)
    assert (net.inputs, net.outputs, net.dtype, net.seed) == (7, 3, np.float64, 3)
    summary = net.summary()
    assert f"{net.num_parameters:,}" in summary
    for kind in core.layer_names():
        assert kind in summary.lower(), f"{kind} is missing in the summary"


def test_parameters_are_views():
    net = fo.Network(2, [fo.layers.Dense(3), fo.layers.Dense(1)], dtype="float64")
    x = np.ones((1, 2))
    for view in net.parameters.values():
        view[...] = 0
    assert net(x) == 0
    net.parameters["1.bias"][0] = 5
    assert net(x) == 5, "writing a parameter view changes the network"
    refuses("replacing a view", setitem, net.parameters, "1.bias", np.zeros(1), errors=(TypeError, AttributeError))
    view = net.parameters["0.weight"]
    del net
    view += 1.0
    assert view.sum() == 6, "a view keeps its memory alive"


@pytest.mark.parametrize("dtype", DTYPES)
def test_forward_and_backward_equal_the_twin(dtype):
    for activation in core.activation_names():
        net = rich_network(activation, dtype)
        reference, rng = twin_of(net), np.random.default_rng(101)
        for rows in (1, 2, 3, 17, 64, 65):
            what = f"{activation}, {rows} rows, {dtype}"
            x, grad = rng.standard_normal((rows, 7)).astype(dtype), rng.standard_normal((rows, 3)).astype(dtype)
            # One row leaves nothing after normalisation but what eps says of the rounding errors: compare from two rows on.
            tolerance = TOLERANCE[dtype] * (30 if rows < 4 else 1)
            close(net.forward(x, training=True), reference.forward(x), tolerance, f"{what}: training forward", floor=1.0)
            grad_x, wanted = net.backward(grad), reference.backward(grad)
            close(grad_x, wanted, tolerance, f"{what}: gradient of the input", floor=1.0)
            for name, g in net.gradients.items():
                # A bias in front of batch normalization has gradient 0: what is compared is the rounding of a sum of `rows` terms.
                floor = max(1.0, rows / 16) if name == "1.bias" else 1.0
                close(g, reference.gradients[name], tolerance, f"{what}: gradient of {name}", floor=floor)
            for name, value in net.buffers.items():
                close(value.ravel(), reference.buffers[name].ravel(), tolerance, f"{what}: buffer {name}", floor=1e-2)
            close(net(x), reference(x), TOLERANCE[dtype] * 5, f"{what}: inference", floor=1.0)
            close(net.forward(x, training=False), net(x), TOLERANCE[dtype], f"{what}: forward and call", floor=1.0)


def test_inference_does_not_depend_on_the_batch():
    rng = np.random.default_rng(102)
    for dtype in DTYPES:
        net = rich_network("relu", dtype)
        x = rng.standard_normal((300, 7)).astype(dtype)
        whole = net(x)
        for rows in (slice(0, 1), slice(17, 18), slice(40, 105), slice(299, 300)):
            np.testing.assert_array_equal(net(x[rows]), whole[rows], err_msg=f"rows {rows} alone have other bits, {dtype}")
        out = np.empty_like(whole)
        assert net(x, out=out) is out or np.shares_memory(net(x, out=out), out)
        np.testing.assert_array_equal(out, whole)
        assert net(x[:0]).shape == (0, 3), "no rows in, no rows out"


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("activation", ["identity", "relu", "gelu"])
def test_a_row_alone_has_the_bits_it_has_among_others(cut_for_threads, activation, dtype):
    rng = np.random.default_rng(106)
    for inputs, units, bias in [
        (1, 5, True),
        (17, 16, True),
        (33, 31, False),
        (8, 65, True),
        (65, 129, True),
        (128, 144, False),
        (3, 257, True),
        (1025, 33, True),  # sums over several blocks of k
    ]:
        net = fo.Network(inputs, [fo.layers.Dense(units, activation=activation, bias=bias), fo.layers.Dense(7)], dtype=dtype, seed=units)
        if bias:
            net.parameters["0.bias"][...] = rng.standard_normal(units)
        x = rng.standard_normal((20, inputs)).astype(dtype)
        cut_for_threads(1)
        whole = net(x)
        net.forward(x, training=True)
        hidden = net._native.layer_output(0).copy()
        for threads in (1, 2, 3):
            cut_for_threads(threads)
            for row in (0, 19):
                what = f"{inputs} -> {units}, {activation}, row {row}, {threads} threads, {dtype}"
                np.testing.assert_array_equal(net(x[row : row + 1]), whole[row : row + 1], err_msg=what)
                net.forward(x[row : row + 1], training=True)
                np.testing.assert_array_equal(net._native.layer_output(0), hidden[row : row + 1], err_msg=f"{what}: training forward")


def test_any_number_of_rows_after_any_other(cut_for_threads):
    """How so many rows go through is remembered; another number of rows or threads is another question."""
    rng = np.random.default_rng(107)
    net = rich_network("gelu", "float32")
    x = rng.standard_normal((3000, 7)).astype("float32")
    whole = net(x)
    for threads in (1, 2, 3, 1, 4, 2):
        cut_for_threads(threads)
        for rows in (1, 3000, 7, 600, 3000, 1, 513, 2999):
            np.testing.assert_array_equal(net(x[:rows]), whole[:rows], err_msg=f"{rows} rows, {threads} threads")


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "int16"])
def test_no_rows_give_no_outputs(dtype):
    net = fo.mlp(8, [5], 3, seed=0)
    for x in (np.zeros((0, 8), dtype), np.zeros((5, 8), dtype)[:0], np.zeros((8, 0), dtype).T, np.zeros((0, 16), dtype)[:, ::2]):
        assert net(x).shape == (0, 3)


SOURCES = "?bBhHiIlLefdg"
LAYOUTS = {
    "rows": np.ascontiguousarray,
    "columns": np.asfortranarray,
    "every second column": lambda a: np.repeat(a, 2, axis=1)[:, ::2],
    "backwards": lambda a: a[::-1].copy()[::-1],
    "the other byte order": lambda a: a.astype(a.dtype.newbyteorder("S")),
    "a frame's": lambda a: pytest.importorskip("pandas").DataFrame(a),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_of_every_dtype_and_layout(dtype, layout, monkeypatch):
    """As if they had been converted before, however many blocks that takes."""
    monkeypatch.setattr("fastopt._inference.BLOCK_BYTES", 1)
    monkeypatch.setattr("fastopt._inference.FEWEST_ROWS", 4)
    net = fo.mlp(3, [17], 5, activation="tanh", dtype=dtype, seed=0)
    trainer = fo.Trainer(net, "mse")
    numbers = np.random.default_rng(0).integers(0, 100, (33, 3))
    y = np.zeros((33, 5))
    for kind in SOURCES:
        if kind in "eg" and layout == "a frame's":
            continue
        x = (numbers > 50) if kind == "?" else (numbers.astype(kind) / 3).astype(kind) if kind in "efdg" else numbers.astype(kind)
        given, exact = LAYOUTS[layout](x), x.astype(dtype)
        expected = net(exact)
        np.testing.assert_array_equal(net(given), expected, err_msg=kind)
        out = np.empty((33, 5), dtype)
        assert net(given, out=out) is out
        np.testing.assert_array_equal(out, expected, err_msg=kind)
        np.testing.assert_array_equal(trainer.predict(given), expected, err_msg=kind)
        assert trainer.evaluate(given, y) == trainer.evaluate(exact, y), kind


@pytest.mark.parametrize(("kind", "order"), [(np.int32, "C"), (np.int64, "C"), (np.float16, "F"), (np.uint8, "F"), (np.float32, "F")])
def test_inference_converts_no_more_than_a_block(kind, order, monkeypatch):
    monkeypatch.setattr("fastopt._inference.BLOCK_BYTES", 1 << 16)
    net = fo.mlp(64, [8], 1, seed=0)
    x = np.zeros((20000, 64), kind, order=order)
    out = np.empty((20000, 1), np.float32)
    for call in (lambda: net(x, out=out), lambda: fo.Trainer(net, "mse").predict(x)):
        tracemalloc.start()
        try:
            call()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < 1 << 20, f"{peak} bytes of Python and NumPy for rows of {4 * x.size} bytes in float32"


@pytest.mark.parametrize("kind", [np.float32, np.int64])
def test_outputs_are_not_written_over_what_they_come_from(kind):
    net = fo.Network(8, [fo.layers.Dense(8), fo.layers.BatchNorm()], seed=0)
    before = net.state_dict()
    x = np.ones((8, 8), kind)
    refuses("weights", net, x, out=net.parameters["0.weight"], match="out shares memory with the network's parameters")
    refuses("statistics", net, x[:1], out=net.buffers["1.mean"].reshape(1, 8), match="out shares memory with the network's parameters")
    for name, value in net.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.parametrize("layers", [[fo.layers.Dense(512, activation="gelu"), fo.layers.Dense(3)], [fo.layers.Activation("gelu")]])
def test_long_calls_let_other_threads_of_python_work(layers):
    """And these may set another number of threads meanwhile."""
    net, before = fo.Network(256, layers, seed=0), fo.get_num_threads()
    x = np.random.default_rng(108).standard_normal((100_000, 256)).astype("float32")
    whole, started = net(x), threading.Event()

    def long_call():
        started.set()
        return net(x)

    with ThreadPoolExecutor(1) as pool:
        future, turns = pool.submit(long_call), 0
        started.wait()
        while not future.done():
            fo.set_num_threads(1 + turns % 8)
            turns += 1
        fo.set_num_threads(before)
        np.testing.assert_array_equal(future.result(), whole)
    assert turns > 0, "the long call kept Python to itself"


def test_a_brief_call_waits_for_a_training_step():
    """It keeps Python to itself, but not while it waits: a long step asks Python for interrupts between its layers."""
    run_python(
        """
        import threading
        import fastopt as fo, numpy as np
        x = np.random.default_rng(0).standard_normal((4000, 256)).astype("float32")
        net = fo.mlp(256, [256, 256], 1, seed=0)  # 3.2 GFLOP a step, 0.3 MFLOP a row of inference
        trainer = fo.Trainer(net, "mse")
        training = threading.Thread(target=trainer.fit, args=(x, x[:, :1]), kwargs={"epochs": 6, "batch_size": 4000, "progress": False})
        training.start()
        calls = 0
        while training.is_alive():
            assert np.isfinite(net(x[:1])).all()
            calls += 1
        assert calls > 0
        """,
        threads=1,  # or the step is one of threads with rows of their own, which asks for no interrupts
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_native_inference_is_a_function_of_its_own(dtype):
    """It has no dispatcher before it: it counts and checks what it is given, raises what others raise, and keeps its network."""
    net = fo.mlp(3, [4], 2, dtype=dtype, seed=1)
    x = np.random.default_rng(0).standard_normal((5, 3)).astype(dtype)
    infer, expected = net._native.infer, net(x)
    refuses("no array", infer, match="one or two")
    refuses("three", infer, x, None, None, match="one or two")
    refuses("a name", lambda: infer(x, out=None), match="keyword")
    for name, bad in {"list": x.tolist(), "None": None, "complex": x.astype(complex), "vector": x[0], "columns": x[:, :2]}.items():
        refuses(name, infer, bad, match="x must")
    for name, bad in {"other dtype": np.zeros((5, 2), "i8"), "rows": np.zeros((4, 2), dtype), "list": expected.tolist()}.items():
        refuses(f"out: {name}", infer, x, bad, match="out must")
    references = [sys.getrefcount(net._native)]
    functions = [net._native.infer for _ in range(100)]
    references.append(sys.getrefcount(net._native))
    del functions
    references.append(sys.getrefcount(net._native))
    assert references[1:] == [references[0] + 100, references[0]]
    del net
    out = np.zeros((5, 2), dtype)
    assert infer(x, out) is out
    for found in (out, infer(x), infer(x, None)):
        np.testing.assert_array_equal(found, expected)


def test_padding_stays_zero():
    """Segments are aligned to 64 bytes, what lies between them is 0 for good."""
    for dtype in DTYPES:
        net = rich_network("gelu", dtype)
        trainer = fo.Trainer(net, "mse", fo.optimizers.Adam(learning_rate=0.1), l1=0.01, clip_norm=1.0)
        rng = np.random.default_rng(103)
        for _ in range(3):
            trainer.step(rng.standard_normal((9, 7)), rng.standard_normal((9, 3)))
        used = np.zeros(net._native.parameters.shape, bool)
        for name, offset, shape in net._native.parameter_segments():
            used[offset : offset + int(np.prod(shape))] = True
            assert offset * net.dtype.itemsize % 64 == 0, f"{name} is not aligned"
        assert not net._native.parameters[~used].any(), "padding of the parameters"
        assert not net._native.gradients[~used].any(), "padding of the gradients"
        assert net._native.parameters.ctypes.data % 64 == 0


def drawn(rule, fan_in, fan_out, seed=0):
    return fo.Network(fan_in, [fo.layers.Dense(fan_out, init=rule)], dtype="float64", seed=seed).parameters["0.weight"]


@pytest.mark.parametrize("name", [name for name in core.initializer_names() if name != "auto"])
def test_initialisers(name):
    rule = twin(initializers.INITIALIZERS, "initialiser", name)
    for fan_in, fan_out in ((300, 200), (64, 64), (40, 120)):
        law, size = rule(fan_in, fan_out)
        w = drawn(name, fan_in, fan_out)
        what = f"{name} of {fan_in} x {fan_out}"
        if law == "uniform":
            assert abs(w).max() <= size, f"{what}: beyond its bound"
            assert abs(w).max() > 0.99 * size, f"{what}: does not fill its interval"
            close(w.std(), size / np.sqrt(3), 0.03, f"{what}: deviation")
        elif law == "normal":
            close(w.std(), size, 0.04, f"{what}: deviation")
            assert abs(w.mean()) < 0.05 * size, f"{what}: mean"
            assert abs(np.mean(abs(w) < size) - 0.68) < 0.05, f"{what}: not a bell"
        elif law == "orthogonal":
            gram = w.T @ w if fan_in >= fan_out else w @ w.T
            close(gram, np.eye(len(gram)), 1e-10, f"{what}: gram matrix")
        else:
            assert np.ptp(w) == 0, f"{what}: not constant"
            assert size is None or w[0, 0] == size, f"{what}: {w[0, 0]}"
        np.testing.assert_array_equal(w, drawn(name, fan_in, fan_out), err_msg=f"{what}: the same seed")
        if law in ("uniform", "normal", "orthogonal"):
            assert not np.array_equal(w, drawn(name, fan_in, fan_out, seed=1)), f"{what}: another seed"


def test_auto_initialisation():
    for activation in core.activation_names():
        net = fo.Network(90, [fo.layers.Dense(70, activation=activation)], dtype="float64", seed=4)
        explicit = fo.Network(90, [fo.layers.Dense(70, activation=activation, init=initializers.auto(activation))], dtype="float64", seed=4)
        np.testing.assert_array_equal(net.parameters["0.weight"], explicit.parameters["0.weight"], err_msg=f"auto before {activation}")
        assert not net.parameters["0.bias"].any(), "biases start at 0"


def test_dtypes_start_from_the_same_weights():
    a, b = (fo.mlp(9, [8, 7], 2, dtype=dtype, seed=5) for dtype in DTYPES)
    for name in a.parameters:
        close(a.parameters[name], b.parameters[name], 1e-6, name)


def test_copies_and_state():
    net, rng = rich_network(), np.random.default_rng(104)
    net.forward(rng.standard_normal((9, 7)), training=True)
    x = rng.standard_normal((5, 7))
    for other in (net.copy(), pickle.loads(pickle.dumps(net))):
        np.testing.assert_array_equal(other(x), net(x))
        assert other.training_step == net.training_step == 1
        other.parameters["6.bias"][...] += 1
        assert not np.array_equal(other(x), net(x)), "a copy is independent"
    state = net.state_dict()
    before, expected = net(x), net.forward(x, training=True)
    net.load_state_dict(state)
    np.testing.assert_array_equal(net(x), before, err_msg="state_dict restores the running values")
    np.testing.assert_array_equal(net.forward(x, training=True), expected, err_msg="state_dict restores the step that keys the masks")
    changed = {name: np.array(value) + (name == "6.bias") for name, value in state.items()}
    for what, wrong in {
        "a name is missing": {name: value for name, value in changed.items() if name != "2.gamma"},
        "an unknown name": {**changed, "9.weight": np.zeros(2)},
        "another shape": {**changed, "2.gamma": np.zeros(12)},
        "another dtype": {**changed, "2.gamma": np.zeros(13, np.float32)},
    }.items():
        now = net.state_dict()
        refuses(what, net.load_state_dict, wrong)
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(value, now[name], err_msg=f"{what}: {name} was changed by a refused call")


def test_initialize_checks_its_seed_first():
    net = fo.mlp(3, [4], 2, seed=5)
    net.parameters["0.weight"][...] = 7
    before = net.state_dict()
    for seed, error in ((-1, ValueError), (2**63, ValueError), (2**64, ValueError), ("a", TypeError), (1.0, TypeError), (True, TypeError)):
        refuses(f"seed {seed!r}", net.initialize, seed, errors=error, match="^seed must be ")
        assert net.seed == 5, f"seed {seed!r} was kept"
        for name, value in net.state_dict().items():
            np.testing.assert_array_equal(value, before[name], err_msg=f"seed {seed!r}: {name} was changed")
    net.initialize(np.int64(2**63 - 1))
    assert net.seed == 2**63 - 1
    np.testing.assert_array_equal(net.parameters["0.weight"], fo.mlp(3, [4], 2, seed=2**63 - 1).parameters["0.weight"])


def test_dropout_masks():
    net = fo.Network(6, [fo.layers.Dropout(0.5), fo.layers.Dense(1)], dtype="float64", seed=2)
    x = np.ones((8, 6))
    outputs = [net.forward(x, training=True) for _ in range(3)]
    assert not np.array_equal(outputs[0], outputs[1]), "a new mask each time"
    np.testing.assert_array_equal(net(x), net(x), err_msg="no dropout in inference")
    net.training_step = 1
    np.testing.assert_array_equal(net.forward(x, training=True), outputs[1], err_msg="the mask is a function of the step")


def test_standardise():
    rng = np.random.default_rng(105)
    net = fo.Network(4, [fo.layers.Standardize(), fo.layers.Dense(4, init="zeros", bias=False)], dtype="float64")
    refuses("not adapted", net, np.ones((2, 4)), match="adapt")
    np.fill_diagonal(net.parameters["1.weight"], 1.0)
    x = rng.standard_normal((500, 4)) * [1, 100, 1e-3, 0] + [0, 1e6, 5, 7]
    net.adapt(x)
    out = net(x)
    close(out[:, :3].mean(axis=0), np.zeros(3), 1e-8, "means", floor=1.0)
    close(out[:, :3].var(axis=0), np.ones(3), 2e-2, "variances")  # eps 1e-8 shows beside a variance of 1e-6
    assert not out[:, 3].any(), "a constant column comes out as 0"
    assert not net(x + 1)[:, 3].any(), "whatever it holds later"
    close(out, layers.standardize_forward(x, *layers.standardize_fit(x)), 1e-9, "against the twin")
    for dtype in (np.uint8, np.int16, np.float32):
        small = fo.Network(3, [fo.layers.Standardize(), fo.layers.Dense(1)], seed=1)
        data = rng.integers(0, 200, (70, 3)).astype(dtype)
        small.adapt(data)
        wanted = layers.standardize_fit(data.astype(np.float64))
        close(small.buffers["0.mean"], wanted[0], 1e-6, f"mean of {np.dtype(dtype)} data")
        close(small.buffers["0.variance"], wanted[1], 1e-6, f"variance of {np.dtype(dtype)} data")


def test_native_network_checks_its_calls():
    net = native("Network", "float32", 3, [fo.layers.Dense(2).config()], 0)
    x = np.zeros((4, 3), np.float32)
    refuses("backward before forward", net.backward, np.zeros((4, 2), np.float32), errors=(ValueError, RuntimeError))
    net.forward(x, True)
    for what, function, argument in [
        ("wrong width", net.infer, np.zeros((4, 2), np.float32)),
        ("wrong dtype", net.infer, np.zeros((4, 3), np.int32)),
        ("strided", net.infer, np.zeros((4, 6), np.float32)[:, ::2]),
        ("backward of other rows", net.backward, np.zeros((3, 2), np.float32)),
    ]:
        refuses(what, function, argument)
    refuses("unknown kind of layer", native, "Network", "float32", 3, [{"kind": "convolution"}], 0, match="dense")


def test_a_seed_may_be_drawn():
    nets = [fo.mlp(3, [4], 2, seed=None) for _ in range(2)]
    assert nets[0].seed != nets[1].seed
    again = fo.mlp(3, [4], 2, seed=nets[0].seed)
    np.testing.assert_array_equal(again.parameters["0.weight"], nets[0].parameters["0.weight"])


def test_auto_is_for_what_an_output_meets_first():
    """Another dense layer is met before its activation; normalization and dropout are passed by."""
    layers = fo.layers

    def first(*rest, **options):
        return fo.Network(6, [layers.Dense(8, **options), *rest, layers.Dense(1)], seed=0).parameters["0.weight"]

    glorot, he = first(init="glorot_uniform"), first(init="he_uniform")
    relu = layers.Activation("relu")
    for rest in ([relu], [layers.BatchNorm(), relu], [layers.Dropout(0.5), layers.BatchNorm(), relu]):
        np.testing.assert_array_equal(first(*rest), he, err_msg=str(rest))
    for rest in ([layers.Dense(8, activation="relu")], [layers.Dense(8), relu], [layers.Dense(8), layers.Dense(8, activation="relu")],
                 [layers.Dense(5, activation="relu")], [layers.BatchNorm()]):  # fmt: skip
        np.testing.assert_array_equal(first(*rest), glorot, err_msg=str(rest))
    np.testing.assert_array_equal(first(activation="relu"), he)


def test_orthogonal_weights_are_orthogonal_to_rounding():
    net = fo.Network(300, [fo.layers.Dense(300, init="orthogonal")], dtype="float64", seed=0)
    weight = net.parameters["0.weight"]
    assert np.abs(weight @ weight.T - np.eye(300)).max() < 2e-14


def test_parameters_of_twelve_layers():
    """Layer 1 is not layer 10 and 11 too."""
    net = fo.Network(3, [fo.layers.Dense(2) for _ in range(12)], seed=0)
    assert [row["parameters"] for row in net._native.layer_table()] == [8] + 11 * [6]


@pytest.mark.parametrize("rows", [4096, 4097, 5000, 9000])
def test_statistics_of_more_rows_than_a_chunk(rows):
    x = np.arange(rows, dtype=np.float32)[:, None] * np.ones((1, 2), np.float32)
    net = fo.Network(2, [fo.layers.Standardize(), fo.layers.Dense(1)], seed=0)
    net.adapt(x)
    close(net.buffers["0.mean"], x.mean(axis=0, dtype=np.float64), 1e-6, "mean")
    close(net.buffers["0.variance"], x.var(axis=0, dtype=np.float64), 1e-6, "variance")


def test_dropout_that_leaves_nothing():
    """A rate within rounding of 1 drops all, instead of scaling by the inverse of nearly nothing."""
    net = fo.Network(3, [fo.layers.Dropout(1 - 1e-12), fo.layers.Dense(1)], seed=0)
    assert not net.forward(np.ones((9, 3), np.float32), training=True).any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batchnorm_behind_more_columns_than_a_block(dtype):
    """Its gradient with respect to what is before an activation is cut by columns."""
    rng = np.random.default_rng(18)
    layers = [fo.layers.Dense(1100, activation="relu"), fo.layers.BatchNorm(), fo.layers.Dense(1)]
    net, x = fo.Network(3, layers, dtype=dtype, seed=0), rng.standard_normal((9, 3)).astype(dtype)
    outer = rng.standard_normal((9, 1)).astype(dtype)
    twin = twin_of(net)
    net.forward(x, training=True)
    net.backward(outer)
    twin.forward(x.astype(np.float64), training=True)
    twin.backward(outer.astype(np.float64))
    close(net.gradients["0.weight"], twin.gradients["0.weight"], 1e-3 if dtype == "float32" else 1e-10, "gradient", floor=1e-2)
