"""Live writes in, changes of the log out, and from time to time tables that hold them.

    writer = open_writer(config)
    written = await writer.write(PutItems(({"item_id": "a", "title": "A"},)), timeout_s=5)      # it lasts
    await writer.write(AddEvents(({"user_id": "ann", "item_id": "a"},)), timeout_s=5)

`incoming.py` checks what callers send, `placing.py` makes an item's vectors, `catalog.py` knows what there is,
`staging.py` makes changes of writes, `writer.py` commits them, `folding.py` moves them from the log into the tables.
"""

from semrec_ray.write.folding import fold
from semrec_ray.write.writer import LocalWriter, WriterPort, open_writer

__all__ = ["LocalWriter", "WriterPort", "fold", "open_writer"]
