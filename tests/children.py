"""Snippets of Python run in a process of their own, with an instruction set and a number of threads of their own."""

import os
import subprocess
import sys
import textwrap

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
