"""Tables for people, in plain text or Markdown, and records for machines."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness import Summary


class Report:
    """Prints as it goes and keeps every figure for the JSON file."""

    def __init__(self, markdown: bool = False) -> None:
        self.records: list[dict[str, Any]] = []
        self.section = ""
        self.markdown = markdown
        self._texts: dict[str, list[str]] = {}  # Markdown by section

    def begin(self, section: str, title: str) -> None:
        self.section = section
        self._show(f"== {section}: {title}", f"**{title}**", before="\n")

    def line(self, text: str) -> None:
        self._show(text, text)

    def _show(self, plain: str, markdown: str, before: str = "") -> None:
        self._texts.setdefault(self.section, []).append(markdown)
        print(f"\n{markdown}" if self.markdown else before + plain, flush=True)

    def write_into(self, path: Path, section: str, note: str) -> bool:
        """Put a note and what a section showed between its marks in a file; False when the file has no such marks."""
        begin, end = f"<!-- {section}: begin (made by python bench/run.py --only {section} --readme) -->", f"<!-- {section}: end -->"
        text = path.read_text()
        if begin not in text or end not in text:
            return False
        shown = "\n\n".join([note, *self._texts.get(section, [])])
        path.write_text(f"{text.split(begin)[0]}{begin}\n\n{shown}\n\n{end}{text.split(end)[1]}")
        return True

    def add(self, case: str, contestant: str, summary: Summary, unit: str, *, higher_is_better: bool = False, **extra: Any) -> None:
        """One figure: `unit` is the unit of the median and the quartiles ("s" per step, call, ..., or a rate)."""
        record = {"section": self.section, "case": case, "contestant": contestant, "unit": unit, "higher_is_better": higher_is_better}
        self.records.append(record | summary.as_dict() | extra)

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        self._show(format_table(headers, rows), markdown_table(headers, rows))


def format_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column left, the others right."""
    widths = [max(len(str(row[column])) for row in [headers, *rows]) for column in range(len(headers))]

    def one(row: Sequence[str]) -> str:
        first, *others = (str(cell) for cell in row)
        cells = [first.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))]
        return "  ".join(cells).rstrip()

    rule = "  ".join("-" * width for width in widths)
    return "\n".join([one(headers), rule, *(one(row) for row in rows)])


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """First column left, the others right."""
    rule = ["---", *["---:"] * (len(headers) - 1)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in [headers, rule, *rows])


def micros(summary: Summary | None) -> str:
    """Microseconds and spread: "26.8 ±2%"."""
    if summary is None:
        return "-"
    return f"{number(summary.median * 1e6)} {plus_minus(summary)}"


def plus_minus(summary: Summary) -> str:
    """Half the distance of the quartiles in percent of the median."""
    return f"±{50 * summary.spread:.0f}%"


def number(value: float) -> str:
    """At least three significant digits, at most two decimals."""
    digits = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{min(max(digits, 0), 2)}f}".replace(",", " ")


def ratio(other: Summary | None, ours: Summary | None) -> str:
    """How many times slower the other one is."""
    if other is None or ours is None:
        return "-"
    return f"x{other.over(ours):.2f}"


def percent(fraction: float | None) -> str:
    return "-" if fraction is None else f"{100 * fraction:.0f}%"


def peer(other: Summary | None, ours: Summary | None) -> str:
    """Microseconds and how many times slower than us: "66.1 (x8.3)"."""
    if other is None or ours is None:
        return "-"
    return f"{number(other.median * 1e6)} ({ratio(other, ours)})"
