"""Files with a column `user_id` in, each id once out: of whom something is asked."""

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.data.columns import Column
from semrec_ray.data.conversions import converted
from semrec_ray.data.places import Place, matching
from semrec_ray.data.readers import raw_tables
from semrec_ray.errors import BadInput


def read_user_ids(pattern: str) -> pa.Array:
    """Return the user ids of a file, glob or URI (Parquet, CSV, JSONL), each once, ascending by their UTF-8 bytes.

    Other columns are not read. BadInput names the row of a missing id.
    """
    found = [values for place in matching([pattern]) for values in _user_ids(place)]
    ids = pa.chunked_array(found, pa.string()).unique()
    return ids.take(pc.sort_indices(ids))


def _user_ids(place: Place) -> Iterator[pa.Array]:
    first_row = 1
    for table in raw_tables(place):
        if table.num_rows and "user_id" not in table.column_names:
            problem = f"has no column 'user_id', only {', '.join(map(repr, table.column_names))}"
            raise BadInput(place.name, None, problem, "Name the column of user ids `user_id`")
        if table.num_rows:
            column = Column(place.name, first_row, "user_id", table["user_id"])
            ids = converted(column, pa.string())
            column.refuse(pc.or_kleene(ids.is_null(), pc.equal(ids, "")), "is missing or empty", "Give every row one")
            yield from ids.chunks
        first_row += table.num_rows
