"""The walls of the house: who includes and who imports whom. Each failure is a sentence that names the file, the line and the wall."""

import ast
import re

import pytest
from helpers import REPOSITORY

CPP, PACKAGE = REPOSITORY / "cpp", REPOSITORY / "python" / "fastopt"
INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')

# A floor may include itself and the floors named here.
FLOORS = {
    "core": set(),
    "kernels": {"core"},
    "losses": {"core", "kernels"},
    "optimizers": {"core", "kernels"},
    "nn": {"core", "kernels", "losses", "optimizers"},
    "bindings": {"core", "kernels", "losses", "optimizers", "nn"},
}
OPTIONAL = ("matplotlib", "sklearn", "pandas", "torch", "scipy")
# Modules that import nothing compiled.
PURE = ("layers", "losses", "optimizers", "schedules", "history", "solvers", "functions", "line_search", "network_solvers")
ON_THE_PUBLIC_API = ("sklearn", "plots", "examples")  # modules that nobody imports

needs_sources = pytest.mark.skipif(not CPP.is_dir(), reason="the tests run without the repository around them")


def includes():
    """(file, line number, in angle brackets, what) of every include."""
    for path in sorted([*CPP.rglob("*.hpp"), *CPP.rglob("*.cpp"), *CPP.rglob("*.h")]):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            found = INCLUDE.match(line)
            if found:
                yield path.relative_to(CPP), number, found[1] == "<", found[2]


def breaks(wall, allowed):
    """Sentences for the includes that `allowed(path, angle, what)` says no to."""
    return [f"cpp/{path}:{line} includes {what}, but {wall}" for path, line, angle, what in includes() if not allowed(path, angle, what)]


def assert_no(sentences):
    assert not sentences, "\n".join(["a wall of the house is crossed:", *sentences])


@needs_sources
def test_there_is_something_to_check():
    assert {path.parts[0] for path, *_ in includes()} >= set(FLOORS) - {"optimizers"}, "a floor of cpp/ has no includes at all"


@needs_sources
def test_floors():
    def allowed(path, angle, what):
        floor, target = path.parts[0], what.split("/")[0]
        return target not in FLOORS or target == floor or target in FLOORS.get(floor, ())

    assert_no(breaks("core <- kernels <- losses, optimizers <- nn <- bindings, and losses and optimizers never see each other", allowed))


@needs_sources
def test_own_headers_are_named_by_their_floor():
    def allowed(path, angle, what):
        return angle or what.split("/")[0] in FLOORS

    assert_no(breaks('our own headers are included as "floor/file.hpp"', allowed))


@needs_sources
def test_eigen():
    def allowed(path, angle, what):
        return not what.lower().startswith(("eigen", "unsupported/")) or re.fullmatch(r"kernels/simd\w*\.hpp", path.as_posix())

    assert_no(breaks("Eigen is included by cpp/kernels/simd*.hpp only", allowed))


@needs_sources
def test_openmp():
    def allowed(path, angle, what):
        return what != "omp.h" or path.as_posix().startswith("core/threads")

    assert_no(breaks("OpenMP is used behind cpp/core/threads only", allowed))
    pragmas = [
        f"cpp/{path.relative_to(CPP)}:{number} has an OpenMP pragma, but OpenMP is used behind cpp/core/threads only"
        for path in sorted([*CPP.rglob("*.hpp"), *CPP.rglob("*.cpp")])
        if not path.relative_to(CPP).as_posix().startswith("core/threads")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.match(r"\s*#\s*pragma\s+omp\b(?!\s+simd)", line)
    ]
    assert_no(pragmas)


@needs_sources
def test_pybind11():
    def allowed(path, angle, what):
        return not (what.startswith("pybind11/") or what == "Python.h") or path.parts[0] == "bindings"

    assert_no(breaks("pybind11 and Python are known to cpp/bindings only", allowed))


@needs_sources
def test_kernels_do_not_throw():
    """Kernels neither throw nor know who called them; names are looked up in one place, which may."""
    sentences = [
        f"cpp/{path.relative_to(CPP)}:{number} throws, but kernels neither allocate nor throw"
        for path in sorted([*(CPP / "kernels").rglob("*.hpp"), *(CPP / "kernels").rglob("*.cpp")])
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\bthrow\b", line.split("//")[0]) and "invalid_argument" not in line
    ]
    assert_no(sentences)


def imports(path):
    """(line, dotted module) of everything a file imports, at the top or inside functions; `from fastopt import x` gives fastopt.x."""
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}:{node.lineno} imports relatively; we write `from fastopt import ...`"
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
            yield node.lineno, node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", getattr(node.func, "id", "")) in ("import_module", "__import__"):
            yield node.lineno, ast.unparse(node.args[0]).strip("f'\"")


MODULES = sorted(PACKAGE.rglob("*.py"))


def module_name(path):
    return ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")


def imports_of(name):
    path = PACKAGE / f"{name}.py"
    return list(imports(path if path.exists() else PACKAGE / name / "__init__.py"))


@needs_sources
def test_backend_alone_imports_the_core():
    sentences = [
        f"{module_name(path)}, line {line}, imports {name}, but _backend alone imports the native core"
        for path in MODULES
        if path.stem != "_backend"
        for line, name in imports(path)
        if re.match(r"fastopt\._(core|cpu)\b|fastopt\._core_", name) or name.startswith("_core_")
    ]
    assert_no(sentences)


def reachable(name, seen=None):
    """Modules of the package that importing `name` runs, by the imports at the top of files."""
    seen = {} if seen is None else seen
    path = PACKAGE / f"{name}.py"
    if not path.exists():
        return seen
    tree = ast.parse(path.read_text())
    for node in tree.body:
        if isinstance(node, ast.ImportFrom):
            parts = [f"{node.module}.{alias.name}" for alias in node.names] if node.module == "fastopt" else [node.module]
        elif isinstance(node, ast.Import):
            parts = [alias.name for alias in node.names]
        else:
            continue
        for part in parts:
            own = part.removeprefix("fastopt.") if part.startswith("fastopt.") else None
            if own and own not in seen:
                seen[own] = name
                reachable(own, seen)
    return seen


@needs_sources
@pytest.mark.parametrize("name", PURE)
def test_specs_import_nothing_compiled(name):
    used = reachable(name)
    compiled = [other for other in used if other.startswith(("_backend", "_core", "_cpu", "_native", "kernels"))]
    assert_no([f"fastopt.{name} imports {other} (through {used[other]}), but specs import nothing compiled" for other in compiled])
    direct = [
        f"fastopt.{name}, line {line}, imports {part}" for line, part in imports_of(name) if re.search(r"\._(backend|core|native)\b", part)
    ]
    assert_no(direct)


@needs_sources
def test_nobody_imports_the_outermost_rooms():
    """The package alone names plots, for type checkers."""
    sentences = [
        f"{module_name(path)}, line {line}, imports {name}, but nobody imports {'/'.join(ON_THE_PUBLIC_API)}"
        for path in MODULES
        if path.relative_to(PACKAGE).parts[0] not in ON_THE_PUBLIC_API and path.stem not in ON_THE_PUBLIC_API
        if path != PACKAGE / "__init__.py"
        for line, name in imports(path)
        if re.match(rf"fastopt\.({'|'.join(ON_THE_PUBLIC_API)})\b", name)
    ]
    assert_no(sentences)


@needs_sources
@pytest.mark.parametrize("name", ["sklearn", "plots"])
def test_the_outermost_rooms_use_the_public_api(name):
    files = [path for path in MODULES if path.relative_to(PACKAGE).with_suffix("").parts[0] == name]
    if not files:
        pytest.skip(f"fastopt.{name} does not exist yet")
    private = [
        f"{module_name(path)}, line {line}, imports {part}"
        for path in files
        for line, part in imports(path)
        if re.match(r"fastopt(\.\w+)*\._", part) and not part.startswith(f"fastopt.{name}.")
    ]
    assert_no([f"{sentence}, but it lives on the public API only" for sentence in private])


@needs_sources
def test_optional_packages_are_imported_where_they_are_used():
    """matplotlib, scikit-learn and pandas are extras: at the top of a module only in the rooms that are made for them."""
    sentences = []
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] in ("examples", "sklearn"):
            continue
        for node in ast.parse(path.read_text()).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
            sentences += [
                f"{module_name(path)}, line {node.lineno}, imports {name} at the top, but it is optional"
                for name in names
                if isinstance(node, ast.Import | ast.ImportFrom)
                and name.split(".")[0] in ("matplotlib", "sklearn", "pandas", "torch", "scipy")
            ]
    assert_no(sentences)


@needs_sources
def test_no_star_imports_and_no_kwargs():
    sentences = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                sentences.append(f"{module_name(path)}, line {node.lineno}, has a star import")
            if isinstance(node, ast.FunctionDef) and node.args.kwarg and not node.name.startswith("_"):
                sentences.append(f"{module_name(path)}, line {node.lineno}: {node.name} takes **{node.args.kwarg.arg}; options have names")
    assert_no(sentences)


@needs_sources
def test_twins_do_not_import_the_library():
    """The reference is independent: it never sees fastopt."""
    reference = REPOSITORY / "tests" / "reference"
    sentences = [
        f"tests/reference/{path.name}, line {node.lineno}, imports fastopt"
        for path in sorted(reference.glob("*.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if (isinstance(node, ast.Import) and any(alias.name.startswith("fastopt") for alias in node.names))
        or (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("fastopt"))
    ]
    assert_no(sentences)
