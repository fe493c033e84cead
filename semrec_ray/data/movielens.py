"""A MovieLens data set in, its films and ratings out: a folder, a zip or the name of a published one.

The layout is told by the files:

    latest-small, latest, 20m, 25m, 32m   movies.csv   ratings.csv   and maybe tags.csv, links.csv
    1m, 10m                               movies.dat   ratings.dat   and maybe tags.dat
    100k                                  u.item       u.data
"""

import logging
import re
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv

from semrec_ray.config import cache_folder
from semrec_ray.data.archives import Member, folders
from semrec_ray.data.columns import Column
from semrec_ray.data.download import download
from semrec_ray.data.keys import KeySet
from semrec_ray.data.readers import wrong_row
from semrec_ray.data.rows import Rows
from semrec_ray.data.tables import Imported, checked_events, checked_items, imported
from semrec_ray.errors import BadInput, InvalidRequest, NotFound, Unavailable

NAMES = ("latest-small", "latest", "100k", "1m", "10m", "20m", "25m", "32m")
PUBLISHER = "https://files.grouplens.org/datasets/movielens"
GENRES = (  # the flags of u.item, in their order
    *("unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama"),
    *("Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western"),
)
MAX_TAGS = 20

_RATINGS = {"movies.csv": "ratings.csv", "movies.dat": "ratings.dat", "u.item": "u.data"}
_SEPARATORS = {".csv": ",", ".dat": "\x1f", ".item": "|", ".data": "\t"}  # a .dat has "::", which is no one byte
_BLOCK_BYTES = 2**25  # a row must fit into one block
_WITHOUT_GENRE = pa.array(["(no genres listed)", "unknown"])
_LICENCE = (
    "MovieLens data: see README.txt in the archive; not for commercial use without permission of the "
    "GroupLens Research Project, University of Minnesota"
)
_YEAR = re.compile(r"(.+?)\s*\((\d{4})(?:\s*[-–]\s*(?:\d{4})?\s*)?\)(?:\s*\(T?V\))?", re.DOTALL)
# "Die" is not among them: "Die, Mommie, Die (2003)".
_ARTICLE = re.compile(r"(.+?),\s+((?:The|An?)(?=\s*\(|$)|(?:L'|Le|La|Les|Der|Das|El|Il|Los|Las)$)\s*(.*)", re.DOTALL)

logger = logging.getLogger(__name__)


def movielens(place: str, *, cache: Path | None = None, base_url: str = PUBLISHER) -> Imported:
    """Return the films and ratings of a folder, a .zip, or one of NAMES, which is downloaded once.

    The files may stand in one folder inside. Titles are as of `title_and_year()`; with tags, `text` is a film's
    most given ones; with links, `imdb_id` ("tt0114709") and `tmdb_id` follow. A path that exists comes before a
    name. `cache` is `config.cache_folder()` by default. BadInput names the file and its data row.
    """
    if place and Path(place).exists():
        files = _data_set(Path(place))
    elif place in NAMES:
        files = _data_set(_published(place, cache or cache_folder(), base_url))
    else:
        names = ", ".join(NAMES)
        raise InvalidRequest(f"movielens: {place!r} is no path that exists and no name: give a path or one of {names}")
    films, ratings = next((files[name], files[other]) for name, other in _RATINGS.items() if name in files)
    items, _ = checked_items(_films(films, files), films.origin)
    known = KeySet()
    known.add(items["item_id"])
    return imported(Rows.of(items), None, partial(_events, ratings), known)


def title_and_year(title: str) -> tuple[str, int | None]:
    """Return a title as people write it, and its year: "Matrix, The (1999)" is ("The Matrix", 1999).

    The first year of a range counts; "(V)" and "(TV)" behind the year are dropped. Only an article at the end
    goes to the front, and an English one before the original title too: "Ring, The (Ringu)" is
    "The Ring (Ringu)", but "Haine, La (Hate)" stays, as does what is inside the parentheses.
    """
    title = title.strip()
    dated = _YEAR.fullmatch(title)
    name, year = (dated[1], int(dated[2])) if dated else (title, None)
    if moved := _ARTICLE.fullmatch(name):
        space = "" if moved[2].endswith("'") else " "
        name = f"{moved[2]}{space}{moved[1]} {moved[3]}".rstrip()
    return name, year


def _published(name: str, cache: Path, base_url: str) -> Path:
    """Return the zip of a published data set, downloaded unless the cache has it."""
    archive = f"ml-{name}.zip"
    url = f"{base_url}/{archive}"
    if not (cache / archive).exists():
        logger.info(_LICENCE)
    try:
        return download(url, cache / archive)
    except NotFound as error:
        raise NotFound(f"{error.message}: the published names are {', '.join(NAMES)}") from error
    except Unavailable as error:
        fix = f"download {url} elsewhere and pass movielens:/path/to/{archive}"
        raise Unavailable(f"{error.message}; {fix}") from error


def _data_set(path: Path) -> dict[str, Member]:
    """Return the files of the one data set at the path, by name; BadInput where there is none, or no ratings."""
    found = {folder: files for folder, files in folders(path).items() if _RATINGS.keys() & files.keys()}
    if not found:
        fix = f"Give the folder or zip that holds {' or '.join(_RATINGS)}"
        raise BadInput(str(path), None, "holds no MovieLens data", fix)
    if len(found) > 1 and "" not in found:
        raise BadInput(str(path), None, f"holds several data sets: {', '.join(sorted(found))}", "Give one of them")
    files = found.get("") or next(iter(found.values()))
    films = next(name for name in _RATINGS if name in files)
    if _RATINGS[films] not in files:
        raise BadInput(files[films].origin, None, f"has no {_RATINGS[films]} beside it", "Give the whole data set")
    return files


def _films(file: Member, files: dict[str, Member]) -> pa.Table:
    """Return the films' raw columns: of their file, and of the tags and links beside it."""
    raw = _rows(file, ["movieId", "title", "genres"]) if not file.origin.endswith("u.item") else _u_item(file)
    titles = Column(file.origin, 1, "title", raw["title"])
    fix = "Close the quote that stands before it"
    titles.refuse(pc.match_substring(titles.values, "\n"), "holds a line break", fix)
    named = [title_and_year(title or "") for title in titles.values.to_pylist()]
    genres = pc.fill_null(raw["genres"], "")
    table = pa.table(
        {
            "item_id": raw["movieId"],
            "title": pa.array([title for title, _ in named], pa.string()),
            "year": pa.array([year for _, year in named], pa.int32()),
            "categories": pc.if_else(pc.is_in(genres, value_set=_WITHOUT_GENRE), "", genres),
        }
    )
    tags = files.get(f"tags{Path(file.origin).suffix}")
    more = [_tags(tags)] if tags else []
    more += [_links(files["links.csv"])] if "links.csv" in files else []
    for beside in more:
        rows = beside.take(pc.index_in(table["item_id"], value_set=beside["item_id"].combine_chunks()))
        for name in rows.column_names[1:]:
            table = table.append_column(name, rows[name])
    return table


def _u_item(file: Member) -> pa.Table:
    """Return the films of 100k, with the genres whose flag is 1 written `a|b`."""
    raw = _rows(file, ["movieId", "title", "release", "video", "url", *GENRES])
    for genre in GENRES:
        flag = Column(file.origin, 1, genre, raw[genre])
        wrong = pc.invert(pc.is_in(flag.values, value_set=pa.array(["0", "1"])))
        flag.refuse(wrong, "is no flag", "Give 0 or 1 for every genre")
    flagged = [pc.if_else(pc.equal(raw[genre], "1"), genre, "") for genre in GENRES[1:]]
    return raw.append_column("genres", pc.binary_join_element_wise(*flagged, "|"))


def _tags(file: Member) -> pa.Table:
    """Return item_id and text: the film's MAX_TAGS tags of most users, the most first, ties by alphabet."""
    raw = _rows(file, ["userId", "movieId", "tag", "timestamp"])
    _refuse_empty(file, raw, "movieId")
    raw = raw.set_column(2, "tag", pc.utf8_trim_whitespace(raw["tag"]))
    raw = raw.filter(pc.fill_null(pc.not_equal(raw["tag"], ""), False))
    counted = raw.group_by(["movieId", "tag"]).aggregate([("userId", "count_distinct")])
    ranked = counted.sort_by([("userId_count_distinct", "descending"), ("tag", "ascending")])
    films = ranked.group_by("movieId", use_threads=False).aggregate([("tag", "list")])  # one thread keeps the order
    texts = pc.binary_join(pc.list_slice(films["tag_list"], 0, MAX_TAGS), ", ")
    return pa.table({"item_id": films["movieId"], "text": texts})


def _links(file: Member) -> pa.Table:
    """Return item_id, imdb_id and tmdb_id; the last two may be null."""
    raw = _rows(file, ["movieId", "imdbId", "tmdbId"])
    _refuse_empty(file, raw, "movieId")
    for name in ("imdbId", "tmdbId"):
        column = Column(file.origin, 1, name, raw[name])
        wrong = pc.invert(pc.match_substring_regex(column.values, r"^\d{1,18}$"))
        column.refuse(wrong, "is not a number", "Give its digits, or leave it empty")
    imdb = pc.binary_join_element_wise("tt", pc.utf8_lpad(raw["imdbId"], 7, "0"), "")
    return pa.table({"item_id": raw["movieId"], "imdb_id": imdb, "tmdb_id": raw["tmdbId"].cast(pa.int64())})


def _refuse_empty(file: Member, table: pa.Table, name: str) -> None:
    Column(file.origin, 1, name, table[name]).refuse(table[name].is_null(), "is missing", f"Give every row a {name}")


def _events(file: Member) -> Iterator[pa.Table]:
    """Yield the checked ratings, some at a time."""
    first_row = 1
    for raw in _row_tables(file, ["userId", "movieId", "rating", "timestamp"]):
        ours = raw.rename_columns(["user_id", "item_id", "rating", "time"])
        rated = ours.append_column("kind", pa.repeat("rating", raw.num_rows))
        yield checked_events(rated, file.origin, first_row=first_row)
        first_row += raw.num_rows
    if first_row == 1:
        raise BadInput(file.origin, None, "has no rows", "Give at least one")


def _rows(file: Member, columns: Sequence[str]) -> pa.Table:
    """Return the columns as strings, empty ones null; a file without a header must have exactly these."""
    schema = pa.schema([(name, pa.string()) for name in columns])
    return pa.concat_tables([schema.empty_table(), *_row_tables(file, columns)])


def _row_tables(file: Member, columns: Sequence[str]) -> Iterator[pa.Table]:
    suffix = Path(file.origin).suffix
    reading, parsing, converting = _csv_options(suffix, columns)
    first_row = 1
    try:
        if suffix == ".csv":
            with file.opened() as opened, pyarrow.csv.open_csv(opened, reading, parsing, converting) as reader:
                for batch in reader:
                    yield pa.Table.from_batches([batch])
            return
        for block in _blocks(file):
            data = _as_utf8(block).replace(b"::", _SEPARATORS[".dat"].encode()) if suffix != ".data" else block
            table = pyarrow.csv.read_csv(pa.BufferReader(data), reading, parsing, converting)
            yield table
            first_row += table.num_rows
    except (pa.ArrowInvalid, pa.ArrowKeyError) as error:
        raise _unreadable(file, first_row, error) from error


def _csv_options(suffix: str, columns: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return how Arrow reads, parses and converts."""
    header = suffix == ".csv"
    reading = pyarrow.csv.ReadOptions(  # threads lose row numbers
        use_threads=False, block_size=_BLOCK_BYTES, column_names=None if header else columns
    )
    parsing = pyarrow.csv.ParseOptions(
        delimiter=_SEPARATORS[suffix],
        quote_char='"' if header else False,
        newlines_in_values=header,
    )
    converting = pyarrow.csv.ConvertOptions(
        include_columns=columns,
        column_types=dict.fromkeys(columns, pa.string()),
        strings_can_be_null=True,
        null_values=[""],
    )
    return reading, parsing, converting


def _blocks(file: Member) -> Iterator[bytes]:
    """Yield whole lines, some at a time: a file of films or tags is one block."""
    rest = b""
    with file.opened() as opened:
        while read := opened.read(_BLOCK_BYTES):
            whole, newline, rest = (rest + read).rpartition(b"\n")
            if newline:
                yield whole + newline
    if rest:
        yield rest


def _as_utf8(data: bytes) -> bytes:
    """Return text as UTF-8, which 10m is; 100k and 1m are latin-1."""
    try:
        data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1").encode()
    return data


def _unreadable(file: Member, first_row: int, error: Exception) -> BadInput:
    fix = "Download it again"
    header = file.origin.endswith(".csv")  # Arrow counts it as a row
    if wrong := wrong_row(error):
        row, expected, found, text = wrong
        problem = f"has {found} cells in place of {expected}: {text}"
        return BadInput(file.origin, first_row - 1 + row - header, problem, fix)
    lines = 0
    for block in _blocks(file):
        try:
            block.decode()
        except UnicodeDecodeError as damage:
            row = lines + block.count(b"\n", 0, damage.start) + (not header)
            problem = f"holds a byte that is not UTF-8, 0x{block[damage.start]:02x}"
            return BadInput(file.origin, row or None, problem, "Save it as UTF-8")  # None: the header
        lines += block.count(b"\n")
    return BadInput(file.origin, None, f"cannot be read ({error})", fix)
