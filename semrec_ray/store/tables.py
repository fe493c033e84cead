"""Arrow tables in and out of Lance: one folder per table, every change one atomic commit.

A table `name` lives at `<store>/<name>.lance`. Readers name a version and see it whole or not at all; a writer
killed before its commit leaves nothing that a reader could find. Every keyed table declares its key, so two
processes that upsert the same new keys conflict and retry instead of leaving duplicates.
"""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import lance
import pyarrow as pa
import pyarrow.compute as pc
from lance.commit import CommitConflictError

from semrec_ray.data.rows import Rows
from semrec_ray.errors import Conflict, StoreError

logger = logging.getLogger(__name__)

_RETRY = timedelta(minutes=30)  # as long as another commit may keep a bulk import from its own
CLAIM_S = 30.0  # a claim is renewed when it is older; half of the least age at which anything is removed
_TRIES = 20  # to replace a table that others replace too
_KEY = {b"lance-schema:unenforced-primary-key": b"true"}


def keyed(schema: pa.Schema, key: str) -> pa.Schema:
    """Return the schema with `key` declared as its primary key, never null."""
    index = schema.get_field_index(key)
    return schema.set(index, pa.field(key, pa.string(), nullable=False, metadata=_KEY))


@dataclass(frozen=True, slots=True)
class Store:
    """The tables under one URI, a directory or an object store; opening one costs about a millisecond."""

    uri: str

    def table_uri(self, name: str) -> str:
        """Return where a table lives."""
        return f"{self.uri.rstrip('/')}/{name}.lance"

    def find(self, name: str, version: int | None = None) -> lance.LanceDataset | None:
        """Return the table at a version (default: the newest), or None where there is no such table."""
        try:
            return lance.dataset(self.table_uri(name), version=version)
        except ValueError as error:
            if "not found" in str(error):
                return None
            raise StoreError(f"table {name!r} of the store {self.uri} cannot be read: {error}") from error

    def open(self, name: str, version: int | None = None) -> lance.LanceDataset:
        """Return the table at a version (default: the newest); StoreError where there is none."""
        dataset = self.find(name, version)
        if dataset is None:
            at = "" if version is None else f" at version {version}"
            raise StoreError(
                f"the store {self.uri} has no table {name!r}{at}: run `semrec import`, `embed` and `publish`, "
                f"or point SEMREC_STORE at the right store"
            )
        return dataset

    def version(self, name: str) -> int | None:
        """Return the newest version of a table, None where there is none."""
        dataset = self.find(name)
        return None if dataset is None else int(dataset.version)

    def create(self, name: str, schema: pa.Schema) -> lance.LanceDataset:
        """Return the table, made empty with this schema where there was none; of several at once one makes it.

        `write_dataset(mode="create")` is not enough: it looks before it writes, and commits as an overwrite where
        another process was faster. Version 0 as the base and no retry make the commit exclusive.
        """
        dataset = self.find(name)
        if dataset is not None:
            return dataset
        empty = lance.LanceOperation.Overwrite(schema, [])
        try:
            return lance.LanceDataset.commit(self.table_uri(name), empty, read_version=0, max_retries=0)
        except OSError:
            dataset = self.find(name)  # another process made it in between
            if dataset is None:
                raise
            return dataset

    def replace(self, name: str, rows: Rows) -> int:
        """Make these the table's rows, whatever it held; returns the new version.

        Of several at once each makes a version of its own; Conflict where others were faster again and again.
        """
        self.create(name, rows.schema)  # Lance warns of a table to overwrite that is not there
        for _ in range(_TRIES):
            try:
                with _streamed(rows, rows.schema) as source:
                    dataset = lance.write_dataset(source, self.table_uri(name), schema=rows.schema, mode="overwrite")
                return int(dataset.version)
            except OSError as error:
                if "Retryable commit conflict" not in str(error):
                    raise
        raise Conflict(f"table {name!r} was replaced by somebody else {_TRIES} times meanwhile: run it again")

    def upsert(self, name: str, rows: Rows, key: str) -> int:
        """Update the rows whose key is known, insert the others, in one commit; returns the version."""
        dataset = self._with_columns(name, rows.schema)
        return _merged(dataset, dataset.merge_insert(key).when_matched_update_all(), rows)

    def insert_new(self, name: str, rows: Rows, key: str) -> int:
        """Insert the rows whose key is unknown, in one commit; returns how many were inserted."""
        dataset = self._with_columns(name, rows.schema)
        merge = dataset.merge_insert(key).when_not_matched_insert_all()
        with _streamed(rows, dataset.schema) as source:
            result = merge.retry_timeout(_RETRY).execute(source)
        return int(result["num_inserted_rows"])

    def upsert_newer(self, name: str, rows: Rows, key: str) -> int:
        """Upsert, but leave rows as they are that are of a later live write (column `seq`); returns the version."""
        dataset = self._with_columns(name, rows.schema)
        older = "target.seq IS NULL OR target.seq <= source.seq"
        return _merged(dataset, dataset.merge_insert(key).when_matched_update_all(older), rows)

    def delete(self, name: str, rows: pc.Expression) -> None:
        """Delete the rows of a table that satisfy an expression; nothing where there is no such table."""
        dataset = self.find(name)
        if dataset is not None:
            dataset.delete(rows, conflict_retries=_TRIES)

    def claim(self, name: str, schema: pa.Schema, key: str, value: str) -> bool:
        """Note in a row (its column `claimed`) that somebody is about to use it; False where it is not there.

        Who removes rows leaves alone what was claimed lately (`remove_unclaimed`); of both at once Lance lets one win.
        """
        dataset = self._with_columns(name, schema)
        where = f"{key} = '{_quoted(value)}'"  # Lance updates by text only
        for row in dataset.to_table(columns=["claimed"], filter=pc.field(key) == value).to_pylist():
            if row["claimed"] and row["claimed"] > moment(-CLAIM_S):  # just now: no commit is needed
                return True
        updated = dataset.update({"claimed": f"'{moment()}'"}, where=where, conflict_retries=_TRIES)
        return bool(updated["num_rows_updated"])

    def remove_unclaimed(self, name: str, schema: pa.Schema, key: str, value: str, before: str) -> bool:
        """Remove a row that nobody claimed since a moment; False where somebody did, or it is not there."""
        unclaimed = pc.field("claimed").is_null() | (pc.field("claimed") < before)
        dataset = self._with_columns(name, schema)
        removed = dataset.delete((pc.field(key) == value) & unclaimed, conflict_retries=_TRIES)
        return bool(removed["num_deleted_rows"])

    def compact(self, name: str, most: int) -> None:
        """Join the files of a table that has more than `most`; another one's commit meanwhile puts it off."""
        dataset = self.find(name)
        if dataset is not None and len(dataset.get_fragments()) > most:
            with contextlib.suppress(CommitConflictError):
                dataset.optimize.compact_files()

    def tags(self, name: str) -> dict[str, Any]:
        """Return the tags of a table, as Lance describes them; none where there is no such table."""
        dataset = self.find(name)
        for tries_left in reversed(range(_TRIES)):
            try:
                return {} if dataset is None else dict(dataset.tags.list())
            except ValueError:  # one that was listed was removed before it was read
                if not tries_left:
                    raise
        return {}

    def pin(self, name: str, version: int, tag: str) -> None:
        """Keep a version from being cleaned up; pinning again under the same tag changes nothing. Conflict if gone."""
        if tag in self.tags(name):
            return
        try:
            self.open(name).tags.create(tag, version)
        except ValueError as error:
            if self.find(name, version) is not None:
                raise
            raise Conflict(
                f"version {version} of table {name!r} was cleaned up before it was pinned: publish again, and clean "
                f"with a larger --min-age"
            ) from error

    def _with_columns(self, name: str, schema: pa.Schema) -> lance.LanceDataset:
        dataset = self.create(name, schema)
        stored = dataset.schema
        for wanted in schema:
            if wanted.name in stored.names and not _fits(wanted.type, stored.field(wanted.name).type):
                raise StoreError(
                    f"column {wanted.name!r} is {stored.field(wanted.name).type} in the store's table {name!r} and "
                    f"{wanted.type} in what is written: convert it, or replace the table"
                )
        new = [wanted for wanted in schema if wanted.name not in stored.names]
        if not new:
            return dataset
        with contextlib.suppress(CommitConflictError):  # somebody wrote meanwhile, maybe these very columns: look again
            dataset.add_columns(pa.schema(new))
            logger.info("table %s: added the columns %s", name, ", ".join(c.name for c in new))
        return self._with_columns(name, schema)


def _merged(dataset: lance.LanceDataset, merge: Any, rows: Rows) -> int:  # noqa: ANN401 (lance's builder)
    with _streamed(rows, dataset.schema) as source:
        merge.when_not_matched_insert_all().retry_timeout(_RETRY).execute(source)
    return int(dataset.version)


def moment(later_s: float = 0.0) -> str:
    """Return the present time, or one so much later, as ISO 8601 in UTC, to the microsecond: later ones sort later."""
    return (datetime.now(UTC) + timedelta(seconds=later_s)).isoformat(timespec="microseconds")


def _quoted(value: str) -> str:
    return value.replace("'", "''")


def _fits(written: pa.DataType, stored: pa.DataType) -> bool:
    """Return whether values of one type go into a column of the other: the same, or whole numbers among floats."""
    return bool(written == stored or (pa.types.is_integer(written) and pa.types.is_floating(stored)))


@contextlib.contextmanager
def _streamed(rows: Rows, schema: pa.Schema) -> Iterator[pa.RecordBatchReader]:
    """Yield rows as Lance takes them, never all in memory, with exactly the columns of the schema.

    An error raised while the rows are made leaves the table as it was, and is raised again as itself: on its way
    through Lance it would become a text.
    """
    raised: list[Exception] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in rows.tables():
                yield from _in_order(table, schema).to_batches()
        except Exception as error:
            raised.append(error)
            raise

    try:
        yield pa.RecordBatchReader.from_batches(schema, batches())
    except Exception as error:
        if raised:
            raise raised[0] from None
        if "incompatible with concurrent transaction" in str(error):
            raise Conflict(
                "another process replaced a table meanwhile, and nothing was written to it: do the same again"
            ) from error
        raise


def _in_order(rows: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the rows with exactly the columns of the schema; what they lack is null."""
    columns = [
        rows[field.name].cast(field.type) if field.name in rows.column_names else pa.nulls(rows.num_rows, field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)
