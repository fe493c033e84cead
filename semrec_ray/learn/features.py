"""Content vectors, categories and years in, the features that tell how alike two items are out."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from semrec_ray.types import Vector

CATEGORIES = 512  # the most frequent ones; others are as good as none
YEAR_STEP = 5.0  # between the centres of the year code, and the width of each


@dataclass(frozen=True, slots=True)
class Metadata:
    """How categories and a year become numbers: the code of a catalog, frozen with its space."""

    categories: tuple[str, ...]
    years: Vector  # (Y,) centres
    mean: Vector  # (C + Y,) of the catalog's codes
    weight: float  # beside a content vector of length 1

    @classmethod
    def fit(
        cls, categories: Sequence[Sequence[str] | None], years: Sequence[float | None], weight: float
    ) -> "Metadata":
        """Return the code of N items; the years span all but the outermost percent at either end."""
        counted = Counter(name for names in categories for name in set(names or ()))
        known = sorted(counted, key=lambda name: (-counted[name], name))[:CATEGORIES]
        given = [year for year in years if year is not None]
        low, high = np.quantile(given, [0.01, 0.99]) if given else (0.0, -YEAR_STEP)
        centres = np.arange(low, high + YEAR_STEP, YEAR_STEP, dtype=np.float32)
        raw = cls(tuple(known), centres, np.zeros(len(known) + len(centres), np.float32), weight)
        codes = raw.codes(categories, years)
        return cls(raw.categories, centres, codes.mean(axis=0) if len(codes) else raw.mean, weight)

    def codes(self, categories: Sequence[Sequence[str] | None], years: Sequence[float | None]) -> Vector:
        """Return [unit category multi-hot || unit Gaussian year code] - mean, (B, C + Y); what is missing is zero."""
        place = {name: column for column, name in enumerate(self.categories)}
        hot = np.zeros((len(categories), len(place)), np.float32)
        for row, names in enumerate(categories):
            hot[row, [place[name] for name in names or () if name in place]] = 1.0
        year = np.array([np.nan if year is None else year for year in years], np.float32)
        if len(self.years):
            year = np.clip(year, self.years[0], self.years[-1])
        bells = np.nan_to_num(np.exp(-0.5 * ((year[:, None] - self.years) / YEAR_STEP) ** 2))
        return np.asarray(np.hstack([unit(hot), unit(bells)]) - self.mean, dtype=np.float32)

    def features(
        self, content: Vector, categories: Sequence[Sequence[str] | None], years: Sequence[float | None]
    ) -> Vector:
        """Return unit[content || weight x code] of B items whose centred unit vectors are `content` (B, E)."""
        return unit(np.hstack([content, self.weight * self.codes(categories, years)]))


def unit(rows: Vector) -> Vector:
    """Return rows (B, D) made length 1; a row of zeros stays."""
    length = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(length == 0.0, 1.0, length), dtype=np.float32)
