"""The world's files in, checked Arrow tables out; writes nothing.

In: the name of a source (`demo`, `demo-large`, `files`) and paths of Parquet, CSV, TSV or JSON lines files.
Out: an `Imported` with the tables `ITEMS`, `EVENTS` and the given vectors; ids are unique, values of the right
type. What cannot be imported is a `BadInput` that names the file, the row, the value and the fix.

    bought = read_source("files", items=["items.parquet"], events=["events.csv"])
    bought.items.num_rows, bought.events.num_rows, bought.notes
"""

from semrec_ray.data.sources import read_source
from semrec_ray.data.tables import EVENTS, ITEMS, Imported, checked_events, checked_items, event_id

__all__ = ["EVENTS", "ITEMS", "Imported", "checked_events", "checked_items", "event_id", "read_source"]
