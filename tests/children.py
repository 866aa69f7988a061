"""Snippets of Python run in a process of their own, with an instruction set and a number of threads of their own."""

import os
import shutil
import subprocess
import sys
import textwrap

import pytest

TESTS = os.path.dirname(__file__)
LIMIT = 600  # seconds for a child, which only a hang reaches: beside two busy processes three threads on two cores take two minutes


def run_python(code, *, isa=None, threads=None, check=True, arguments=(), **environment):
    """Run a snippet with the tests importable; its standard output comes back, or (code, out, err) with check=False.

    An environment variable that is None is not there.
    """
    env = {key: value for key, value in os.environ.items() if not key.startswith("FASTOPT_") or key == "FASTOPT_ISA"}
    env.update({"PYTHONPATH": os.pathsep.join([TESTS, *filter(None, [env.get("PYTHONPATH")])]), "PYTHONWARNINGS": "error"})
    if isa is not None:
        env["FASTOPT_ISA"] = isa
    if threads is not None:
        env["FASTOPT_NUM_THREADS"] = str(threads)
    env.update(environment)
    env = {name: value for name, value in env.items() if value is not None}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *arguments], env=env, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    if not check:
        return done.returncode, done.stdout.strip(), done.stderr.strip()
    assert done.returncode == 0, f"the snippet failed with {done.returncode}:\n{done.stderr}"
    return done.stdout.strip()


def preloaded(source, folder):
    """The path of a shared library compiled from `source`, for LD_PRELOAD of a child."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the library is preloaded in front of glibc")
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    compiler = next((path for name in names if name and (path := shutil.which(name))), None)
    if compiler is None:
        pytest.skip(f"there is no C++ compiler here for {source.name}")
    library = folder / f"{source.stem}.so"
    subprocess.run([compiler, "-O1", "-std=c++17", "-shared", "-fPIC", str(source), "-o", str(library)], check=True)
    return str(library)
