"""The README's table of everything that is registered, made from the registries.

python tests/readme_rules.py --write
"""

import sys
from pathlib import Path

import fastopt as fo

README = Path(__file__).resolve().parents[1] / "README.md"
BEGIN, END = "<!-- rules: begin (made by tests/readme_rules.py) -->", "<!-- rules: end -->"


def first_line(thing):
    return thing.__doc__.strip().splitlines()[0].replace("|", "\\|")


def table():
    """The lines between the markers."""
    rows = ["| name | what it is |", "|---|---|"]

    def section(title):
        rows.append(f"| **{title}** | |")

    section("layers (`fo.layers`)")
    rows += [f"| `{cls.kind}`: {cls.__name__} | {first_line(cls)} |" for cls in fo.layers.layer_classes()]
    rows.append(f"| activations | {', '.join(f'`{name}`' for name in fo.layers.ACTIVATIONS)} |")
    rows.append(f"| initialisers | {', '.join(f'`{name}`' for name in fo.layers.INITIALIZERS)} |")
    for title, module in (("losses (`fo.losses`)", fo.losses), ("optimizers (`fo.optimizers`)", fo.optimizers)):
        section(title)
        for name in module.names():
            cls = type(module.get(name))
            rows.append(f"| `{name}`: {cls.__name__} | {first_line(cls)} |")
    section("schedules (`fo.schedules`)")
    rows += [f"| `{name}` | {first_line(getattr(fo.schedules, name))} |" for name in fo.schedules.names()]
    return "\n".join(rows)


def main():
    text = README.read_text()
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = f"{before}{BEGIN}\n{table()}\n{END}{after}"
    if "--write" in sys.argv:
        README.write_text(made)
    else:
        print(table())


if __name__ == "__main__":
    main()
