"""Steps that change between one thread and a team while they run: the same bits, losses that stop, errors that come out."""

import os
import subprocess
import sys
import time

import fastopt as fo
import numpy as np
import pytest
from native import core
from numpy.testing import assert_array_equal

EPOCHS = 8


@pytest.fixture
def threads():
    before = fo.get_num_threads()
    yield fo.set_num_threads
    fo.set_num_threads(before)


@pytest.fixture
def busy_cores():
    """On every core a process that never rests."""
    processes = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in os.sched_getaffinity(0)]
    yield
    for process in processes:
        process.kill()
        process.wait()


def new_trainer(batch_norm, rows=4096, learning_rate=1e-3, hidden=128):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 64), dtype=np.float32)
    y = rng.integers(0, 10, rows).astype(np.int32)
    network = fo.mlp(64, [hidden, 64], 10, batch_norm=batch_norm, dropout=0.1)
    return x, y, fo.Trainer(network, loss="softmax_cross_entropy", optimizer=fo.optimizers.Adam(learning_rate=learning_rate))


def stepped(x, y, trainer, steps):
    """The losses of so many single steps."""
    starts = [60 * step % 540 for step in range(steps)]
    return [trainer.step(x[first : first + 60], y[first : first + 60]) for first in starts]


def trained(batch_norm, **options):
    x, y, trainer = new_trainer(batch_norm, **options)
    history = trainer.fit(x, y, epochs=EPOCHS, batch_size=60, progress=False)
    return history["loss"] + stepped(x, y, trainer, 10), trainer.network.state_dict()


def trained_by_steps(batch_norm):
    """One step a call from the start: more of them than it takes to know one way and to try the other."""
    x, y, trainer = new_trainer(batch_norm, rows=600)
    return stepped(x, y, trainer, 100), trainer.network.state_dict()


def trained_by_sizes(batch_norm):
    """Steps of more and less work: what is known of the others is scaled or forgotten."""
    x, y, trainer = new_trainer(batch_norm, rows=600)
    losses = [trainer.step(x[:rows], y[:rows]) for rows in (60, 120, 240, 120, 45, 60, 600) * 15]
    return losses, trainer.network.state_dict()


@pytest.mark.parametrize(("pause", "cold"), [(0.3, 2.5), (0.05, 2.5), (0.0, 1.0)], ids=["long pauses", "short pauses", "no pauses"])
def test_the_way_that_became_faster_is_found(threads, pause, cold):
    """On a clock of its own. What is tried just after a pause, when all is slow, would lose to times from before it again and again."""
    threads(2)
    slow, fast = 22 * [80e-6], 2 * [110e-6] + 20 * [50e-6]
    bursts = {"work": 5e6, "cold": cold, "cold_seconds": 0.008, "pause": pause}
    assert min(core.simulate_bursts(slow, fast, **bursts)[10:]) > 0.8
    assert max(core.simulate_bursts(fast, slow, **bursts)[10:]) < 0.2


@pytest.mark.parametrize("pause", [0.05, 1.0])
def test_a_pause_may_turn_the_choice_around(threads, pause):
    """The cores of a shared machine lie near each other in one burst and far apart in the next: what was known before says little."""
    threads(2)
    alone, near, far = 28e-6, 21e-6, 36e-6
    together = [near, near, far, near, far, far] * 10
    parts = core.simulate_bursts(len(together) * [alone], together, 5e6, cold=2, cold_seconds=0.008, burst_seconds=0.1, pause=pause)
    took = [part * time + (1 - part) * alone for part, time in zip(parts, together, strict=True)]
    ideal = [min(alone, time) for time in together]
    assert sum(took[6:]) < 1.05 * sum(ideal[6:])


@pytest.mark.parametrize("work", [1e6, 1e7])
def test_a_second_core_must_be_worth_three_percent(threads, work):
    """Trials of a team that is nearly as fast are long; beyond them one thread stays."""
    threads(2)
    assert core.simulate_bursts(8 * [1e-4], 8 * [9e-5], work)[-1] > 0.8
    assert core.simulate_bursts(8 * [1e-4], 8 * [9.9e-5], work)[-1] < 0.5


def test_steps_of_too_little_work_stay_alone(threads):
    """However fast a team would be; where the limit is lower, it is tried."""
    threads(2)
    assert core.simulate_bursts(4 * [3e-6], 4 * [2e-6], 2e5) == 4 * [0.0]
    assert core.simulate_bursts(4 * [3e-6], 4 * [2e-6], 2e5, least=1e5)[-1] > 0.8


def test_a_team_that_has_its_cores_is_seldom_compared(threads):
    """What a thread on another core got is noted down every few ms; in a block of steps a team then looks as if it had lost one."""
    threads(2)
    parts = core.simulate_bursts(8 * [6e-5], 8 * [4e-5], 5e6, burst_seconds=1.0, pause=0.0, tick=6e-3)
    assert min(parts[1:]) > 0.994


def test_a_team_that_lost_its_cores_is_compared_soon(threads):
    """Of steps as long as these nothing else is tried."""
    threads(2)
    long = {"work": 8e9, "burst_seconds": 8.0, "pause": 0.0, "tick": 4e-3}
    assert min(core.simulate_bursts(3 * [0.06], 3 * [0.08], share=1.0, **long)) > 0.9999
    assert core.simulate_bursts(3 * [0.06], 3 * [0.08], share=0.3, **long)[-1] < 0.1


def test_a_team_of_large_steps_is_compared_seldom(threads):
    """A host may take a core away without a word, and give it back; a team that is faster loses little time to trials."""
    threads(2)
    large = {"work": 2e8, "burst_seconds": 4.0, "pause": 0.0}
    parts = core.simulate_bursts(3 * [2e-3] + 3 * [3e-3], 3 * [5e-3] + 3 * [2e-3], **large)
    assert max(parts[1:3]) < 0.05, f"{parts} of the time by a slower team"
    assert min(parts[4:]) > 0.95, f"{parts} of the time by a faster one"
    assert min(core.simulate_bursts(4 * [4.2e-3], 4 * [2.1e-3], **large)[1:]) > 0.99


def test_large_steps_that_begin_alone(threads):
    """As a solver's do, between whose evaluations a library for linear algebra has threads of its own."""
    threads(2)
    solver = {"work": 2e8, "burst_seconds": 2.0, "pause": 0.0, "begins_alone": True}
    assert core.simulate_bursts([2e-3], [6e-3], **solver)[0] < 0.05
    assert core.simulate_bursts([4.2e-3], [2.1e-3], **solver)[0] > 0.9
    assert core.simulate_bursts([0.06], [0.03], **solver)[0] > 0.85
    assert core.simulate_bursts([4.2e-3], [2.1e-3], **solver | {"burst_seconds": 0.06}) == [0.0]  # over before a trial pays


@pytest.mark.parametrize("train", [trained, trained_by_steps, trained_by_sizes])
@pytest.mark.parametrize("batch_norm", [True, False])
def test_the_choice_does_not_change_a_bit(threads, batch_norm, train):
    threads(1)
    losses, weights = train(batch_norm)
    for number in (2, 3):
        threads(number)
        again, others = train(batch_norm)
        assert again == losses
        for name, weight in weights.items():
            assert_array_equal(others[name], weight, err_msg=f"{name}, {number} threads")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system does not say which cores are ours")
def test_large_steps_that_do_not_get_their_cores(threads, busy_cores):
    """They begin with a team and try one thread: the same bits, and an end."""
    threads(1)
    losses, weights = trained(False, rows=1200, hidden=512)
    threads(2)
    again, others = trained(False, rows=1200, hidden=512)
    assert again == losses
    for name, weight in weights.items():
        assert_array_equal(others[name], weight, err_msg=name)


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_loss_that_is_not_finite_stops_a_team(threads, batch_norm):
    threads(2)
    with pytest.raises(fo.NonFiniteLossError, match="step"):
        trained(batch_norm, learning_rate=1e30)
    losses, _ = trained(batch_norm)
    assert losses[EPOCHS - 1] < losses[0]


@pytest.mark.skipif(not os.path.isdir("/proc/self/task"), reason="threads are listed by Linux")
def test_threads_may_run_where_they_might_before(cut_for_threads):
    """A thread of a team that wakes on the leader's core leaves it; afterwards it may run everywhere again."""
    cut_for_threads(2)
    for _ in range(10):
        trained(False, rows=600)
        time.sleep(0.005)
    for thread in os.listdir("/proc/self/task"):
        assert os.sched_getaffinity(int(thread)) == os.sched_getaffinity(0), thread
