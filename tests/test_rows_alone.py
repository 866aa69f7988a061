"""Steps in which each thread takes rows of its own through all layers, then its part of every weight gradient: the bits of one thread."""

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from native import DTYPES, core
from numpy.testing import assert_array_equal

ROWS, INPUTS, OUTPUTS, BATCH = 75, 30, 3, 33  # a short batch of nine rows at the end

L = fo.layers
NETWORKS = {
    "every kind of layer": [
        L.Standardize(),
        L.Dense(33),
        L.Activation("gelu"),
        L.Dropout(0.3),
        L.Activation("silu"),
        L.Dense(17, bias=False),
    ],
    "frozen first": [L.Dense(20, activation="relu", trainable=False), L.Dense(40, activation="tanh")],
    "frozen between": [L.Dense(20, activation="relu"), L.Dense(18, activation="elu", trainable=False), L.Dense(16, activation="silu")],
    "transparent between": [L.Dense(20, activation="relu"), L.Dropout(0.0), L.Activation("identity"), L.Dense(16)],
    "transparent first": [L.Dropout(0.0), L.Dense(20, activation="gelu")],
    "thin": [L.Dense(1, activation="tanh"), L.Dense(4, activation="softplus"), L.Dense(2)],
    "dropout first": [L.Dropout(0.5), L.Dense(100, activation="leaky_relu")],
    "wide": [L.Dense(200, activation="relu"), L.Dense(90, activation="relu")],
}
OPTIONS = {
    "plain": {},
    "in the update": {"l1": 1e-3, "l2": 1e-3, "clip_value": 0.05, "ema": 0.9},
    "after all gradients": {"clip_norm": 0.1, "accumulate": 2, "ema": 0.9},
}


def trained(layers, optimizer="adam", dtype="float32", precision="full", weighted=False, source=np.float64, inputs=INPUTS, **options):
    """(state, losses, whether threads met in rows)."""
    rng = np.random.default_rng(5)
    x, y = (3 * rng.standard_normal((ROWS, inputs))).astype(source), rng.standard_normal((ROWS, OUTPUTS))
    net = fo.Network(inputs, layers, dtype=dtype, precision=precision, seed=3)
    trainer = fo.Trainer(net, "mse", optimizer, **options)
    with trainer.profile() as profile:
        history = trainer.fit(x, y, epochs=3, batch_size=BATCH, sample_weight=rng.random(ROWS) if weighted else None)
    return trainer.state_dict(), history["loss"], "wait" in profile


def same_bits(cut_for_threads, layers, *, last=True, **case):
    layers = [*layers, L.Dense(OUTPUTS)] if last else layers
    cut_for_threads(1)
    state, losses, waited = trained(layers, **case)
    assert not waited
    for threads in (2, 3, 4):
        cut_for_threads(threads)
        others, again, waited = trained(layers, **case)
        assert waited
        assert again == losses
        for name, value in state.items():
            assert_array_equal(others[name], value, err_msg=f"{name}, {threads} threads")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(cut_for_threads, name, dtype):
    same_bits(cut_for_threads, NETWORKS[name], dtype=dtype, weighted=True)


@pytest.mark.parametrize("source", [np.float32, np.int16])
@pytest.mark.parametrize("inputs", [1, 3, 8, 16, 30, 241, 300])
def test_inputs(cut_for_threads, inputs, source):
    """Each thread has an input of its own, or with the wide ones all share one."""
    same_bits(cut_for_threads, [L.Dropout(0.0), L.Dense(20, activation="relu")], inputs=inputs, source=source)


@pytest.mark.parametrize("end", [L.Dropout(0.0), L.Dropout(0.2), L.Activation("gelu")])
def test_ends(cut_for_threads, end):
    same_bits(cut_for_threads, [L.Dense(20), L.Dense(OUTPUTS), end], last=False)


def test_all_frozen(cut_for_threads):
    same_bits(cut_for_threads, [L.Dense(20, trainable=False), L.Dense(OUTPUTS, trainable=False)], last=False)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("optimizer", core.optimizer_names())
def test_optimizers(cut_for_threads, optimizer, options):
    same_bits(cut_for_threads, NETWORKS["every kind of layer"], optimizer=optimizer, **OPTIONS[options])


@pytest.mark.parametrize("activation", core.activation_names())
def test_activations(cut_for_threads, activation):
    same_bits(cut_for_threads, [L.Dense(20, activation=activation), L.Activation(activation), L.Dense(9, activation=activation)])


@pytest.mark.skipif(not fo.build_info()["bf16"], reason="no bfloat16 here")
def test_bf16(cut_for_threads):
    same_bits(cut_for_threads, NETWORKS["wide"], precision="bf16")


def test_a_loss_that_is_not_finite(cut_for_threads):
    cut_for_threads(2)
    with pytest.raises(fo.NonFiniteLossError, match="step"):
        trained([L.Dense(20), L.Dense(OUTPUTS)], optimizer=fo.optimizers.SGD(learning_rate=1e30))
    same_bits(cut_for_threads, NETWORKS["wide"])


def test_fewer_threads_than_asked_for():
    """OpenMP may give fewer; every part of the parameters is updated all the same."""
    code = """
        import hashlib
        import fastopt as fo
        import numpy as np
        from native import core

        core.set_work_per_thread(1.0)
        rng = np.random.default_rng(0)
        x, y = rng.standard_normal((75, 30)), rng.standard_normal((75, 3))
        trainer = fo.Trainer(fo.mlp(30, [64, 48], 3, seed=0), "mse")
        with trainer.profile() as profile:
            trainer.fit(x, y, epochs=3, batch_size=33, progress=False)
        state = b"".join(value.tobytes() for value in trainer.state_dict().values())
        print("wait" in profile, hashlib.sha256(state).hexdigest())
    """
    alone = run_python(code, threads=1).split()
    for limit in ("1", "3", "8"):
        apart, digest = run_python(code, threads=4, OMP_THREAD_LIMIT=limit).split()
        assert (apart, digest) == ("True", alone[1]), f"at most {limit} threads"
