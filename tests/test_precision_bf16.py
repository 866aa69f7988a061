"""Precision "bf16": rounding, products against their NumPy twin, what bits may depend on, training, round trips, and what is refused."""

import copy
import itertools
import json
import pickle

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from helpers import close, refuses
from native import EPS, built_isas, core, guarded, needs_bf16, sample
from reference.precision import bf16_chain, bf16_matmul, to_bf16

AVAILABLE = fo.build_info()["bf16"]

TRANSPOSES = list(itertools.product((False, True), repeat=2))
BIGGER = [(129, 385, 130), (33, 784, 10), (1, 2047, 31), (255, 7, 513), (15, 2051, 33), (113, 31, 5), (300, 301, 1), (14, 2048, 32)]
THREADS = (1, 2, 3, 4, 8)


def product(a, b, transpose_a=False, transpose_b=False):
    """a b by the library, from whichever layouts are asked for."""
    a, b = (np.ascontiguousarray(x.T) if turned else x for x, turned in ((a, transpose_a), (b, transpose_b)))
    m, n = a.shape[transpose_a], b.shape[not transpose_b]
    out, check = guarded((m, n), "float32")
    core.matmul(a, b, out, transpose_a, transpose_b, "bf16")
    check(f"bf16 matmul {a.shape} {b.shape}")
    return out


def draw(rng, *shape):
    return sample(rng, shape, "float32")


def integers(rng, *shape, high=9):
    return rng.integers(-high, high + 1, shape).astype(np.float32)


# ---- rounding and products ------------------------------------------------------------------------------------------------------------


def all_roundings():
    """Every sign, exponent and 8-bit significand, each followed by nothing, the least, just under a half, a half, just over, the most."""
    high = np.arange(2**16, dtype=np.uint32) << 16
    low = np.array([0x0000, 0x0001, 0x7FFF, 0x8000, 0x8001, 0xFFFF], dtype=np.uint32)
    return (high[:, None] | low).ravel().view(np.float32)


@needs_bf16
@pytest.mark.parametrize("side", ["a", "b"])
@pytest.mark.parametrize("turned", [False, True])
def test_rounding(side, turned):
    """To nearest with ties to even, infinities and NaN kept, subnormal numbers to 0: every case, through every way of packing."""
    x = all_roundings()
    with np.errstate(invalid="ignore"):  # signalling NaN, whose bits may all lie in the half that is cut off
        expected = to_bf16(x)
    finite = np.isfinite(expected)
    assert (expected[finite] != x[finite]).any()
    assert (~finite & np.isfinite(x)).any(), "the largest numbers must become infinite"
    one = np.ones((1, 1), np.float32)
    found = product(x[:, None], one, transpose_a=turned)[:, 0] if side == "a" else product(one, x[None, :], transpose_b=turned)[0]
    np.testing.assert_array_equal(found, expected.astype(np.float32))


@needs_bf16
def test_ties_go_to_even():
    ties = np.array([1 + 2**-8, 1 + 3 * 2**-8, -(1 + 2**-8), 257.0, 259.0, 511.0], np.float32)[:, None]
    expected = [1.0, 1 + 2**-6, -1.0, 256.0, 260.0, 512.0]
    assert product(ties, np.ones((1, 1), np.float32))[:, 0].tolist() == expected


@needs_bf16
@pytest.mark.parametrize(("transpose_a", "transpose_b"), TRANSPOSES)
def test_odd_shapes(transpose_a, transpose_b):
    """Against the product of the rounded operands in float64: a sum of k terms errs by at most k roundings of the magnitudes."""
    rng = np.random.default_rng(41)
    for m, k, n in [*itertools.product((0, 1, 3, 17, 65), repeat=3), *BIGGER]:
        a, b = draw(rng, m, k), draw(rng, k, n)
        error = abs(product(a, b, transpose_a, transpose_b) - bf16_matmul(a, b))
        wrong = ~(error <= (k + 1) * EPS["float32"] * bf16_matmul(abs(a), abs(b)))
        assert not wrong.any(), f"m, k, n = {m, k, n}: {wrong.sum()} of {wrong.size} wrong, first at {np.argwhere(wrong)[0]}"


@needs_bf16
def test_the_order_of_the_sum():
    """To the bit: pair after pair, the odd one of a pair first, across the blocks of a long k too."""
    rng = np.random.default_rng(42)
    few_rows = [(1, 64, 144), (2, 66, 80), (9, 130, 48), (14, 2502, 16)]  # these read b without a packed copy
    more_rows = [(31, 64, 48), (16, 2050, 80), (115, 20, 16)]  # of these the first tile packs b on the way
    for m, k, n in [(5, 64, 7), (31, 35, 40), (15, 2501, 33), *few_rows, *more_rows]:
        a, b = draw(rng, m, k), draw(rng, k, n)
        for transpose_a, transpose_b in TRANSPOSES:
            np.testing.assert_array_equal(product(a, b, transpose_a, transpose_b), bf16_chain(a, b), err_msg=f"{m, k, n}")


@needs_bf16
def test_an_element_does_not_depend_on_its_neighbours():
    rng = np.random.default_rng(43)
    for m, k, n in [(37, 101, 45), (130, 500, 70), (65, 17, 129)]:
        a, b = draw(rng, m, k), draw(rng, k, n)
        whole = product(a, b)
        for i in (0, 1, m // 2, m - 1):
            np.testing.assert_array_equal(product(a[i : i + 1], b)[0], whole[i], err_msg=f"row {i} of {m, k, n}")
        for j in (0, 1, n // 2, n - 1):
            np.testing.assert_array_equal(product(a, b[:, j : j + 1].copy())[:, 0], whole[:, j], err_msg=f"column {j} of {m, k, n}")


@needs_bf16
@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_row_and_column(poison):
    """k is odd and the poison in its last place, beside the zero that fills the last pair."""
    rng = np.random.default_rng(44)
    for (m, k, n), (transpose_a, transpose_b) in itertools.product([(5, 3, 7), (33, 71, 35)], TRANSPOSES):
        a, b = draw(rng, m, k), draw(rng, k, n)
        a[m // 2, k - 1] = poison
        found = product(a, b, transpose_a, transpose_b)
        finite = np.isfinite(found)
        assert not finite[m // 2].any(), f"{poison} in a row of a was lost"
        assert np.delete(finite, m // 2, axis=0).all(), f"{poison} in a row of a reached other rows"
        np.testing.assert_array_equal(found[m // 2], poison * b[k - 1], err_msg="the sign of an infinity")
        a[m // 2, k - 1] = 1
        b[k - 1, n - 1] = poison
        finite = np.isfinite(product(a, b, transpose_a, transpose_b))
        assert not finite[:, n - 1].any(), f"{poison} in a column of b was lost"
        assert finite[:, :-1].all(), f"{poison} in a column of b reached other columns"


@needs_bf16
def test_public_matmul():
    rng = np.random.default_rng(45)
    a, b = draw(rng, 9, 21), draw(rng, 21, 5)
    np.testing.assert_array_equal(fo.kernels.matmul(a, b, precision="bf16"), bf16_chain(a, b))
    refuses("float64 arrays", fo.kernels.matmul, a.astype(float), b.astype(float), precision="bf16", match="float64")
    refuses("an unknown precision", fo.kernels.matmul, a, b, precision="fp8", match="full, bf16")


# ---- networks -------------------------------------------------------------------------------------------------------------------------


@needs_bf16
def test_a_network_of_integers_is_its_twin_to_the_bit():
    """Integers are exact in float32 sums, so that forward and backward must be those of NumPy with rounded operands."""
    rng = np.random.default_rng(46)
    net = fo.Network(37, [fo.layers.Dense(65, activation="relu"), fo.layers.Dense(17)], precision="bf16")
    for view in net.parameters.values():
        view[...] = integers(rng, *view.shape)
    x, g = integers(rng, 70, 37), integers(rng, 70, 17)
    w1, b1, w2, b2 = (net.parameters[name].astype(float) for name in ("0.weight", "0.bias", "1.weight", "1.bias"))
    h = np.maximum(bf16_matmul(x, w1) + b1, 0)
    assert (to_bf16(h) != h).any(), "rounding of the hidden activations must matter here"
    np.testing.assert_array_equal(net.forward(x, training=True), bf16_matmul(h, w2) + b2)
    np.testing.assert_array_equal(net(x), bf16_matmul(h, w2) + b2, err_msg="inference")
    grad_x = net.backward(g)
    grad_h = bf16_matmul(g, w2.T) * (h > 0)
    assert (to_bf16(grad_h) != grad_h).any()
    expected = {"0.weight": bf16_matmul(x.T, grad_h), "0.bias": grad_h.sum(0), "1.weight": bf16_matmul(h.T, g), "1.bias": g.sum(0)}
    for name, value in expected.items():
        np.testing.assert_array_equal(net.gradients[name], value, err_msg=name)
    np.testing.assert_array_equal(grad_x, bf16_matmul(grad_h, w1.T))


@needs_bf16
@pytest.mark.parametrize("activation", core.activation_names())
def test_every_activation_meets_the_product(activation):
    """One layer of bf16 products with each activation fused, against the same layer in full precision fed with rounded operands."""
    rng = np.random.default_rng(47)
    x, g = draw(rng, 40, 20), draw(rng, 40, 33)
    half, full = (fo.Network(20, [fo.layers.Dense(33, activation=activation)], seed=2, precision=p) for p in ("bf16", "full"))
    full.parameters["0.weight"][...] = to_bf16(full.parameters["0.weight"])
    close(half.forward(x, training=True), full.forward(to_bf16(x).astype(np.float32), training=True), 2e-6, "forward")
    half.backward(g), full.backward(g)
    close(half.gradients["0.bias"], full.gradients["0.bias"], 1e-5, "slope of the activation")
    close(half.gradients["0.weight"], full.gradients["0.weight"], 2e-2, "weight gradient, of which bf16 rounds the slopes too")


@needs_bf16
@pytest.mark.parametrize("units", [1, 2, 4])
def test_thin_layers_stay_float32(units):
    rng = np.random.default_rng(48)
    x, g = draw(rng, 50, 64), draw(rng, 50, units)
    half, full = (fo.Network(64, [fo.layers.Dense(units)], seed=3, precision=p) for p in ("bf16", "full"))
    for net in (half, full):
        net.forward(x, training=True)
    np.testing.assert_array_equal(half.backward(g), full.backward(g))
    np.testing.assert_array_equal(half.gradients["0.weight"], full.gradients["0.weight"])
    np.testing.assert_array_equal(half(x), full(x))


def trainer_of(precision="bf16", optimizer="adam", seed=5):
    net = fo.mlp(96, [160, 80], 5, batch_norm=True, dropout=0.1, standardize=True, seed=seed, precision=precision)
    return fo.Trainer(net, "cross_entropy", optimizer, ema=0.9)


def data(rows=700, seed=51):
    """Five classes by a rule of two directions, on 96 columns."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, 96)).astype(np.float32)
    return x, (2 * (x[:, :48].sum(1) > 0) + (x[:, 48:].sum(1) > 0) + (x[:, :10].sum(1) > 4)).astype(np.int64)


@needs_bf16
def test_the_same_bits_on_any_number_of_threads():
    rng = np.random.default_rng(52)
    operands = [(draw(rng, m, k), draw(rng, k, n)) for m, k, n in [(257, 785, 300), (513, 64, 272), (70, 2051, 131), (2000, 31, 64)]]
    x, y = data()

    def everything():
        for (a, b), (transpose_a, transpose_b) in itertools.product(operands, TRANSPOSES):
            yield product(a, b, transpose_a, transpose_b)
        for optimizer in ("adam", "schedule_free_adamw"):
            trainer = trainer_of(optimizer=optimizer)
            history = trainer.fit(x, y, epochs=2, batch_size=256, validation=0.2)
            yield from [*trainer.state_dict().values(), np.array(history["loss"]), np.array(history["val_loss"]), trainer.predict_proba(x)]

    def bits(threads):
        fo.set_num_threads(threads)
        return [array.tobytes() for array in everything()]

    expected = bits(THREADS[0])
    for threads in THREADS[1:]:
        differ = [i for i, (one, more) in enumerate(zip(expected, bits(threads), strict=True)) if one != more]
        assert not differ, f"{len(differ)} of {len(expected)} differ between 1 and {threads} threads: {differ}"


@needs_bf16
def test_few_rows_and_many():
    x, net = data()[0], fo.mlp(96, [160, 80], 5, seed=6, precision="bf16")
    whole = net(x)
    for i, j in ((0, 1), (1, 3), (511, 512), (512, 526), (684, 699)):
        np.testing.assert_array_equal(net(x[i:j]), whole[i:j])


@needs_bf16
def test_it_trains_and_masters_stay_float32():
    x, y = data(rows=2000)
    accuracy, networks = {}, {}
    for precision in ("full", "bf16"):
        net = fo.mlp(96, [128], 5, seed=7, precision=precision)
        trainer = fo.Trainer(net, "cross_entropy", fo.optimizers.Adam(learning_rate=3e-3))
        history = trainer.fit(x[:1500], y[:1500], epochs=10, batch_size=50)
        assert history["loss"][-1] < 0.3 * history["loss"][0], f"{precision}: {history['loss']}"
        accuracy[precision] = trainer.evaluate(x[1500:], y[1500:], metrics=["accuracy"])["accuracy"]
        networks[precision] = net
        kinds = {value.dtype for name, value in trainer.state_dict().items() if value.dtype.kind == "f" and value.ndim}
        assert kinds <= {np.dtype(np.float32), np.dtype(np.float64)}
    assert accuracy["bf16"] > accuracy["full"] - 0.03, accuracy
    weight = networks["bf16"].parameters["0.weight"]
    assert weight.dtype == np.float32
    assert (to_bf16(weight) != weight).mean() > 0.9, "the weights themselves are not rounded"
    assert (weight != networks["full"].parameters["0.weight"]).any(), "bf16 products must have been used"


@needs_bf16
def test_small_updates_are_not_lost():
    """A step of 1e-4 of a weight is far below the resolution of bfloat16 and moves the float32 master all the same."""
    net = fo.Network(8, [fo.layers.Dense(8)], precision="bf16")
    before = net.parameters["0.weight"][...] = 1.0
    trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=1e-4))
    trainer.step(np.ones((4, 8), np.float32), np.zeros((4, 8), np.float32))
    moved = net.parameters["0.weight"]
    assert (moved < before).all()
    assert (to_bf16(moved) == before).all()


# ---- round trips ----------------------------------------------------------------------------------------------------------------------


@needs_bf16
def test_copies_carry_the_precision():
    x, net = data()[0], trainer_of().network
    net.adapt(x)
    for other in (net.copy(), copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert other.precision == "bf16"
        np.testing.assert_array_equal(other(x), net(x))
    assert net.copy(dtype="float64").precision == "full", "there are no bfloat16 products in float64"
    assert net.copy(dtype="float32").precision == "bf16"
    full = net.copy(precision="full")
    assert full.precision == "full"
    assert full.copy(precision="bf16").precision == "bf16"
    assert (full(x) != net(x)).any()
    close(full(x), net(x), 3e-2, "both precisions")
    assert "bf16" in net.summary()
    assert "bf16" not in full.summary()
    assert "precision='bf16'" in repr(net)
    assert "precision" not in repr(full)


@needs_bf16
def test_trainers_are_saved_and_go_on_to_the_bit(tmp_path):
    x, y = data()
    straight, first = trainer_of(), trainer_of()
    straight.fit(x, y, epochs=4, batch_size=100)
    first.fit(x, y, epochs=2, batch_size=100)
    first.save(tmp_path / "half.safetensors")
    second = fo.Trainer.load(tmp_path / "half.safetensors")
    assert second.network.precision == "bf16"
    second.fit(x, y, epochs=2, batch_size=100)
    for name, value in straight.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[name], value, err_msg=name)
    full = fo.Trainer.load(tmp_path / "half.safetensors", precision="full")
    assert full.network.precision == "full"
    np.testing.assert_array_equal(full.network.parameters["1.weight"], first.network.parameters["1.weight"])


def test_files_without_a_precision_are_full(tmp_path):
    """What was saved before there was a choice."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    trainer = trainer_of("full")
    trainer.network.adapt(data()[0])
    trainer.save(tmp_path / "new.safetensors")
    with safe_open(str(tmp_path / "new.safetensors"), framework="numpy") as file:
        spec = json.loads(file.metadata()["fastopt"])
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert spec["network"].pop("precision") == "full"
    save_file(arrays, str(tmp_path / "old.safetensors"), metadata={"fastopt": json.dumps(spec)})
    assert fo.Trainer.load(tmp_path / "old.safetensors").network.precision == "full"


@needs_bf16
def test_second_order_and_gradient_checks_compute_in_full():
    rng = np.random.default_rng(54)
    half, full = (fo.mlp(6, [9], 5, activation="tanh", seed=8, precision=p) for p in ("bf16", "full"))
    x, y = draw(rng, 30, 6), draw(rng, 30, 5)
    v = draw(rng, half.num_parameters)
    np.testing.assert_array_equal(half.hvp("mse", x, y, v), full.hvp("mse", x, y, v))
    np.testing.assert_array_equal(half.hessian("mse", x, y), full.hessian("mse", x, y))
    np.testing.assert_array_equal(half.jacobian(x), full.jacobian(x))
    assert fo.check_gradients(half, "mse", x, y)
    weights = []
    for net in (half, full):
        fo.Trainer(net, "mse", "levenberg_marquardt").fit(x, y, epochs=3, batch_size=None)
        weights.append(np.concatenate([view.ravel() for view in net.parameters.values()]))
    np.testing.assert_array_equal(*weights)


# ---- refusals -------------------------------------------------------------------------------------------------------------------------


def test_wrong_precisions():
    def make(precision, dtype="float32"):
        return fo.mlp(4, [8], 2, dtype=dtype, precision=precision)

    assert make("full").precision == make("full", "float64").precision == "full"
    refuses("an unknown precision", make, "fp16", errors=ValueError, match="'fp16'.*full, bf16")
    refuses("a number", make, 16, errors=TypeError, match="full, bf16")
    refuses("float64", make, "bf16", "float64", errors=ValueError, match="float64")
    refuses("a float64 copy", make("full").copy, dtype="float64", precision="bf16", errors=ValueError, match="float64")
    refuses("None", make, None, errors=TypeError, match="full, bf16")


def test_build_info_says_whether_it_is_there(capsys):
    assert fo.build_info()["bf16"] in (True, False)
    fo.show_config()
    assert f"bf16 {AVAILABLE}" in " ".join(capsys.readouterr().out.split())
    if AVAILABLE:
        assert core.bf16_rate(0.001) > 0
    else:
        refuses("the rate of what is not there", core.bf16_rate, 0.001, match="AVX512_BF16")


@pytest.mark.skipif(AVAILABLE, reason="bfloat16 products are there; the test below asks a core without them")
def test_an_error_where_it_is_missing():
    text = refuses("bf16", fo.mlp, 4, [8], 2, precision="bf16", errors=ValueError, match="AVX512_BF16")
    assert "'full'" in text, "the error says what to do"


@pytest.mark.skipif("v3" not in built_isas(), reason="the core for v3 is not built here")
def test_the_core_v3_refuses(tmp_path):
    """A clear error, never a silent fall-back; and a trainer saved with bf16 can be loaded for full precision."""
    if AVAILABLE:
        trainer = trainer_of()
        trainer.network.adapt(data()[0])
        trainer.save(tmp_path / "half.safetensors")
    out = run_python(
        """
        import sys
        import fastopt as fo, numpy as np

        def told(call):
            try:
                call()
            except ValueError as error:
                return str(error)

        assert fo.build_info()["bf16"] is False
        path, saved = sys.argv[1], sys.argv[2] == "True"
        one = np.ones((1, 1), np.float32)
        calls = [lambda: fo.mlp(4, [8], 2, precision="bf16"), lambda: fo.kernels.matmul(one, one, precision="bf16"),
                 lambda: fo.mlp(4, [8], 2).copy(precision="bf16")]
        for call in calls + [lambda: fo.Trainer.load(path)] * saved:
            text = told(call)
            assert text and "v4" in text and "AVX512_BF16" in text and "'full'" in text, text
        if saved:
            assert fo.Trainer.load(path, precision="full").network.precision == "full"
        print("refused")
        """,
        isa="v3",
        arguments=(str(tmp_path / "half.safetensors"), str(AVAILABLE)),
    )
    assert out == "refused"
