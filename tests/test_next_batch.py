"""The next batch is gathered by threads that wait for each other: the bits of one thread, and never rows of another time."""

import fastopt as fo
import numpy as np
import pytest
from numpy.testing import assert_array_equal

ROWS, INPUTS, OUTPUTS, BATCH, EPOCHS = 75, 30, 3, 33, 3  # a short batch of nine rows at the end


def sharing_network(inputs=INPUTS):
    """Threads share its products, because of the batch normalization."""
    layers = [fo.layers.Dense(20, activation="relu"), fo.layers.BatchNorm(), fo.layers.Dense(OUTPUTS)]
    return fo.Network(inputs, layers, dtype="float32", seed=3)


def halved_network(inputs=INPUTS):
    """Two threads share the units of its first two layers."""
    layers = [fo.layers.Dense(64, activation="relu"), fo.layers.Dense(64, activation="relu"), fo.layers.Dense(OUTPUTS)]
    return fo.Network(inputs, layers, dtype="float32", seed=3)


def gathered_rows(profile):
    """Rows that were gathered between two steps."""
    return sum(rows for phase, _, _, rows, _ in profile._native.cells() if phase == "gather")


def trained(x, y, loss, weight=None):
    """(state, losses, rows that were gathered between two steps)."""
    trainer = fo.Trainer(sharing_network(), loss, "adam")
    with trainer.profile() as profile:
        history = trainer.fit(x, y, epochs=EPOCHS, batch_size=BATCH, sample_weight=weight)
    return trainer.state_dict(), history["loss"], gathered_rows(profile)


@pytest.mark.parametrize("source", [np.float32, np.float64, np.uint8, np.int16])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_the_bits_of_one_thread(cut_for_threads, source, loss):
    rng = np.random.default_rng(1)
    x = rng.integers(0, 9, (ROWS, INPUTS)).astype(source)
    y = rng.integers(0, OUTPUTS, ROWS) if loss == "cross_entropy" else rng.standard_normal((ROWS, OUTPUTS))
    weight = rng.random(ROWS) if source is np.float64 else None
    cut_for_threads(1)
    state, losses, rows = trained(x, y, loss, weight)
    assert rows == EPOCHS * ROWS
    for threads in (2, 3, 4):
        cut_for_threads(threads)
        others, again, rows = trained(x, y, loss, weight)
        assert BATCH <= rows < EPOCHS * ROWS  # the first batch of each native run, which is a piece of an epoch or several of them
        assert again == losses
        for name, value in state.items():
            assert_array_equal(others[name], value, err_msg=f"{name}, {threads} threads")


def test_a_large_batch_has_one_place_in_memory(cut_for_threads):
    rows, inputs = 3000, 800  # 4.8 MB a batch
    cut_for_threads(2)
    trainer = fo.Trainer(sharing_network(inputs), "mse", "sgd")
    with trainer.profile() as profile:
        trainer.fit(np.ones((rows, inputs), np.float32), np.ones((rows, OUTPUTS), np.float32), epochs=1, batch_size=rows // 2)
    assert gathered_rows(profile) == rows


@pytest.mark.parametrize("network", [sharing_network, halved_network])
@pytest.mark.parametrize("index", [np.int32, np.int64])
def test_rows_of_another_time_are_not_used(cut_for_threads, index, network):
    """A run ends with a loss that is not finite, when the next batch may be there already; then the caller changes the data."""
    cut_for_threads(2)
    rng = np.random.default_rng(2)
    x, y = rng.standard_normal((ROWS, INPUTS)).astype(np.float32), rng.standard_normal((ROWS, OUTPUTS)).astype(np.float32)
    order, rates = np.arange(ROWS, dtype=index), np.full(3, 1e-3)
    losses, weights = np.zeros(3), np.zeros(3)

    def run(trainer, first, stop):
        return trainer._native.run_steps(x, y, None, order, BATCH, rates, losses, weights, first, stop)

    used, fresh = (fo.Trainer(network(), "mse", "adam") for _ in range(2))
    y[5] = np.inf
    assert run(used, 0, 3) == 0
    x += 1
    y[5] = 0
    assert run(used, 1, 3) == run(fresh, 1, 3) == 2
    for name, value in fresh.state_dict().items():
        assert_array_equal(used.state_dict()[name], value, err_msg=name)
    assert (used._native.steps_in_halves > 0) == (network is halved_network)


@pytest.mark.parametrize("network", [sharing_network, halved_network])
def test_a_run_that_begins_with_a_short_batch(cut_for_threads, network):
    """The batch after it is longer than any that the network has memory for."""
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal((ROWS, INPUTS)).astype(np.float32), rng.standard_normal((ROWS, OUTPUTS)).astype(np.float32)
    order, steps = np.concatenate([rng.permutation(ROWS), rng.permutation(ROWS)]), 2 * -(-ROWS // BATCH)
    first = steps // 2 - 1
    states = []
    for threads in (1, 2):
        cut_for_threads(threads)
        trainer = fo.Trainer(network(), "mse", "adam")
        rates, losses, weights = np.full(steps, 1e-3), np.zeros(steps), np.zeros(steps)
        assert trainer._native.run_steps(x, y, None, order, BATCH, rates, losses, weights, first, steps, ROWS, None) == steps - first
        states.append({**trainer.state_dict(), "losses": losses})
    for name, value in states[0].items():
        assert_array_equal(states[1][name], value, err_msg=name)
