"""Trainers as single safetensors files: named arrays, and the specs as JSON in the file's metadata. Nothing is ever unpickled."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fastopt import _specs, _state, layers, losses, optimizers, schedules, solvers
from fastopt.errors import missing_package
from fastopt.history import History
from fastopt.losses import Loss
from fastopt.network import Network

if TYPE_CHECKING:
    from fastopt.training import Trainer

__all__ = ["load", "save"]

FORMAT = "fastopt trainer 1"
MOST_TEXT = 90_000_000  # characters of specs and history: a header of safetensors has at most 100 MB


def _options(spec: Any, skip: str = "") -> dict[str, Any]:
    return {f.name: getattr(spec, f.name) for f in fields(spec) if f.name != skip}


def _describe(trainer: Trainer) -> dict[str, Any]:
    net, loss, optimizer = trainer.network, trainer.loss, trainer.optimizer
    assert isinstance(loss, Loss)
    epoch, history = _state.record(trainer)
    return {
        "format": FORMAT,
        "network": {
            "inputs": net.inputs,
            "dtype": net.dtype.name,
            "seed": net.seed,
            "precision": net.precision,
            "layers": [{"kind": layer.kind, **_options(layer)} for layer in net.layers],
        },
        "loss": {"name": loss.name, **_options(loss)},
        "optimizer": {"name": optimizer.name, **_options(optimizer, "learning_rate")},
        "learning_rate": schedules.to_config(getattr(optimizer, "learning_rate", 0.0)),
        "trainer": trainer.options,
        "seed": trainer.seed,
        "epoch": epoch,
        "history": history.rows,
        "seconds": history.seconds,
        "message": history.message,
        "columns": trainer.columns,
    }


def save(trainer: Trainer, path: str | os.PathLike[str]) -> None:
    """Write a trainer; see `Trainer.save`."""
    try:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file
    except ImportError:
        raise missing_package("safetensors", "examples", "Saving a trainer") from None
    if not isinstance(trainer.loss, Loss):
        raise TypeError("a trainer whose loss is a Python function cannot be saved; save network.state_dict() instead")
    target = Path(os.path.realpath(path))  # a link stays one
    if not os.fspath(path):
        raise ValueError("path must name a file; got ''")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"no such folder: {target.parent}")
    if target.exists() and not target.is_file():  # it would be replaced
        raise ValueError(f"{os.fspath(path)} is a {'folder' if target.is_dir() else 'device or pipe'}; a trainer is saved to a file")
    temporary = target.parent / f".{secrets.token_hex(16)}.tmp"
    try:
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        mode = stat.S_IMODE((target if target.exists() else temporary).stat().st_mode)  # a new file's is that less the umask
        try:
            with trainer._turn, trainer.network._native:
                state = {**_state.arrays(trainer), **_state.counters(trainer)}  # views: a copy of a large network has no place beside it
                arrays = {name: np.asarray(value, order="C") for name, value in state.items()}
                save_file(arrays, temporary, metadata={"fastopt": _text(trainer)})
        except SafetensorError as error:  # a full disk too
            raise OSError(f"{os.fspath(path)} cannot be written: {error}") from None
        with open(temporary, "rb+") as written:
            os.fsync(written.fileno())
        os.chmod(temporary, mode)  # safetensors gives a mode of its own
        os.replace(temporary, target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _text(trainer: Trainer) -> str:
    text = json.dumps(_describe(trainer), default=_plain)
    if len(text) + text.count('"') > MOST_TEXT:  # quotes are escaped there
        rows = len(trainer.history.rows)
        raise ValueError(
            f"the history of {rows} rows is too long for a file; keep it elsewhere and shorten trainer.history.rows and .seconds"
        )
    return text


def _plain(value: Any) -> Any:
    """NumPy scalars in a history row as JSON numbers."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"the history holds a {type(value).__name__}, which cannot be written to JSON")


def load(path: str | os.PathLike[str], *, learning_rate: Callable[[int], float] | None = None, precision: str | None = None) -> Trainer:
    """Read a trainer; see `Trainer.load`."""
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError:
        raise missing_package("safetensors", "examples", "Loading a trainer") from None
    if learning_rate is not None:
        _specs.check_rate("learning_rate", learning_rate)
    if not Path(path).is_file():
        if Path(path).exists():
            raise ValueError(f"{os.fspath(path)} is a {'folder' if Path(path).is_dir() else 'device or pipe'}; a trainer is in a file")
        raise FileNotFoundError(f"no such file: {os.fspath(path)}")
    try:
        with safe_open(os.fspath(path), framework="numpy") as file:
            return _read(file, path, learning_rate, precision)
    except SafetensorError as error:
        raise ValueError(f"{os.fspath(path)} is not a safetensors file: {error}") from None


class _Tensors(Mapping[str, NDArray[Any]]):
    """The arrays of an open file, each read when it is asked for: never all in memory at once."""

    def __init__(self, file: Any) -> None:
        self._file, self._names = file, dict.fromkeys(file.keys())

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._names:
            raise KeyError(name)
        try:
            return self._file.get_tensor(name)  # type: ignore[no-any-return]
        except TypeError as error:
            raise ValueError(f"state[{name!r}] is of a dtype that NumPy has not: {error}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


def _read(file: Any, path: str | os.PathLike[str], learning_rate: Callable[[int], float] | None, precision: str | None) -> Trainer:
    try:
        spec = json.loads((file.metadata() or {})["fastopt"])
        known = spec["format"] == FORMAT
    except (KeyError, ValueError, TypeError, RecursionError):
        known = False
    if not known:
        raise ValueError(f"{os.fspath(path)} was not written by Trainer.save of this version")
    try:
        trainer = _build(spec, learning_rate, precision)
    except (KeyError, AttributeError, TypeError) as error:
        raise ValueError(f"{os.fspath(path)} holds what this version does not know: {error}") from None
    trainer.load_state_dict(_Tensors(file))
    if not _is_record(spec):
        raise ValueError(f"{os.fspath(path)} has no epochs and no history")
    trainer.epoch = spec["epoch"]
    trainer.history = History(spec["history"], spec["seconds"])
    trainer.history.message = spec.get("message", "")  # a file of an earlier version has none
    trainer.columns = spec.get("columns")
    return trainer


def _is_record(spec: dict[str, Any]) -> bool:
    """Whether these are an epoch counter, rows of a history, their seconds, a message and names of columns."""
    epoch, history, seconds, columns = (spec.get(name) for name in ("epoch", "history", "seconds", "columns"))
    return (
        type(epoch) is int
        and 0 <= epoch < 1 << 63
        and isinstance(history, list)
        and all(isinstance(row, dict) for row in history)
        and isinstance(seconds, list)
        and all(type(each) in (int, float) for each in seconds)
        and isinstance(spec.get("message", ""), str)
        and (columns is None or (isinstance(columns, list) and all(isinstance(name, str) for name in columns)))
    )


def _spec_of(table: dict[str, Any], options: dict[str, Any], name: str) -> Any:
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items() if key != name}
    return table[options[name]](**given)


def _build(spec: dict[str, Any], learning_rate: Callable[[int], float] | None, precision: str | None) -> Trainer:
    from fastopt.training import Trainer

    kinds = {cls.kind: cls for cls in layers.layer_classes()}
    net = spec["network"]
    parts = [_spec_of(kinds, options, "kind") for options in net["layers"]]
    if precision is None:
        precision = net.get("precision", "full")
    network = Network(net["inputs"], parts, dtype=net["dtype"], seed=net["seed"], precision=precision)
    rate: Any = learning_rate
    if rate is None:
        if spec["learning_rate"] is None:
            raise ValueError("the learning rate was a plain function when this trainer was saved; give it again as learning_rate=")
        rate = schedules.from_config(spec["learning_rate"])
    methods: dict[str, Any] = {**solvers.table(), **optimizers.table()}
    given = dict(spec["optimizer"])
    if any(f.name == "learning_rate" for f in fields(methods[given["name"]])):
        given["learning_rate"] = rate
    optimizer = _spec_of(methods, given, "name")
    options = _state.given_options(spec["trainer"])
    return Trainer(network, _spec_of(losses.table(), spec["loss"], "name"), optimizer, **options, seed=spec["seed"])
