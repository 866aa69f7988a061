"""Measure fastopt beside the machine's own limits, NumPy and the installed peers.

    python bench/run.py [--quick] [--threads N] [--only NAME] [--json FILE] [--markdown] [--readme]

bench/README.md describes the method.
"""

import argparse
import importlib
import json
import time
from pathlib import Path

import machine

SECTIONS = (
    "limits",
    "kernels",
    "optimizers",
    "batchnorm",
    "training",
    "full_batch",
    "bf16",
    "profile",
    "sweep",
    "neighbours",
    "inference",
    "overhead",
    "memory",
    "solvers",
)
MODULES = {"profile": "stages"}  # where the file is not named as the section: Python itself has a module "profile"
README = Path(__file__).parent / "README.md"

BUSY_CORES = 0.1  # OpenMP barriers lose whole time slices to another process: more than this spoils a run


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and three repeats: shows that everything runs, not how fast")
    parser.add_argument("--threads", type=int, default=machine.available_cores(), help="threads of every library (default: all cores)")
    only = f"one section, may be repeated: {', '.join(SECTIONS)}"
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="NAME", help=only)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every median and quartile, the machine and the build")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--readme", action="store_true", help="write the tables of profile and sweep into bench/README.md")
    arguments = parser.parse_args()
    if arguments.threads < 1:
        parser.error(f"--threads must be at least 1, got {arguments.threads}")
    return arguments


def main() -> None:
    arguments = parse()
    machine.pin(arguments.threads)

    # Only now: NumPy and the peers read the affinity and the environment when they are imported.
    from context import Context

    context = Context.create(threads=arguments.threads, quick=arguments.quick, markdown=arguments.markdown)
    seconds, meter = {}, machine.LoadMeter()
    for section in arguments.only or SECTIONS:
        started = time.perf_counter()
        importlib.import_module(MODULES.get(section, section)).run(context)
        seconds[section] = time.perf_counter() - started
    print(f"\n{sum(seconds.values()):.0f} s:", ", ".join(f"{section} {spent:.0f}" for section, spent in seconds.items()))
    others = meter.others()
    if others is not None and others > BUSY_CORES:
        print(f"Other processes kept {others:.2f} cores busy meanwhile: do not trust these figures.")

    if arguments.readme:
        note = f"{machine.cpu_model()}, {arguments.threads} threads, `{context.build['isa']}`."
        if others is not None and others > BUSY_CORES:
            note += f" **Other processes kept {others:.2f} cores busy meanwhile: these figures are to be measured again.**"
        written = [section for section in seconds if context.report.write_into(README, section, note)]
        print(f"written into {README.name}: {', '.join(written) or 'nothing, it has no place for these sections'}")
    if arguments.json is not None:
        result = {
            "machine": machine.describe(arguments.threads) | {"cores_busy_elsewhere": others},
            "build": context.build,
            "quick": arguments.quick,
            "records": context.report.records,
        }
        arguments.json.write_text(json.dumps(result, indent=1, default=str) + "\n")


if __name__ == "__main__":
    main()
