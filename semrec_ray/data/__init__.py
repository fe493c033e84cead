"""The world's files in, checked Arrow tables out; writes nothing.

In: the name of a source (`demo`, `demo-large`, `files`) and paths of Parquet, CSV, TSV or JSON lines files.
Out: an `Imported` with the rows of `ITEMS`, `EVENTS` and the given vectors; ids are unique, values of the right
type. What cannot be imported is a `BadInput` that names the file, the row, the value and the fix.

    bought = read_source(Source("files", items=["items.parquet"], events=["events-*.csv"]))
    for table in bought.items.tables(): ...      # a table at a time: there may be more than fit into memory
"""

from semrec_ray.data.sources import Source, read_source
from semrec_ray.data.tables import EVENTS, ITEMS, Imported, checked_events, checked_items, event_id

__all__ = ["EVENTS", "ITEMS", "Imported", "Source", "checked_events", "checked_items", "event_id", "read_source"]
