"""A table in, its columns ready to be compared out: what every filter on a column needs is made once, at the first."""

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.search.filter_parse import is_list, kind_of, value_type

Mask = npt.NDArray[np.bool_]


class Column:
    """The values of N rows; in a list column, the values of all rows one after the other."""

    def __init__(self, values: pa.ChunkedArray) -> None:
        self.type = values.type
        self._values = values

    @property
    def several(self) -> bool:
        """Whether a row has a list of values."""
        return is_list(self.type)

    @cached_property
    def there(self) -> Mask:
        """Which rows are not null, (N,)."""
        return np.asarray(self._values.is_valid().to_numpy())

    @cached_property
    def plain(self) -> pa.ChunkedArray:
        """The values as `plain` has them."""
        return plain(pc.list_flatten(self._values) if self.several else self._values)

    @cached_property
    def numbers(self) -> npt.NDArray[Any]:
        """The plain numbers, 0 where there is none."""
        return np.asarray(self.plain.fill_null(0).to_numpy())

    def equal_to(self, wanted: pa.Array) -> Mask:
        """Return which rows have one of these plain values, (N,)."""
        mask, (values, rows, ends) = np.zeros(len(self._values), np.bool_), self._postings
        for place in np.flatnonzero(pc.is_in(values, value_set=wanted).to_numpy(zero_copy_only=False)):
            mask[rows[ends[place] : ends[place + 1]]] = True
        return mask

    @cached_property
    def _postings(self) -> tuple[pa.Array, npt.NDArray[np.int32], npt.NDArray[np.int64]]:
        """The distinct values; the rows of the first, of the second and so on; where the rows of each begin and end."""
        encoded = self.plain.combine_chunks().dictionary_encode()
        codes = encoded.indices.fill_null(len(encoded.dictionary)).to_numpy()
        rows = np.arange(len(self._values), dtype=np.int32)
        if self.several:  # not list_parent_indices: it counts what lies under a null list, and list_flatten does not
            rows = np.repeat(rows, pc.list_value_length(self._values).fill_null(0).to_numpy())
        order = np.argsort(codes, kind="stable")
        ends = np.searchsorted(codes[order], np.arange(len(encoded.dictionary) + 1))
        return encoded.dictionary, rows[order], ends


class Columns:
    """The columns of a table; threads may share them."""

    def __init__(self, table: pa.Table) -> None:
        self.rows = table.num_rows
        self._columns = {name: Column(table[name]) for name in table.column_names}

    def __getitem__(self, name: str) -> Column:
        return self._columns[name]


def plain(values: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the values as strings, booleans, float64 without -0.0 or integers (times: in their unit)."""
    type_ = value_type(values.type)
    kind = kind_of(type_)
    if kind == "float":
        return pc.add(values.cast(pa.float64()), 0.0)  # is_in compares bits, and -0.0 + 0.0 is 0.0
    return values.cast(clock(type_)).cast(pa.int64()) if kind == "time" else values.cast(type_)


def clock(type_: pa.DataType) -> pa.DataType:
    """Return the type in which instants of a type are counted."""
    return type_ if pa.types.is_timestamp(type_) else pa.timestamp("ms")
