"""Threads that share a trainer whose evaluation exchanges weights: whoever evaluates sees the average, whoever trains the weights."""

import gc
import os
import pickle
import signal
import sys
import threading
import weakref

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from fastopt._backend import core
from helpers import refuses

AVERAGES = [{"ema": 0.9}, {"optimizer": "schedule_free_adamw"}]


def data(rows=300):
    x = np.random.default_rng(161).standard_normal((rows, 6)).astype(np.float32)
    return x, x[:, :1] * x[:, 1:2]


def trainer_of(ema=0.0, optimizer="adam", batch_norm=False):
    return fo.Trainer(fo.mlp(6, [64, 64], 1, seed=2, batch_norm=batch_norm), "mse", optimizer, ema=ema)


def all_at_once(*functions):
    """Call them in threads of their own; what one raises comes back."""
    errors = []

    def guarded(function):
        try:
            function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(function,)) for function in functions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


@pytest.mark.parametrize("options", AVERAGES, ids=str)
def test_evaluation_in_several_threads(options):
    x, y = data()
    trainer = trainer_of(**options)
    trainer.fit(x, y, epochs=3)
    alone, loss = trainer.predict(x), trainer.evaluate(x, y)["loss"]

    def evaluate():
        for _ in range(50):
            np.testing.assert_array_equal(trainer.predict(x), alone)
            assert trainer.evaluate(x, y)["loss"] == loss

    assert all_at_once(evaluate, evaluate, evaluate) == []


@pytest.mark.parametrize("how", ["fit", "step"])
@pytest.mark.parametrize("options", AVERAGES, ids=str)
def test_training_while_others_evaluate(options, how):
    """They wait for each other, and training ends where it ends alone."""
    x, y = data()
    trainer, undisturbed = trainer_of(**options, batch_norm=True), trainer_of(**options, batch_norm=True)
    done = threading.Event()

    monitors = {one: fo.callbacks.GradientMonitor() for one in (trainer, undisturbed)}

    def train(one):
        if how == "fit":
            one.fit(x, y, epochs=40, validation=(x, y), callbacks=[monitors[one]])
        else:
            for _ in range(200):
                one.step(x, y)

    def evaluate():
        while not done.is_set():
            trainer.predict(x)
            trainer.state_dict()

    def train_and_tell():
        try:
            train(trainer)
        finally:
            done.set()

    assert all_at_once(train_and_tell, evaluate, evaluate) == []
    train(undisturbed)
    expected = undisturbed.state_dict()
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)
    assert trainer.history.rows == undisturbed.history.rows
    assert monitors[trainer].update_norms == monitors[undisturbed].update_norms
    assert monitors[trainer].gradient_norms == monitors[undisturbed].gradient_norms


def test_who_waits_has_the_next_turn():
    """Also when the one before comes back at once."""
    turn, order = core.Turn(lambda: None), []

    def other():
        with turn:
            order.append("other")

    thread = threading.Thread(target=other)
    with turn:
        thread.start()
        while turn.waiting == 0:
            pass
        with turn:
            order.append("again")
    with turn:
        order.append("next")
    thread.join()
    assert order == ["again", "other", "next"]


def test_an_evaluation_that_ends_in_another_thread():
    """As a generator's does that is collected there: others have their turn afterwards."""
    x, y = data()
    trainer = trainer_of(ema=0.9)
    trainer.fit(x, y, epochs=2)
    before = trainer.state_dict()
    context = trainer.evaluation_weights()
    context.__enter__()
    assert all_at_once(lambda: context.__exit__(None, None, None)) == []
    assert all_at_once(lambda: trainer.predict(x)) == []
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_interrupts_leave_no_turn_taken():
    """Wherever they come: the turn is free for another thread afterwards."""
    out = run_python("""
        import signal, threading
        from fastopt._backend import core
        turn = core.Turn(lambda: None)

        def interrupt(*_):
            raise KeyboardInterrupt

        def other():
            with turn:
                taken.append(1)

        signal.signal(signal.SIGALRM, interrupt)
        taken = []
        for round in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-4 + 1e-6 * round)
                while True:
                    with turn:
                        with turn:
                            pass
            except KeyboardInterrupt:
                pass
            thread = threading.Thread(target=other, daemon=True)
            thread.start()
            thread.join(20)
        print(len(taken))
    """)
    assert out == "200"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_that_is_forked_while_another_thread_evaluates():
    """It has its turn, and the weights are those in training."""
    out = run_python(
        """
        import os, signal, threading
        import numpy as np, fastopt as fo
        x = np.random.default_rng(0).standard_normal((64, 3)).astype("f4")
        trainer = fo.Trainer(fo.mlp(3, [8], 1, seed=0), "mse", ema=0.9)
        trainer.fit(x, x[:, :1], epochs=3)
        before = trainer.network.parameters["0.weight"].copy()
        taken, done = threading.Event(), threading.Event()

        def hold():
            with trainer.evaluation_weights():
                taken.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            code = 1
            try:
                trainer.predict(x)
                code = 7 if np.array_equal(trainer.network.parameters["0.weight"], before) and trainer.step(x, x[:, :1]) > 0 else 2
            finally:
                os._exit(code)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        done.set()
        thread.join()
        """,
        PYTHONWARNINGS="default",
    )
    assert out == "7"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("sizes", [(8, [32, 32], 1), (20, [256, 256], 2), (60, [600, 600], 3)], ids=str)
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_child_that_is_forked_while_another_thread_trains(sizes, ema, tmp_path):
    """Nobody ends that thread's call there; whatever is asked of the network and the trainer does not wait for it."""
    inputs, hidden, outputs = sizes
    out = run_python(
        f"""
        import os, signal, threading, time
        import numpy as np, fastopt as fo
        fo.set_num_threads(2)
        x = np.random.default_rng(0).standard_normal((640, {inputs})).astype("f4")
        y = (x[:, 0] > 0).astype(int)
        loss = "cross_entropy" if {outputs} > 1 else "mse"
        trainer = fo.Trainer(fo.mlp({inputs}, {hidden}, {outputs}, seed=0), loss, ema={ema})
        ended = []
        thread = threading.Thread(target=lambda: trainer.fit(x, y, epochs=10**6, batch_size=64, callbacks=[lambda *_: bool(ended)]))
        thread.start()

        def fit():
            history = trainer.fit(x, y, epochs=5, batch_size=64)
            assert all(map(np.isfinite, history["loss"])) and history["loss"][-1] < 1.2 * history["loss"][0] + 0.1, history["loss"]

        asked = dict(
            call=lambda: trainer.network(x),
            predict=lambda: trainer.predict(x),
            step=lambda: trainer.step(x[:64], y[:64]),
            fit=fit,
            state=lambda: trainer.state_dict(),
            save=lambda: trainer.save({str(tmp_path / "t.npz")!r}),
            other=lambda: fo.Trainer(trainer.network, loss).fit(x, y, epochs=5, batch_size=64),
        )
        for name, ask in asked.items():
            for _ in range(2):
                time.sleep(0.01)
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    code = 1
                    try:
                        ask()
                        fit()
                        code = 7
                    finally:
                        os._exit(code)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                if code != 7:
                    print(name, code)
        ended.append(True)
        thread.join()
        print("done")
        """,
        PYTHONWARNINGS="default",
    )
    assert out == "done"


@pytest.mark.parametrize("options", AVERAGES, ids=str)
def test_nothing_is_reset_while_weights_are_exchanged(options):
    x, y = data()
    trainer = trainer_of(**options)
    trainer.fit(x, y, epochs=2)
    before = trainer.state_dict()
    with trainer.evaluation_weights():
        refuses("reset", trainer.reset, match="evaluation_weights")
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)
    assert trainer.epoch == 2
    trainer.reset()
    trainer.step(x, y)


def test_a_trainer_with_an_average_goes_when_nobody_has_it():
    """Nothing in it refers to itself: a large network need not wait for the garbage collector."""
    x, y = data(8)
    trainer = trainer_of(ema=0.9)
    trainer.step(x, y)
    gone = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert gone() is None
    finally:
        gc.enable()


def test_the_average_of_what_stays_is_what_stays():
    x, y = data(8)
    net = fo.Network(6, [fo.layers.Dense(50, trainable=False), fo.layers.Dense(1)], seed=1)
    trainer = fo.Trainer(net, "mse", ema=0.9999)
    frozen = net.parameters["0.weight"].copy()
    for _ in range(500):
        trainer.step(x, y)
    with trainer.evaluation_weights():
        np.testing.assert_array_equal(net.parameters["0.weight"], frozen)


def test_another_look_at_the_last_batch_is_seen_by_nobody():
    """The training forward of it counts no step, and moves no statistics, that a copy in another thread would have."""
    x, y = data()
    trainer, done, copies = trainer_of(batch_norm=True), threading.Event(), []
    trainer.fit(x, y, epochs=1, batch_size=10)
    before = trainer.state_dict()
    outputs = trainer.network.copy()._native.forward(x, True)

    def look():
        try:
            for _ in range(300):
                np.testing.assert_array_equal(trainer.network._native.forward(x, True, undone=True), outputs)
        finally:
            done.set()

    def copy():
        while not done.is_set():
            copies.append(trainer.state_dict())

    assert all_at_once(look, copy) == []
    for state in [*copies, trainer.state_dict()]:
        for name, value in before.items():
            np.testing.assert_array_equal(state[name], value, err_msg=name)


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=str)
def test_a_state_that_is_copied_while_another_thread_trains(options, tmp_path):
    """It is that between two steps: the weights, slots and averages that so many steps make."""
    pytest.importorskip("safetensors")
    x, y = data()
    trainer, copies = trainer_of(**options), []
    under_way, copied = threading.Event(), threading.Event()

    def train():
        trainer.fit(x, y, epochs=5, batch_size=10)
        under_way.set()
        while not copied.is_set():
            trainer.fit(x, y, epochs=50, batch_size=10)

    def copy():
        under_way.wait()
        for i in range(4):
            trainer.save(tmp_path / f"{i}.safetensors")
            copies.append(fo.Trainer.load(tmp_path / f"{i}.safetensors").state_dict())
            copies.append(trainer.state_dict())
            copies.append(pickle.loads(pickle.dumps(trainer)).state_dict())

    def copy_and_tell():
        try:
            copy()
        finally:
            copied.set()

    assert all_at_once(train, copy_and_tell) == []
    copies.append(trainer.state_dict())
    again, epoch, batches = trainer_of(**options), 0, iter(())
    for state in copies:
        while again.steps < state["counters"][0]:
            for rows, target in batches:
                again.step(rows, target)
                if again.steps == state["counters"][0]:
                    break
            else:
                batches = fo.data.batches(x, y, batch_size=10, seed=again.seed, epoch=epoch)
                epoch += 1
        for name, value in again.state_dict().items():
            np.testing.assert_array_equal(value, state[name], err_msg=f"{name} after {again.steps} steps")
    assert len({int(state["counters"][0]) for state in copies}) > 3, "copied all at the same time"


@pytest.mark.parametrize("watched", [False, True], ids=["epochs together", "one by one"])
@pytest.mark.parametrize("how", ["file", "pickle"])
def test_epochs_of_a_copy_belong_to_its_weights(how, watched, tmp_path):
    """The epochs that have ended, each with its row: at most the one under way is in the weights alone."""
    x, y = data(320)
    trainer, found, each, times = trainer_of(), [], 10, set()
    begun, done = threading.Event(), threading.Event()
    watch = [lambda trainer, row: begun.set()] if watched else []

    def train():
        try:
            while not done.is_set():
                trainer.fit(x, y, epochs=20 if watched else 2000, batch_size=32, callbacks=watch)
                begun.set()
        finally:
            begun.set()
            done.set()

    def copy():
        try:
            begun.wait()
            while not done.is_set() and (len(found) < 25 or len(times) < 4):
                if how == "file":
                    trainer.save(tmp_path / "copy")
                    found.append(fo.Trainer.load(tmp_path / "copy"))
                else:
                    found.append(pickle.loads(pickle.dumps(trainer)))
                times.add(found[-1].steps)
        finally:
            done.set()

    if how == "file":
        pytest.importorskip("safetensors")
    assert all_at_once(train, copy) == []
    for one in found:
        assert one.epoch == len(one.history.rows) == len(one.history.seconds)
        assert [row["epoch"] for row in one.history.rows] == list(range(one.epoch))
        assert one.history.rows == trainer.history.rows[: one.epoch]
        assert one.steps // each - one.epoch in (0, 1)
    assert len(times) > 3, "copied all at the same time"


def test_weights_are_not_drawn_in_the_middle_of_a_step():
    net, drawn = fo.mlp(6, [8], 1, seed=2), threading.Event()

    def draw():
        net.initialize(3)
        drawn.set()

    with net._native:
        thread = threading.Thread(target=draw)
        thread.start()
        assert not drawn.wait(0.1)
        np.testing.assert_array_equal(net.parameters["0.weight"], fo.mlp(6, [8], 1, seed=2).parameters["0.weight"])
    thread.join()
    np.testing.assert_array_equal(net.parameters["0.weight"], fo.mlp(6, [8], 1, seed=3).parameters["0.weight"])


@pytest.mark.parametrize("options", [{}, {"ema": 0.9}], ids=str)
def test_outputs_are_of_one_state_while_another_is_put_back(options):
    x, y = data(40)
    trainer = trainer_of(**options)
    states, outputs = [], []
    for _ in range(2):
        trainer.fit(x, y, epochs=2)
        states.append((trainer.state_dict(), trainer.network.state_dict()))
        outputs.append((trainer.predict(x), trainer.network(x)))
    done = threading.Event()

    def exchange():
        for i in range(300):
            trainer.load_state_dict(states[i % 2][0])
            if not options:  # or it would be put where the average lies while another thread evaluates there
                trainer.network.load_state_dict(states[i % 2][1])
        done.set()

    def predict():
        while not done.is_set():
            for i, seen in enumerate((trainer.predict(x), trainer.network(x))):
                assert any(np.array_equal(seen, known[i]) for known in outputs)

    assert all_at_once(exchange, predict) == []


@pytest.mark.skipif(sys.platform == "win32", reason="sends a signal to itself")
@pytest.mark.parametrize("ema", [0.0, 0.9])
def test_a_signal_handler_that_saves(ema, tmp_path):
    """Between steps, and in the middle of long ones."""
    pytest.importorskip("safetensors")
    out = run_python(f"""
        import signal
        import numpy as np, fastopt as fo
        for rows, width in ((300, 64), (4000, 600)):
            x = np.random.default_rng(0).standard_normal((rows, width), dtype=np.float32)
            trainer, saved = fo.Trainer(fo.mlp(width, [width], 1, seed=0), "mse", ema={ema}), []

            def save(*_):
                trainer.save({str(tmp_path / "t.safetensors")!r})
                saved.append(1)
                signal.setitimer(signal.ITIMER_REAL, 0.02 if len(saved) < 3 else 0)

            signal.signal(signal.SIGALRM, save)
            signal.setitimer(signal.ITIMER_REAL, 0.02)
            while len(saved) < 3:
                trainer.fit(x, x[:, 0], epochs=3, batch_size=None)
            trainer.fit(x, x[:, 0], epochs=1, batch_size=None)
            print(fo.Trainer.load({str(tmp_path / "t.safetensors")!r}).steps < trainer.steps)
    """)
    assert out.split() == ["True"] * 2


def test_an_interrupt_of_copies_leaves_nothing_held():
    """Wherever it comes, also while its traceback is kept."""
    out = run_python("""
        import signal, threading
        import fastopt as fo
        trainer = fo.Trainer(fo.mlp(6, [8], 1, seed=0), "mse", ema=0.9)

        def interrupt(*_):
            raise KeyboardInterrupt

        signal.signal(signal.SIGALRM, interrupt)
        taken, kept = [], []
        for round in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, 3e-4 + 1e-6 * round)
                while True:
                    trainer.state_dict()
            except KeyboardInterrupt as error:
                kept.append(error)
            thread = threading.Thread(target=lambda: taken.append(trainer.state_dict()), daemon=True)
            thread.start()
            thread.join(20)
        print(len(taken))
    """)
    assert out == "200"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_threads_of_a_child_are_not_those_of_its_parent():
    """Though one is called as a thread of the parent was, which had the turn at the fork."""
    out = run_python(
        """
        import os, signal, threading
        from fastopt._backend import core
        turn, taken, done = core.Turn(lambda: None), threading.Event(), threading.Event()

        def hold():
            with turn:
                taken.set()
                done.wait()

        thread = threading.Thread(target=hold)
        thread.start()
        taken.wait()
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            def other():
                with turn:
                    pass
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
            with turn:
                os._exit(7)
        done.set()
        thread.join()
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        """,
        PYTHONWARNINGS="",  # newer Pythons warn of forks beside threads
    )
    assert out == "7"


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs a timer that sends signals")
def test_a_handler_that_copies_while_the_network_is_copied():
    """And while another thread trains: nobody waits for what the other holds."""
    out = run_python("""
        import signal, threading, time
        import numpy as np, fastopt as fo
        x = np.random.default_rng(0).standard_normal((64, 512), dtype=np.float32)
        net = fo.mlp(512, [512] * 3, 1, seed=0)
        trainer = fo.Trainer(net, "mse", fo.optimizers.SGD(learning_rate=1e-6), ema=0.9)
        end, copied = time.monotonic() + 1.5, []

        def train():
            while time.monotonic() < end:
                trainer.step(x[:2], x[:2, 0])

        def copy(*_):
            trainer.state_arrays()
            copied.append(trainer.state_dict())
            copied[:-1] = []
            if time.monotonic() < end:
                signal.setitimer(signal.ITIMER_REAL, 0.0113)

        thread = threading.Thread(target=train)
        thread.start()
        signal.signal(signal.SIGALRM, copy)
        signal.setitimer(signal.ITIMER_REAL, 0.0113)
        while time.monotonic() < end:
            net.load_state_dict(net.state_dict())
        signal.setitimer(signal.ITIMER_REAL, 0)
        thread.join()
        print(len(copied))
    """)
    assert out == "1"
