"""Questions in, the same requests of every contestant and their right answers out."""

from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import quote

import numpy as np
import orjson

from benchmarks.data import Catalog
from benchmarks.truth import Keep, Rows, exact
from semrec_ray.encode import open_encoder
from semrec_ray.examples import text_vector
from semrec_ray.types import Vector

K = 10
KINDS = ("similar", "user", "text", "50%", "1%", "0.01%", "unique")
SHARES = {"50%": 0.5, "1%": 0.01, "0.01%": 0.0001}
MASKS = 16  # filters of each share: all contestants keep the masks of so many
DISTINCT = 4096  # requests before they repeat; as many filters of the kind unique
BATCH = 100


@dataclass(frozen=True, slots=True)
class Question:
    """One thing to ask; `row` is an item's, a user's or a title's (as text), `keep` a range of draw."""

    kind: str
    row: int
    keep: tuple[int, int] | None = None


def questions(catalog: Catalog, kind: str, count: int = DISTINCT, seed: int = 0) -> list[Question]:
    """Return questions of a kind: similar, user, text, or similar with a filter of a share, or with one of its own."""
    assert kind in KINDS, f"{kind!r} is none of {', '.join(KINDS)}"
    rng, rows = np.random.default_rng(seed), len(catalog.item_ids)
    among = len(catalog.user_ids) if kind == "user" else rows
    chosen = [int(row) for row in rng.integers(among, size=count)]
    if kind in ("similar", "user", "text"):
        return [Question(kind, row) for row in chosen]
    width = max(1, round(rows * SHARES.get(kind, 0.5)))
    starts = rng.integers(rows - width + 1, size=count if kind == "unique" else MASKS)
    return [
        Question("similar", row, (low, low + width))
        for row, low in zip(chosen, map(int, np.resize(starts, count)), strict=True)
    ]


def ours(catalog: Catalog, question: Question) -> tuple[str, bytes | None]:
    """Return what our app is asked: the path, and the body of a POST."""
    plain = f"?k={K}&fields=title"
    if question.kind == "text":
        return f"/v1/search{plain}&q={quote(catalog.titles[question.row])}", None
    if question.kind == "user":
        return f"/v1/recommend/{quote(catalog.user_ids[question.row])}{plain}", None
    if question.keep is None:
        return f"/v1/similar/{quote(catalog.item_ids[question.row])}{plain}", None
    return "/v1/query", orjson.dumps(our_body(catalog, question))


def our_body(catalog: Catalog, question: Question) -> dict[str, object]:
    """Return the body of a query for items like an item."""
    body: dict[str, object] = {"examples": [{"item_id": catalog.item_ids[question.row]}], "k": K, "fields": ["title"]}
    return body if question.keep is None else body | {"filter": catalog.filter(question.keep)}


def our_batches(catalog: Catalog, asked: Sequence[Question]) -> list[tuple[str, bytes | None]]:
    """Return requests of a hundred queries each."""
    parts = [asked[at : at + BATCH] for at in range(0, len(asked) - BATCH + 1, BATCH)]
    bodies = [{"queries": [our_body(catalog, question) for question in part]} for part in parts]
    return [("/v1/query/batch", orjson.dumps(body)) for body in bodies]


def theirs(catalog: Catalog, question: Question) -> tuple[str, bytes | None]:
    """Return what a peer is asked."""
    if question.kind == "user":
        return f"/recommend/{quote(catalog.user_ids[question.row])}?k={K}", None
    assert question.kind == "similar", "no peer understands texts"
    keep = "" if question.keep is None else f"&filter={question.keep[0]}-{question.keep[1]}"
    return f"/similar/{quote(catalog.item_ids[question.row])}?k={K}{keep}", None


def right_answers(catalog: Catalog, asked: Sequence[Question]) -> list[Rows]:
    """Return the rows of the right answers: the best without the item itself, or without what the user has seen."""
    return exact(catalog.vectors, _vectors(catalog, asked), K, [_keep(catalog, question) for question in asked])


def _vectors(catalog: Catalog, asked: Sequence[Question]) -> Vector:
    if asked[0].kind == "text":
        assert catalog.model is not None, f"{catalog.name} has no model that understands texts"
        found = open_encoder(catalog.model).encode_texts([catalog.titles[question.row] for question in asked])
        return np.stack([text_vector(embedding, catalog.space) for embedding in found])
    return (catalog.users if asked[0].kind == "user" else catalog.asking)[[question.row for question in asked]]


def _keep(catalog: Catalog, question: Question) -> Keep | None:
    if question.kind == "text":
        return None
    keep = np.ones(len(catalog.item_ids), np.bool_)
    if question.keep is not None:
        keep = (catalog.draw >= question.keep[0]) & (catalog.draw < question.keep[1])
    keep[catalog.seen[question.row] if question.kind == "user" else question.row] = False
    return keep
