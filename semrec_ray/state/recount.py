"""Plans of what to count in, users with their new vectors and sums out."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from semrec_ray.state.deeds import Deed
from semrec_ray.state.item_vectors import ItemVectors
from semrec_ray.state.pulls import pulls
from semrec_ray.state.recent import Plan, Recent
from semrec_ray.state.released import Released
from semrec_ray.state.taste import Acts, Counting, Taste, add_together
from semrec_ray.types import Pull, Vector


def recounted(
    plans: Sequence[Plan], known: Released, items: ItemVectors, counting: Counting
) -> Iterator[tuple[Plan, Recent, Taste]]:
    """Yield of each plan what the user is then, and their sums; the vectors of all their items are read together."""
    needed = _Needed(plans, known, items, counting)
    before = [plan.recent.before.copy() if plan.recent.before else counting.nobody() for plan in plans]
    add_together(before, [needed.acts(plan.gone) for plan in plans], needed.vectors)
    sums = [plan.sums or start.copy() for plan, start in zip(plans, before, strict=True)]
    add_together(sums, [needed.acts_released(*plan.rows) for plan in plans], needed.vectors)
    add_together(sums, [needed.acts(plan.deeds) for plan in plans], needed.vectors)
    for plan, start, their in zip(plans, before, sums, strict=True):
        kept = start if plan.gone else plan.recent.before
        yield plan, replace(plan.recent, before=kept, vector=counting.vector(their)), their


def explained(plan: Plan, known: Released, items: ItemVectors, counting: Counting, hits: Vector) -> list[list[Pull]]:
    """Return of each hit (K, D) what of a user's history adds most to its score; `plan` counts all that is kept."""
    needed = _Needed([plan], known, items, counting)
    ((_, _, sums),) = recounted([plan], known, items, counting)
    parts = [needed.acts_released(*plan.rows), needed.acts(plan.deeds)]
    acts = Acts(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("rows", "ratings", "weights")))
    return pulls(acts, needed.item_ids, needed.vectors, sums, counting, hits)


class _Needed:
    """The scaled vectors that some plans take, (N, D), and events as rows of them."""

    def __init__(self, plans: Sequence[Plan], known: Released, items: ItemVectors, counting: Counting) -> None:
        self._known, self._counting = known, counting
        self._items = np.unique(np.concatenate([known.items[slice(*plan.rows)] for plan in plans] or [known.items[:0]]))
        names = known.item_ids.take(pa.array(self._items)).to_pylist()
        found = items.get([*names, *(deed.item_id for plan in plans for deed in (*plan.gone, *plan.deeds))])
        self.vectors = np.stack(list(found.values())) if found else np.zeros((0, counting.dims), np.float32)
        self.item_ids = list(found)
        self._rows = {item_id: row for row, item_id in enumerate(found)}
        self._rows_of_items = self._rows_of(names)

    def acts(self, deeds: Sequence[Deed]) -> Acts:
        """Return those of a user's deeds that count."""
        weights = [self._counting.weight(deed.kind, deed.weight) for deed in deeds]
        rows = self._rows_of([deed.item_id for deed in deeds])
        return self._counting.acts(rows, [deed.rating for deed in deeds], weights)

    def acts_released(self, first: int, past: int) -> Acts:
        """Return those of these rows of the release that count."""
        if first == past:
            return self.acts(())
        rows = self._rows_of_items[np.searchsorted(self._items, self._known.items[first:past])]
        return self._counting.acts(rows, *self._known.numbers(first, past, self._counting.config))

    def _rows_of(self, item_ids: Sequence[str]) -> npt.NDArray[np.int64]:
        return np.array([self._rows.get(item_id, -1) for item_id in item_ids], np.int64)
