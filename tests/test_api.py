"""The public names, their docstrings and examples, the stub of the core, the README."""

import ast
import doctest
import importlib
import inspect
import pkgutil
import re

import fastopt as fo
import pytest
import readme_rules
from children import run_python
from helpers import REPOSITORY
from native import core

# The contract: names may be added, none renamed.
CONTRACT = {
    "Network", "Trainer", "History", "NonFiniteLossError", "mlp", "layers", "losses", "optimizers", "schedules", "callbacks", "metrics",
    "data", "kernels", "check_gradients", "set_num_threads", "get_num_threads", "build_info", "show_config", "minimize", "MinimizeResult",
    "solvers", "functions", "line_search",
}  # fmt: skip
OUTERMOST = ("sklearn", "plots")  # modules that need optional packages
README = REPOSITORY / "README.md"
needs_readme = pytest.mark.skipif(not README.exists(), reason="the tests run without the repository around them")


def public_modules():
    """Every module of the package without an underscore that can be imported here; examples are scripts."""
    for found in pkgutil.walk_packages(fo.__path__, "fastopt."):
        parts = found.name.split(".")[1:]
        if parts[0] == "examples" or any(part.startswith("_") for part in parts):
            continue
        try:
            yield importlib.import_module(found.name)
        except ImportError:
            assert parts[0] in OUTERMOST, f"{found.name} cannot be imported"


MODULES = [fo, *public_modules()]


def test_all_is_complete():
    assert set(fo.__all__) >= CONTRACT, f"missing in fastopt.__all__: {sorted(CONTRACT - set(fo.__all__))}"
    for module in MODULES:
        names = getattr(module, "__all__", [])
        assert len(names) == len(set(names)), f"{module.__name__}.__all__ repeats itself"
        for name in names:
            assert hasattr(module, name), f"{module.__name__}.__all__ names {name}, which does not exist"
    for module in MODULES[1:]:
        for name, value in vars(module).items():
            own = getattr(value, "__module__", None) == module.__name__ and (inspect.isclass(value) or inspect.isfunction(value))
            if own and not name.startswith("_") and hasattr(module, "__all__") and name in fo.__all__:
                assert name in module.__all__, f"{module.__name__}.{name} is public but not in its __all__"


def documented(value):
    """A class or function and the public members of a class that it defines itself."""
    yield getattr(value, "__qualname__", str(value)), value
    if inspect.isclass(value):
        for name, member in vars(value).items():
            if not name.startswith("_") and (inspect.isfunction(member) or isinstance(member, property | staticmethod | classmethod)):
                yield f"{value.__qualname__}.{name}", member


def test_docstrings():
    missing = [module.__name__ for module in MODULES if not module.__doc__]
    for module in MODULES:
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            if inspect.isclass(value) or inspect.isfunction(value):
                missing += [f"{module.__name__}: {member}" for member, each in documented(value) if not inspect.getdoc(each)]
    assert not missing, f"no docstring: {missing}"


def test_public_functions_have_an_example():
    without = []
    for name in fo.__all__:
        value = getattr(fo, name)
        is_error = inspect.isclass(value) and issubclass(value, Exception)
        if (inspect.isclass(value) or inspect.isfunction(value)) and not is_error and ">>>" not in (inspect.getdoc(value) or ""):
            without.append(name)
    assert not without, f"no example in the docstring of {without}"


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_doctests(module, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finder, out = doctest.DocTestFinder(exclude_empty=True), []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    tests = finder.find(module, module.__name__)
    for name in getattr(module, "__all__", []):  # what is defined in a private module
        value = getattr(module, name)
        if "._" in getattr(value, "__module__", ""):
            tests += finder.find(value, f"{module.__name__}.{name}")
    for test in tests:
        runner.run(test, out=out.append, clear_globs=False)
    assert runner.summarize(verbose=False).failed == 0, "".join(out)


def test_options_are_keyword_only():
    """Specs of losses and optimizers, and everything behind the first arguments of the trainer, have names."""
    for module, names in ((fo.losses, fo.losses.names()), (fo.optimizers, fo.optimizers.names()), (fo.solvers, fo.solvers.names())):
        for name in names:
            for parameter in list(inspect.signature(type(module.get(name))).parameters.values()):
                assert parameter.kind is parameter.KEYWORD_ONLY, f"{name}: {parameter.name} can be given by position"
    for function, positional in ((fo.Trainer, 3), (fo.Trainer.fit, 3), (fo.Network, 2), (fo.mlp, 3), (fo.minimize, 4)):
        for parameter in list(inspect.signature(function).parameters.values())[positional:]:
            assert parameter.kind is parameter.KEYWORD_ONLY, f"{function.__qualname__}: {parameter.name} can be given by position"


def test_texts_of_layers_networks_and_trainers():
    """Layers show what differs from the defaults, enough to give the network back; a trainer what it is made of and how far it is."""
    net = fo.mlp(3, [4], 2, dropout=0.1, batch_norm=True, seed=1)
    again = eval(repr(net), {**vars(fo), **vars(fo.layers)})
    assert again.layers == net.layers
    assert repr(fo.layers.Dense(4)) == "Dense(units=4)"
    assert repr(fo.layers.Dropout(0.5)) in ("Dropout(rate=0.5)", "Dropout()")
    trainer = fo.Trainer(net, "cross_entropy", "sgd", l2=1e-3)
    for said in (f"{net.num_parameters} parameters", "SoftmaxCrossEntropy(", "SGD(", "l2=0.001", "0 epochs", "0 steps"):
        assert said in repr(trainer), said
    assert "accumulate" not in repr(trainer)
    assert "own_loss" in repr(fo.Trainer(fo.mlp(3, [4], 2), own_loss))


def test_texts_of_callbacks_and_long_histories():
    assert repr(fo.callbacks.EarlyStopping()).startswith("EarlyStopping(patience=5, min_delta=0.0, monitor='val_loss', mode='auto'")
    assert repr(fo.callbacks.CSVLogger("log.csv")) == "CSVLogger(path='log.csv', append=False)"
    text = str(fo.History([{"epoch": e, "loss": 1.0 / (e + 1)} for e in range(1000)]))
    assert len(text.splitlines()) < 60
    assert text.splitlines()[-1].split() == ["999", "0.001"]


def own_loss(outputs, targets):
    return 0.0, outputs * 0


def test_specs_are_frozen_values():
    for module in (fo.losses, fo.optimizers, fo.solvers):
        for name in module.names():
            spec = module.get(name)
            assert spec == module.get(name), f"{name}: two specs with the same options differ"
            assert hash(spec) == hash(module.get(name))
            assert eval(repr(spec), vars(module)) == spec, f"{name}: its repr does not give it back: {spec!r}"
            field = next(iter(inspect.signature(type(spec)).parameters), None)
            if field is not None:
                with pytest.raises(AttributeError):
                    setattr(spec, field, 1)


def test_stub_and_core_agree():
    """Names in _core.pyi and in the module, classes and their methods included."""
    stub = REPOSITORY / "python" / "fastopt" / "_core.pyi"
    if not stub.exists():
        pytest.skip("the tests run without the repository around them")
    functions, classes, bases = set(), {}, {}
    for node in ast.parse(stub.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            functions.add(node.name)
        elif isinstance(node, ast.ClassDef):
            classes[node.name] = {member.name for member in node.body if isinstance(member, ast.FunctionDef)}
            bases[node.name] = [base.id for base in node.bases if isinstance(base, ast.Name)]
    public = {name for name in vars(core) if not name.startswith("_")}
    assert public == functions | set(classes), f"only in one of stub and core: {sorted(public ^ (functions | set(classes)))}"
    for name, members in classes.items():
        promised = {member for member in set(members).union(*(classes[base] for base in bases[name])) if not member.startswith("_")}
        present = {member for member in dir(getattr(core, name)) if not member.startswith("_")}
        assert present == promised, f"{name}: only in one of stub and core: {sorted(present ^ promised)}"


def test_layer_names_of_python_and_core():
    assert set(fo.layers.ACTIVATIONS) == set(core.activation_names()) | {"linear"}
    assert set(fo.layers.INITIALIZERS) == set(core.initializer_names()) | {"auto"}


@needs_readme
def test_readme_example_runs(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert blocks, "README.md has no Python example"
    for block in blocks:
        path = tmp_path / "example.py"
        path.write_text(block)
        run_python("import os, runpy, sys; os.chdir(sys.argv[1]); runpy.run_path('example.py')", arguments=[str(tmp_path)])


@needs_readme
def test_readme_lists_every_rule():
    text = README.read_text()
    listed = text.split(readme_rules.BEGIN)[1].split(readme_rules.END)[0].strip()
    assert listed == readme_rules.table(), "README.md lists other rules than the registries: run python tests/readme_rules.py --write"
    names = [*fo.losses.names(), *fo.optimizers.names(), *fo.schedules.names(), *fo.layers.ACTIVATIONS, *fo.layers.INITIALIZERS]
    missing = [name for name in names if f"`{name}`" not in listed]
    assert not missing, f"README.md does not name {missing}"
