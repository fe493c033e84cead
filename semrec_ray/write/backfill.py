"""A release that nothing points at yet in, the vectors out that live writes behind it lack in its space.

Writes from before the release was there know nothing of its space. They are found in the log, what has to be embedded
is, and a put of the same row with that one vector is appended: who loads the release, now or later, finds it.
Whatever is written from then on has a vector in the space from the start (`writer.py`), so nothing can slip through.
"""

import logging
from collections.abc import Callable, Mapping, Sequence

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from semrec_ray.encode import Encoder
from semrec_ray.errors import Conflict
from semrec_ray.store.changes import Change, Placed, append, find_log, latest, read_changes
from semrec_ray.store.items import ITEMS_TABLE
from semrec_ray.store.tables import Store
from semrec_ray.types import Release
from semrec_ray.write.placing import Place, open_place, stored_vectors

logger = logging.getLogger(__name__)

TRIES = 20


def backfill(store: Store, release: Release, open_model: Callable[[str], Encoder], model: str | None = None) -> int:
    """Append what the log lacks of vectors in a release's space; returns of how many items."""
    for _ in range(TRIES):
        log = find_log(store)
        if log is None or log.seq <= release.seq:
            return 0
        puts = [c for c in latest(read_changes(log, release.seq)) if c.verb == "put" and release.space not in c.vectors]
        if not puts:
            return 0
        place = open_place(store, release.space, model)
        stored = _stored_rows(store, release, puts)
        known = stored_vectors(store, release.space, list(stored)) if place.learned else {}
        placed = _placed(place, puts, stored, known, open_model)
        if not placed:
            return 0
        changes = [
            Change(log.seq + number, "put", put.item_id, body=put.body, vectors={release.space: placed[put.item_id]})
            for number, put in enumerate((put for put in puts if put.item_id in placed), 1)
        ]
        try:
            append(log, changes)
        except Conflict:
            continue
        logger.info("%d live items got their vectors in the space %s", len(changes), release.space)
        return len(changes)
    raise Conflict(f"others wrote to the log faster {TRIES} times: publish again")


def _placed(
    place: Place,
    puts: Sequence[Change],
    stored: Mapping[str, dict[str, object]],
    known: Mapping[str, Placed],
    open_model: Callable[[str], Encoder],
) -> dict[str | None, Placed]:
    """Return the vectors of those puts that need one: the release has not the item with the same text.

    What was learned of an item that it has, `known`, stays.
    """
    rows = [orjson.loads(str(put.body)) for put in puts]
    texts = [place.text_of(row, stored.get(row["item_id"]), None) for row in rows]
    wanted = sorted({text for text in texts if text})
    embedded = open_model(str(place.model)).encode_texts([text for _, text in wanted]) if wanted else ()
    embeddings = dict(zip(wanted, embedded, strict=True))
    found: dict[str | None, Placed] = {}
    for put, row, text in zip(puts, rows, texts, strict=True):
        new = row["item_id"] not in stored
        one = place.placed(row, known.get(row["item_id"]), None, embeddings[text] if text else None, new=new)
        if one is not None:
            found[put.item_id] = one
    return found


def _stored_rows(store: Store, release: Release, puts: Sequence[Change]) -> dict[str, dict[str, object]]:
    """Return what a text is made of, of those items that the release has."""
    ids = pc.field("item_id").isin(pa.array([put.item_id for put in puts], pa.string()))
    table = store.open(ITEMS_TABLE, release.versions[ITEMS_TABLE])
    columns = [name for name in ("item_id", "title", "year", "categories", "text") if name in table.schema.names]
    return {row["item_id"]: row for row in table.to_table(columns=columns, filter=ids).to_pylist()}
