"""One column as it was read in, its place in the file kept; an error that names the value and the row out."""

import reprlib
import textwrap
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.errors import BadInput


@dataclass(frozen=True, slots=True)
class Column:
    """A column and what an error says about it; `first_row` is the 1-based data row of its first value."""

    origin: str
    first_row: int
    name: str
    values: pa.ChunkedArray

    def bad(self, index: int, problem: str, fix: str) -> BadInput:
        """Return the error that names one value and its row."""
        return BadInput(self.origin, self.first_row + index, f"{self.name} {self._shown(index)} {problem}", fix)

    def wrong_type(self, fix: str) -> BadInput:
        """Return the error for a column whose type holds no right value; names its first one."""
        return self.bad(self.first_given(), f"is of type {type_name(self.values.type)}", fix)

    def first_given(self) -> int:
        """Return the index of the first value that is not null; 0 where all are."""
        return max(int(pc.index(self.values.is_valid(), True).as_py()), 0)

    def refuse(self, mask: pa.ChunkedArray, problem: str, fix: str) -> None:
        """Raise BadInput for the first value where the mask is true."""
        index = pc.index(mask, True).as_py()
        if index >= 0:
            raise self.bad(index, problem, fix)

    def attempt(self, convert: Callable[[Any], Any], problem: str, fix: str) -> pa.ChunkedArray:
        """Return the converted values, or raise BadInput for the first one that Arrow refuses to convert."""
        try:
            return convert(self.values)
        except pa.ArrowInvalid as error:
            raise self.bad(first_failing(self.values, convert), problem, fix) from error

    def _shown(self, index: int) -> str:
        value = self.values[index]
        try:
            return reprlib.repr(value.as_py())
        except (OverflowError, ValueError):  # a timestamp that Python cannot hold, or of a zone that it does not know
            return str(getattr(value, "value", type_name(value.type)))


def type_name(kind: pa.DataType) -> str:
    """Return a type as an error shows it: a struct's may fill pages."""
    return textwrap.shorten(str(kind), 80, placeholder=" ...")


def first_failing(values: Sequence[Any], convert: Callable[[Any], Any]) -> int:
    """Return the index of the first value with which `convert` fails; it converted what stands before it."""

    def fails(index: int) -> bool:
        try:
            convert(values[: index + 1])
        except (pa.ArrowException, OverflowError, TypeError, ValueError):
            return True
        return False

    return bisect_left(range(len(values)), True, key=fails)
