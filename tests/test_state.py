"""The state of a trainer: what a refused call leaves as it was, what is saved between micro-batches, when it may be read."""

import contextlib
import copy
import json
import os
import pickle
import sys

import fastopt as fo
import numpy as np
import pytest
from children import run_python
from fastopt import checkpoint
from helpers import refuses


def data(rows=80):
    x = np.random.default_rng(151).standard_normal((rows, 4)).astype(np.float32)
    return x, (x[:, 0] > 0).astype(np.int64)


def trainer_of(loss="cross_entropy", outputs=2, batch_norm=False, **options):
    return fo.Trainer(fo.mlp(4, [8], outputs, batch_norm=batch_norm, seed=0), loss, **options)


def assert_unchanged(trainer, before):
    after = trainer.state_dict()
    assert after.keys() == before.keys()
    for name, value in before.items():
        np.testing.assert_array_equal(after[name], value, err_msg=name)


@pytest.mark.parametrize("loss", ["native", "python"])
def test_a_step_whose_loss_is_not_finite_changes_nothing(loss):
    """Neither do the statistics of batch normalization, nor the count that keys the dropout masks."""

    def squared(prediction, target):
        return float(np.mean((prediction - target) ** 2)), 2 * (prediction - target) / prediction.size

    x, _ = data()
    y = x[:, :1]
    trainer = trainer_of("mse" if loss == "native" else squared, 1, batch_norm=True)
    trainer.step(x, y)
    before = trainer.state_dict()
    with pytest.raises(fo.NonFiniteLossError), np.errstate(over="ignore"):
        trainer.step(2 * x, 1e30 * y)
    assert_unchanged(trainer, before)


@pytest.mark.parametrize("options", [{}, {"clip_norm": 1.0}, {"accumulate": 2}], ids=str)
@pytest.mark.parametrize("hidden", [[16], [24, 24, 24], [64, 64]], ids=str)
def test_gradients_of_a_step_whose_loss_is_not_finite(cut_for_threads, hidden, options):
    """They stay those of the step before, in a step alone and in a run of steps, however many threads share it."""
    rng = np.random.default_rng(152)
    x, y = rng.standard_normal((256, 8)).astype(np.float32), rng.standard_normal((256, 1)).astype(np.float32)
    far = y.copy()
    far[-5] = 3e38
    for threads in (1, 2, 3):
        cut_for_threads(threads)
        found = []
        for wrong in (False, True):
            for fits in (False, True):
                trainer = fo.Trainer(fo.mlp(8, hidden, 1, seed=1), "mse", **options)
                trainer.step(x[:32], y[:32])
                with pytest.raises(fo.NonFiniteLossError) if wrong else contextlib.nullcontext():
                    if fits:
                        rows = 256 if wrong else 224
                        trainer.fit(x[:rows], far[:rows], batch_size=32, shuffle=False)
                    elif wrong:
                        trainer.step(x[-32:], far[-32:])
                found.append({name: value.copy() for name, value in trainer.network.gradients.items()})
        for good, bad in zip(found[:2], found[2:], strict=True):
            for name, value in good.items():
                assert value.any(), name
                np.testing.assert_array_equal(bad[name], value, err_msg=f"{name}, {threads} threads")


def test_a_python_loss_that_raises_changes_nothing():
    def raises(prediction, target):
        raise RuntimeError("no")

    x, _ = data()
    trainer = trainer_of(raises, 1, batch_norm=True)
    before = trainer.state_dict()
    with pytest.raises(RuntimeError):
        trainer.step(x, x[:, :1])
    assert_unchanged(trainer, before)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_refuses_what_a_fit_refuses(dtype):
    """In the dtype of the network too, which is read without a copy."""
    x, y = data()
    cases = [
        ("cross_entropy", 2, y, np.where(np.arange(80) < 20, -1, 1), "negative"),
        ("cross_entropy", 2, y, np.zeros(80), "all zero"),
        ("cross_entropy", 2, np.full((80, 2), 2.5), None, "between 0 and 1"),
        ("bce", 1, np.full((80, 1), 3), None, "between 0 and 1"),
        ("hinge", 1, np.full((80, 1), 7), None, "must hold"),
        ("poisson", 1, np.full((80, 1), -1), None, "at least 0"),
    ]
    for loss, outputs, target, weight, match in cases:
        trainer = trainer_of(loss, outputs)
        before = trainer.state_dict()
        weight = None if weight is None else weight.astype(dtype)
        target = target if target is y else target.astype(dtype)
        refuses(f"{loss} {match}", trainer.step, x.astype(dtype), target, weight, errors=ValueError, match=match)
        assert_unchanged(trainer, before)


@pytest.mark.parametrize("how", ["file", "state"])
def test_micro_batches_that_wait_are_part_of_the_state(how, tmp_path):
    x, y = data()

    def go(trainer, first, last):
        for i in range(first, last):
            trainer.step(x[10 * i : 10 * i + 10], y[10 * i : 10 * i + 10])

    undisturbed, trainer = trainer_of(accumulate=4), trainer_of(accumulate=4)
    go(undisturbed, 0, 8)
    go(trainer, 0, 6)
    if how == "file":
        trainer.save(tmp_path / "trainer.safetensors")
        again = fo.Trainer.load(tmp_path / "trainer.safetensors")
    else:
        again = trainer_of(accumulate=4)
        again.load_state_dict(trainer.state_dict())
    go(again, 6, 8)
    assert again.steps == 2
    assert_unchanged(again, undisturbed.state_dict())


def rewritten(path, to, *, drop=None, spec=None):
    """A file of a trainer written again, without the arrays whose names begin with `drop` or with another description."""
    safetensors, numpy = pytest.importorskip("safetensors"), pytest.importorskip("safetensors.numpy")
    with safetensors.safe_open(path, framework="numpy") as file:
        described = file.metadata()["fastopt"]
    arrays = {name: value for name, value in numpy.load_file(path).items() if drop is None or not name.startswith(drop)}
    if spec is not None:
        described = spec if isinstance(spec, str) else json.dumps({**json.loads(described), **spec})
    numpy.save_file(arrays, to, metadata={"fastopt": described})


def test_a_state_of_an_earlier_version_has_no_micro_batches(tmp_path):
    x, y = data()
    trainer = trainer_of(accumulate=3)
    trainer.step(x, y)
    old = {name: value for name, value in trainer.state_dict().items() if not name.startswith("waiting/")}
    trainer.load_state_dict(old)
    assert trainer.state_dict()["waiting/weights"].tolist() == [0, 0]
    trainer.save(tmp_path / "new")
    rewritten(tmp_path / "new", tmp_path / "old", drop="waiting/")
    again = fo.Trainer.load(tmp_path / "old").state_dict()
    assert again["waiting/weights"].tolist() == [0, 0]
    for name in old:
        np.testing.assert_array_equal(again[name], trainer.state_dict()[name], err_msg=name)


@pytest.mark.parametrize("options", [{"ema": 0.9}, {"optimizer": "schedule_free_adamw"}])
def test_average_and_weights_are_not_mixed_up(options, tmp_path):
    """Within evaluation_weights they have changed places."""
    x, y = data()
    trainer = trainer_of(**options)
    trainer.fit(x, y, epochs=3)
    before = trainer.state_dict()
    with trainer.evaluation_weights():
        refuses("save", trainer.save, tmp_path / "no", match="evaluation_weights")
        refuses("state_dict", trainer.state_dict, match="evaluation_weights")
        refuses("load_state_dict", trainer.load_state_dict, before, match="evaluation_weights")
    assert not list(tmp_path.iterdir())
    assert_unchanged(trainer, before)
    plain = trainer_of()
    with plain.evaluation_weights():
        plain.state_dict()


def test_a_state_that_does_not_fit_changes_nothing():
    x, y = data()
    trainer = trainer_of()
    trainer.step(x, y)
    before = trainer.state_dict()
    other = {name: np.zeros_like(value) for name, value in before.items()}
    for name, value in (("rate_scale", np.array(np.nan)), ("counters", np.array([-1, 0])), ("counters", 3.0)):
        refuses(name, trainer.load_state_dict, {**other, name: value}, match=name)
        assert_unchanged(trainer, before)
    network = trainer.network.state_dict()
    refuses("training_step", trainer.network.load_state_dict, {**network, "0.bias": network["0.bias"] + 1, "training_step": np.array(-1)})
    assert_unchanged(trainer, before)


@pytest.mark.parametrize(
    "options", [{"ema": 0.9, "accumulate": 3, "clip_norm": 1.0}, {"optimizer": fo.optimizers.SGD(momentum=0.9), "l2": 1e-3}]
)
def test_copies_and_pickles(options):
    """They go on to the same bits, and what they do changes nothing of the first."""
    x, y = data()
    trainer = trainer_of(batch_norm=True, **options)
    trainer.fit(x, y, epochs=2, batch_size=16)
    others = {"pickle": pickle.loads(pickle.dumps(trainer)), "deepcopy": copy.deepcopy(trainer), "copy": copy.copy(trainer)}
    before = trainer.state_dict()
    for name, other in others.items():
        assert_unchanged(other, before)
        assert (other.epoch, other.history.rows, other.options) == (trainer.epoch, trainer.history.rows, trainer.options), name
        other.fit(x, y, epochs=2, batch_size=16)
        assert len(trainer.history.rows) == 2
    assert_unchanged(trainer, before)
    trainer.fit(x, y, epochs=2, batch_size=16)
    for other in others.values():
        assert_unchanged(other, trainer.state_dict())
        assert other.history.rows == trainer.history.rows


def test_where_a_trainer_is_saved(tmp_path):
    trainer = trainer_of()
    refuses("no folder", trainer.save, tmp_path / "none" / "a", errors=FileNotFoundError, match="no such folder: .*none$")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    trainer.save(tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert_unchanged(fo.Trainer.load(tmp_path / "file"), trainer.state_dict())


@pytest.mark.skipif(os.name != "posix", reason="modes of files")
def test_a_file_has_the_mode_of_others_or_the_one_it_had(tmp_path):
    trainer, path = trainer_of(), tmp_path / "trainer"
    before = os.umask(0o027)
    try:
        trainer.save(path)
        assert path.stat().st_mode & 0o777 == 0o640
        path.chmod(0o600)
        trainer.save(path)
        assert path.stat().st_mode & 0o777 == 0o600
    finally:
        os.umask(before)
    assert [entry.name for entry in tmp_path.iterdir()] == ["trainer"]


def test_a_history_too_long_for_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "MOST_TEXT", 1000)
    x, y = data()
    trainer = trainer_of()
    trainer.fit(x, y, epochs=30)
    refuses("save", trainer.save, tmp_path / "no", errors=ValueError, match="history of 30 rows is too long")
    assert not list(tmp_path.iterdir())


def test_names_that_this_version_does_not_know(tmp_path):
    path = tmp_path / "trainer"
    trainer_of().save(path)
    whole = path.read_bytes()
    for name in (b"softmax_cross_entropy", b"adam", b"dense"):
        path.write_bytes(whole.replace(b'\\"' + name + b'\\"', b'\\"' + name[:-1] + b'x\\"'))
        refuses(name.decode(), fo.Trainer.load, path, errors=ValueError, match="does not know")


def test_a_python_loss_whose_gradient_is_not_finite_changes_nothing():
    x = np.ones((4, 3), np.float32)

    def loss(outputs, target):
        return 1.0, np.full_like(outputs, np.nan)

    trainer = fo.Trainer(fo.mlp(3, [4], 1, batch_norm=True, seed=0), loss)
    before = trainer.state_dict()
    with pytest.raises(fo.NonFiniteLossError, match="the gradient of the loss is not finite at step 0"):
        trainer.step(x, np.ones((4, 1)))
    for name, value in trainer.state_dict().items():
        np.testing.assert_array_equal(value, before[name], err_msg=name)


@pytest.mark.skipif(sys.platform == "win32", reason="needs limits of the file size")
def test_a_disk_without_room_is_an_error_of_the_system(tmp_path):
    """The file that was there stays."""
    pytest.importorskip("safetensors")
    out = run_python(f"""
        import resource, signal
        import fastopt as fo
        path = {str(tmp_path / "t.safetensors")!r}
        trainer = fo.Trainer(fo.mlp(8, [16], 1), "mse")
        trainer.save(path)
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            trainer.save(path)
        except OSError as error:
            print("cannot be written" in str(error))
        fo.Trainer.load(path)
    """)
    assert out == "True"
    assert [file.name for file in tmp_path.iterdir()] == ["t.safetensors"]


WRONG_RECORDS = [
    {"epoch": None}, {"epoch": -5}, {"epoch": 1.5}, {"epoch": True}, {"history": 5}, {"history": [1]}, {"seconds": None},
    {"seconds": ["1"]}, {"columns": "ab"}, {"columns": [1]}, {"message": 3},
]  # fmt: skip


@pytest.mark.parametrize("spec", WRONG_RECORDS, ids=str)
def test_a_file_whose_epochs_or_history_are_none(tmp_path, spec):
    trainer_of().save(tmp_path / "t")
    rewritten(tmp_path / "t", tmp_path / "wrong", spec=spec)
    refuses(str(spec), fo.Trainer.load, tmp_path / "wrong", errors=ValueError, match="no epochs and no history")


def test_files_that_are_not_ours(tmp_path):
    """A description nested too deeply to be read, and a tensor of a dtype that NumPy has not."""
    trainer_of().save(tmp_path / "t")
    rewritten(tmp_path / "t", tmp_path / "deep", spec="[" * 100_000 + "]" * 100_000)
    refuses("deep", fo.Trainer.load, tmp_path / "deep", errors=ValueError, match="was not written by")
    whole = (tmp_path / "t").read_bytes()
    name = whole.index(b'"parameters/0.bias"')
    wrong = whole[:name] + whole[name:].replace(b'"dtype":"F32","shape":[8]', b'"dtype":"BF16","shape":[16]', 1)
    size = int.from_bytes(whole[:8], "little") + len(wrong) - len(whole)  # of the header
    (tmp_path / "bf16").write_bytes(size.to_bytes(8, "little") + wrong[8:])
    refuses("bf16", fo.Trainer.load, tmp_path / "bf16", errors=ValueError, match=r"parameters/0.bias.* NumPy has not")


def test_a_schedule_of_somebody_is_a_plain_function_to_a_file(tmp_path):
    class Slower(fo.schedules.Schedule):
        name = "slower"

        def rates(self, t):
            return 0.1 / (1.0 + t)

    x, y = data()
    trainer = trainer_of(optimizer=fo.optimizers.SGD(learning_rate=Slower()))
    trainer.fit(x, y, epochs=2)
    trainer.save(tmp_path / "t")
    refuses("no rate", fo.Trainer.load, tmp_path / "t", errors=ValueError, match="give it again as learning_rate=")
    again = fo.Trainer.load(tmp_path / "t", learning_rate=Slower())
    for each in (trainer, again):
        each.fit(x, y, epochs=2)
    assert_unchanged(again, trainer.state_dict())


def test_why_a_solver_ended_is_in_the_file(tmp_path):
    x, y = data()
    trainer = fo.Trainer(fo.mlp(4, [3], 1, activation="tanh", dtype="float64", seed=0), "mse", "lbfgs")
    trainer.fit(x, 0.0 * y, epochs=2000, batch_size=None)
    assert trainer.history.message
    trainer.save(tmp_path / "t")
    assert fo.Trainer.load(tmp_path / "t").history.message == trainer.history.message


def test_a_network_without_parameters(tmp_path):
    x, _ = data()
    trainer = fo.Trainer(fo.Network(4, [fo.layers.Standardize(), fo.layers.Activation("relu")]), "mse")
    history = trainer.fit(x, np.abs(x), epochs=2, validation=0.2)
    assert history["loss"][0] == history["loss"][1] > 0
    trainer.save(tmp_path / "t")
    assert fo.Trainer.load(tmp_path / "t").history.rows == history.rows


def test_the_longest_name_of_a_file(tmp_path):
    trainer = trainer_of()
    trainer.save(tmp_path / ("x" * 255))
    assert_unchanged(fo.Trainer.load(tmp_path / ("x" * 255)), trainer.state_dict())


def test_what_is_no_file_is_not_loaded(tmp_path):
    pytest.importorskip("safetensors")
    refuses("folder", fo.Trainer.load, tmp_path, errors=ValueError, match="is a folder")
    refuses("no name", fo.Trainer(fo.mlp(2, [2], 1), "mse").save, "", errors=ValueError, match="must name a file")
