"""What the build promises: nothing exported but the init function, no fast-math, one sentence of honest information."""

import importlib.util
import re
import shutil
import subprocess
import sys

import fastopt as fo
import pytest
from helpers import REPOSITORY
from native import ISAS, built_isas

MODULES = ["_cpu", *(f"_core_{isa}" for isa in built_isas())]
LINKER = {"_init", "_fini", "_edata", "_end", "__bss_start"}  # put there by the linker itself
needs_repository = pytest.mark.skipif(
    not (REPOSITORY / "CMakeLists.txt").exists(), reason="the tests run without the repository around them"
)


def path_of(module):
    spec = importlib.util.find_spec(f"fastopt.{module}")
    assert spec is not None, f"fastopt.{module} is not installed"
    return spec.origin


def test_a_core_is_built():
    assert built_isas()
    assert set(built_isas()) <= set(ISAS)


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("nm") is None, reason="needs nm on Linux")
@pytest.mark.parametrize("module", MODULES)
def test_only_the_init_function_is_exported(module):
    listing = subprocess.run(["nm", "-D", "--defined-only", path_of(module)], capture_output=True, text=True, check=True).stdout
    exported = {line.split()[-1].split("@")[0] for line in listing.splitlines() if line.strip()} - LINKER
    assert exported == {f"PyInit_{module}"}, f"{module} exports {sorted(exported)[:10]}"


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("nm") is None, reason="needs nm on Linux")
@pytest.mark.parametrize("module", MODULES)
def test_no_start_file_that_switches_denormals_off(module):
    listing = subprocess.run(["nm", path_of(module)], capture_output=True, text=True, check=False).stdout
    assert "set_fast_math" not in listing, f"{module} is linked with crtfastmath"


@needs_repository
def test_no_fast_math_in_any_flag():
    files = [REPOSITORY / "CMakeLists.txt", REPOSITORY / "pyproject.toml", *(REPOSITORY / "cpp").rglob("*.[ch]pp")]
    wrong = re.compile(r"-ffast-math|-Ofast|-funsafe-math|-ffinite-math-only|-fassociative-math|-freciprocal-math|optimize\s*\(\s*\"")
    for path in files:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = line.split("//")[0] if path.suffix != ".txt" else line.split("#")[0]
            assert not wrong.search(code), f"{path.name}:{number} asks for fast-math: {line.strip()}"


@needs_repository
def test_eigen_is_pinned_and_limited_to_its_free_part():
    assert "cmeel-eigen==3.4.1" in (REPOSITORY / "pyproject.toml").read_text()
    assert "EIGEN_MPL2_ONLY" in (REPOSITORY / "CMakeLists.txt").read_text()


def test_build_info():
    info = fo.build_info()
    assert info["isa"] in info["isas_built"] == built_isas_in_order(info)
    assert info["threads"] == fo.get_num_threads()
    text = " ".join(f"{key} {value}" for key, value in info.items()).lower()
    for word in ("version", "compiler", "eigen", "openmp"):
        assert word in text, f"build_info says nothing of {word}: {info}"
    assert "3.4" in str(info.get("eigen", text)), "the version of Eigen"


def built_isas_in_order(info):
    assert sorted(info["isas_built"]) == sorted(built_isas())
    return info["isas_built"]


def test_show_config(capsys):
    fo.show_config()
    shown = capsys.readouterr().out
    for value in (fo.build_info()["isa"], fo.build_info()["version"]):
        assert value in shown


def test_typed():
    spec = importlib.util.find_spec("fastopt")
    roots = [*spec.submodule_search_locations]
    assert any((REPOSITORY.__class__(root) / "py.typed").exists() for root in roots), "the package has no py.typed"
