"""Ids of items in, their rows or fields out: from what a router keeps of a release, else from the shards."""

from collections.abc import Iterable, Sequence

from semrec_ray.errors import NotFound, Unavailable
from semrec_ray.search.fanout import Fanout
from semrec_ray.serving import View
from semrec_ray.types import Columns, ItemRow


class Items:
    """Reads items of the releases that are served; `deadline` is a time of the event loop's clock."""

    def __init__(self, fanout: Fanout) -> None:
        self._fanout = fanout

    async def examples(
        self, view: View, item_ids: Sequence[str], deadline: float, fields: tuple[str, ...], min_seq: int
    ) -> dict[str, ItemRow]:
        """Return the rows of example items in their order; those without fields from a cache."""
        if fields:
            return await self.rows(view, item_ids, deadline, fields, min_seq)
        known, settled = view.kept(view.rows, item_ids), view.settled
        if unknown := [item_id for item_id in item_ids if item_id not in known]:
            read = await self.rows(view, unknown, deadline, min_seq=min_seq)
            view.keep(view.rows, read, settled)
            known |= read
        return {item_id: known[item_id] for item_id in item_ids}

    async def rows(
        self,
        view: View,
        item_ids: Sequence[str],
        deadline: float,
        fields: tuple[str, ...] | None = (),
        min_seq: int = 0,
        *,
        vectors: bool = True,
    ) -> dict[str, ItemRow]:
        """Return the rows of items, with their vectors if wanted; NotFound where one does not exist."""
        rows, missing = await self._fanout.fetch(
            view.release.name, item_ids, deadline=deadline, fields=fields, vectors=vectors, min_seq=min_seq
        )
        for item_id in item_ids:
            if item_id not in rows and missing:
                raise Unavailable(f"item {item_id!r} cannot be read while {', '.join(missing)} is out")
            if item_id not in rows:
                raise NotFound(f"item {item_id!r} is not in release {view.release.name}")
        return rows

    async def columns(
        self, view: View, item_ids: Iterable[str], fields: tuple[str, ...], deadline: float, min_seq: int = 0
    ) -> tuple[dict[str, Columns], tuple[str, ...]]:
        """Return the fields of items, and the shards that did not answer; the default ones from a cache."""
        if not fields:
            return {}, ()
        standard = view.standard
        cached = fields is standard or set(fields) <= set(standard)
        wanted = list(dict.fromkeys(item_ids))
        columns, settled = view.kept(view.items, wanted) if cached else {}, view.settled
        unknown = [item_id for item_id in wanted if item_id not in columns]
        if not unknown:
            return columns, ()
        rows, missing = await self._fanout.fetch(
            view.release.name, unknown, deadline=deadline, fields=standard if cached else fields, min_seq=min_seq
        )
        read = {item_id: row.columns for item_id, row in rows.items()}
        if cached:
            view.keep(view.items, read, settled)
        return columns | read, missing
