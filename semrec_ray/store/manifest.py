"""What a long run was asked for, in the folder that it fills: who goes on with it has to ask for the same."""

from collections.abc import Iterator, Mapping
from typing import Any

import orjson

from semrec_ray.errors import InvalidRequest
from semrec_ray.store.folder import Folder

MANIFEST = "_manifest.json"


def write_manifest(folder: Folder, asked: Mapping[str, Any]) -> None:
    """Begin a folder."""
    folder.put(MANIFEST, orjson.dumps(asked, option=orjson.OPT_INDENT_2 | orjson.OPT_SORT_KEYS))


def read_manifest(folder: Folder) -> dict[str, Any]:
    """Return what a folder was begun with, {} where it is empty; InvalidRequest for any other folder."""
    content = folder.read(MANIFEST)
    if content is None and (there := folder.names()):
        raise InvalidRequest(f"{folder.uri} holds {min(there)!r} and no {MANIFEST}: give an empty folder, or none yet")
    try:
        return dict(orjson.loads(content)) if content is not None else {}
    except ValueError as error:
        raise InvalidRequest(f"{folder.uri}/{MANIFEST} is no JSON object ({error}): give another folder") from error


def require_same(folder: Folder, begun: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    """Raise InvalidRequest, which says what differs, unless a folder was begun with what is asked for now."""
    differing = list(_differing(begun, orjson.loads(orjson.dumps(asked))))
    if differing:
        raise InvalidRequest(
            f"{folder.uri} was begun by another run: {'; '.join(differing)}. Ask the same to complete it, or give "
            f"another folder"
        )


def _differing(there: Mapping[str, Any], now: Mapping[str, Any], path: str = "") -> Iterator[str]:
    """Yield what differs between two JSON objects, each as `query.k is null there and 3 now`."""
    for name in sorted(there.keys() | now.keys()):
        old, new = there.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differing(old, new, f"{path}{name}.")
        elif old != new:
            yield f"{path}{name} is {_shown(old)} there and {_shown(new)} now"


def _shown(value: object) -> str:
    return orjson.dumps(value).decode()[:100]
