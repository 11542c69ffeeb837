"""One pass over all rows of a split."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any, cast

from ftadvisor.errors import quoted
from ftadvisor.schema.dataset import DataFormat, Problem
from ftadvisor.sources.datasets.blocks import Fault, Meter
from ftadvisor.sources.datasets.duplicates import Hashes, normal_hash
from ftadvisor.sources.datasets.examples import Example, all_text, example_of
from ftadvisor.sources.datasets.files import DataFile, Split
from ftadvisor.sources.datasets.formats import Layout, layout_of
from ftadvisor.sources.datasets.readers import rows_of
from ftadvisor.sources.datasets.sampling import Reservoir

MOST_PROBLEMS = 20
MOST_CLASSES = 1000
OTHER_CLASSES = "(other)"
MOST_LAYOUTS = 1000
"""Sets of columns that are remembered; a file in which each row has its own names none."""
LONGEST_CLASS = 100
SHOWN_COLUMNS = 8


class Census:
    """What is counted over all rows of a split, and a sample of them.

    Args:
        seed: of the sample.
        any_columns: rows of no known format count as raw text.
        hashed: texts are followed for duplicates.
    """

    def __init__(self, *, seed: int = 0, any_columns: bool = False, hashed: bool = True) -> None:
        self.num_examples = 0
        self.empty_rows = 0
        self.broken_rows = 0
        self.formats: Counter[DataFormat] = Counter()
        self.problems: list[Problem] = []
        self.classes: Counter[str] = Counter()
        self.hashes = Hashes() if hashed else None
        self.sample = Reservoir(seed)
        self.characters = 0.0
        self.longest = 0.0
        self._squares = 0.0
        self._any_columns = any_columns
        self._layouts: dict[tuple[str, ...], Layout | None] = {}
        self._first: Layout | None = None

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.num_examples + self.empty_rows + self.broken_rows

    @property
    def mean(self) -> float:
        """Characters of an example's sequence."""
        return self.characters / self.num_examples

    @property
    def deviation(self) -> float:
        """Standard deviation of them."""
        return math.sqrt(max(0.0, self._squares / self.num_examples - self.mean**2))

    def count(self, split: Split, meter: Meter) -> None:
        """Read all files of a split."""
        for file in split.files:
            self._count_file(file, meter, several=len(split.files) > 1)

    def _count_file(self, file: DataFile, meter: Meter, *, several: bool) -> None:
        for number, value in rows_of(file, meter):
            found = self._examined(value)
            if isinstance(found, Example):
                self._add(found)
            elif found is None:
                self.empty_rows += 1
            else:
                self.broken_rows += 1
                if len(self.problems) < MOST_PROBLEMS:
                    what = f"{file.path.name}: {found.what}" if several else found.what
                    self.problems.append(Problem(number, what))

    def _examined(self, value: Any) -> Example | Fault | None:
        """The row's example, what is wrong with it, or None where it is empty."""
        if value.__class__ is not dict:
            if value is None or value.__class__ is Fault:
                return value
            return Fault("is not an object")
        row = cast("dict[str, Any]", value)
        columns = tuple(row)
        try:
            layout = self._layouts[columns]
        except KeyError:
            layout = self._remember(columns, row)
        if layout is not None:
            return example_of(row, layout)
        text = all_text(row)
        if not row or not text.strip():
            return None
        if self._any_columns:
            return Example("raw", text, len(text))
        return Fault(f"has no columns of a known format: {_listed(columns)}")

    def _remember(self, columns: tuple[str, ...], row: dict[str, Any]) -> Layout | None:
        """The layout of rows with these columns.

        Where they are some of the first row's, it is that layout with a column missing.
        """
        layout = layout_of(row)
        first = self._first = self._first or layout
        if layout and first and {*layout.columns.values()} < {*first.columns.values()}:
            layout = first
        if len(self._layouts) < MOST_LAYOUTS:
            self._layouts[columns] = layout
        return layout

    def _add(self, example: Example) -> None:
        kind, text, size, classes, beside = example
        if self.num_examples == self.sample.next:
            apart = self.num_examples + 1 if beside is None else hash(beside) if beside else 0
            self.sample.offer(self.num_examples, text, size, apart)
        self.num_examples += 1
        self.formats[kind] += 1
        self.characters += size
        self._squares += size * size
        if size > self.longest:
            self.longest = size
        if self.hashes is not None and beside is not None:
            self.hashes.add(normal_hash(text + beside if beside else text))
        for name in classes:
            known = name in self.classes or len(self.classes) < MOST_CLASSES
            self.classes[name[:LONGEST_CLASS] if known else OTHER_CLASSES] += 1

    def roles(self) -> dict[str, str]:
        """Roles to columns, of all layouts that were seen."""
        found: dict[str, str] = {}
        for layout in self._layouts.values():
            if layout is not None:
                found |= {r: c for r, c in layout.columns.items() if r not in found}
        return found


def _listed(columns: tuple[str, ...]) -> str:
    names = [quoted(name) for name in columns[:SHOWN_COLUMNS]]
    return ", ".join(names) + ", ..." * (len(columns) > SHOWN_COLUMNS)
