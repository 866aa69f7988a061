"""Compare two result files of bench/run.py: `python bench/compare.py A.json B.json`.

Prints the ratio of the medians, B over A, for every figure in both. A difference counts as real ("faster", "slower")
when the quartile ranges of A and B do not overlap; all others are within the spread.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from report import format_table, number

Key = tuple[str, str, str]


def load(path: Path) -> tuple[dict[str, Any], dict[Key, dict[str, Any]]]:
    data = json.loads(path.read_text())
    return data, {(record["section"], record["case"], record["contestant"]): record for record in data["records"]}


def verdict(before: dict[str, Any], after: dict[str, Any]) -> str:
    if after["q1"] > before["q3"]:
        grew = True
    elif after["q3"] < before["q1"]:
        grew = False
    else:
        return ""
    return "faster" if grew == before["higher_is_better"] else "slower"


def shown(record: dict[str, Any]) -> str:
    """The median in a unit that reads well."""
    value, unit = record["median"], record["unit"]
    if unit.startswith("s"):
        return f"{number(value * 1e6)} µs{unit[1:]}"
    if unit in ("FLOP/s", "B/s"):
        return f"{number(value * 1e-9)} G{unit}"
    return f"{number(value)} {unit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path, metavar="A.json")
    parser.add_argument("after", type=Path, metavar="B.json")
    parser.add_argument("--all", action="store_true", help="peers and limits too, not only fastopt")
    arguments = parser.parse_args()

    (before_run, before), (after_run, after) = load(arguments.before), load(arguments.after)
    for name in ("cpu", "threads", "cores"):
        if before_run["machine"][name] != after_run["machine"][name]:
            print(f"note: different {name}: {before_run['machine'][name]} and {after_run['machine'][name]}")
    for name in sorted(before_run["build"].keys() | after_run["build"].keys()):
        if before_run["build"].get(name) != after_run["build"].get(name):
            print(f"note: different build, {name}: {before_run['build'].get(name)} and {after_run['build'].get(name)}")

    rows = []
    for key, old in before.items():
        new = after.get(key)
        if new is None or not (arguments.all or key[2].startswith("fastopt")):
            continue
        rows.append([" / ".join(key), shown(old), shown(new), f"{new['median'] / old['median']:.3f}", verdict(old, new)])
    print(format_table(["figure", arguments.before.name, arguments.after.name, "B/A", "beyond spread"], rows))

    marks = [row[-1] for row in rows]
    print(f"\n{len(rows)} figures: {marks.count('faster')} faster, {marks.count('slower')} slower, {marks.count('')} within the spread")
    for label, first, second in (("A", before, after), ("B", after, before)):
        alone = first.keys() - second.keys()
        if alone:
            print(f"{len(alone)} figures only in {label}")


if __name__ == "__main__":
    main()
