"""Live writes, erasures and refused ones in, a JSON line for each out: who did what, and what became of it.

    {"time", "caller", "key", "verb", "count", "ids", "status", "seq", "request_id"}

To the logger `semrec_ray.audit` whatever the level of the others, and to a file where one is configured. A key is named
by its id. `ids` are the first of the `count` that were written: of events their users.
"""

import logging
from collections.abc import Iterable
from datetime import UTC, datetime
from itertools import islice
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any

import orjson

from semrec_ray.config import AuditConfig
from semrec_ray.errors import ConfigError, SemrecError
from semrec_ray.types import AddEvents, DeleteItem, EraseUser, PutItems, Write, Written

IDS = 20  # of one write that are named
_VERBS: dict[type[Write], str] = {
    PutItems: "put_items",
    DeleteItem: "delete_item",
    AddEvents: "add_events",
    EraseUser: "erase_user",
}


class Audit:
    """Writes the lines."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger

    def wrote(self, caller: str, key: str | None, write: Write, answer: Written | int, request_id: str) -> None:
        """Note a write, with what it became or the status it failed with."""
        count, ids = _ids(write)
        status, seq = (200, answer.seq) if isinstance(answer, Written) else (answer, None)
        self._note(caller, key, _VERBS[type(write)], request_id, count=count, ids=ids, status=status, seq=seq)

    def refused(
        self, caller: str, key: str | None, method: str, path: str, error: SemrecError, request_id: str
    ) -> None:
        """Note what a caller asked for beyond their role."""
        self._note(caller, key, f"{method[:20]} {path[:200]}", request_id, status=error.status)

    def _note(self, caller: str, key: str | None, verb: str, request_id: str, **facts: object) -> None:
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        line: dict[str, Any] = {"time": time, "caller": caller, "key": key, "verb": verb, **facts}
        self._logger.info("%s", orjson.dumps(line | {"request_id": request_id}).decode())


def open_audit(config: AuditConfig) -> Audit:
    """Return what notes writes; ConfigError where its file cannot be written."""
    logger = logging.getLogger("semrec_ray.audit")
    logger.setLevel(logging.INFO)
    files = {handler.baseFilename for handler in logger.handlers if isinstance(handler, WatchedFileHandler)}
    if config.file is not None and str(Path(config.file).absolute()) not in files:
        logger.addHandler(_file(config.file))
    return Audit(logger)


def _file(path: str) -> logging.Handler:
    """Return what adds lines to a file, which only its owner reads, and begins it anew once it was moved away."""
    try:
        Path(path).touch(mode=0o600)
        handler = WatchedFileHandler(path, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"audit.file {path} cannot be written ({error.strerror}): name one that can") from None
    handler.setFormatter(logging.Formatter("%(message)s"))
    return handler


def _ids(write: Write) -> tuple[int, list[str]]:
    """Return how much a write is about, and the first ids of it."""
    if isinstance(write, PutItems):
        return len(write.items), [str(item["item_id"]) for item in write.items[:IDS]]
    if isinstance(write, AddEvents):
        return len(write.events), _first(str(event["user_id"]) for event in write.events)
    return 1, [write.item_id if isinstance(write, DeleteItem) else write.user_id]


def _first(ids: Iterable[str]) -> list[str]:
    return list(islice(dict.fromkeys(ids), IDS))
