"""Rows too many for memory: a schema, and a way to go through them from the start, a table at a time."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Rows:
    """Tables of one schema, made anew whenever they are gone through; the order is always the same."""

    schema: pa.Schema
    tables: Callable[[], Iterator[pa.Table]]

    @classmethod
    def of(cls, table: pa.Table) -> "Rows":
        """Return the rows of a table that is in memory."""
        return cls(table.schema, lambda: iter((table,)))

    def mapped(self, change: Callable[[pa.Table], pa.Table]) -> "Rows":
        """Return the rows with a change made to every table, an empty one too."""
        return Rows(change(self.schema.empty_table()).schema, lambda: map(change, self.tables()))

    def read(self) -> pa.Table:
        """Return all rows in one table in memory."""
        return pa.concat_tables([self.schema.empty_table(), *self.tables()])
