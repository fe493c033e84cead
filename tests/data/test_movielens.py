import csv
import zipfile
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from semrec_ray.config import cache_folder
from semrec_ray.data import EVENTS, Source, event_id, read_source
from semrec_ray.data import movielens as source
from semrec_ray.data.movielens import GENRES, MAX_TAGS, NAMES, title_and_year
from semrec_ray.errors import BadInput, InvalidRequest
from tests.conftest import loaded


def movielens(*place, **more):
    return loaded(source.movielens(*place, **more))


FILMS = [  # id, title as published, genres; then title and year as imported
    (1, "Toy Story (1995)", ["Animation", "Comedy"], "Toy Story", 1995),
    (6, "Matrix, The (1999)", ["Action", "Sci-Fi", "Thriller"], "The Matrix", 1999),
    (29, "Cité des enfants perdus, La (1995)", ["Adventure", "Drama"], "La Cité des enfants perdus", 1995),
    (11, "American President, The (1995)", ["Comedy", "Drama", "Romance"], "The American President", 1995),
    (140, "One, Two: \"Three\", 'Four' & Five?", [], "One, Two: \"Three\", 'Four' & Five?", None),
    (267, "Fawlty Towers (1975-1979)", ["Comedy"], "Fawlty Towers", 1975),
    (301, '"Great Performances" Cats(1998) ', ["Musical"], '"Great Performances" Cats', 1998),
]
RATINGS = [(1, 1, 4, 964982703), (1, 29, 5, 964982224), (7, 6, 1, 851868750), (2, 140, 3, 1493846352)]
TAGS = [(1, 6, "virtual, reality", 1), (7, 6, "dystopia", 2), (2, 6, "dystopia", 3), (2, 6, "dystopia", 4)]
TAGS += [(3, 6, 'the "one"', 5), (3, 6, "Ärger", 6), (3, 999, "of no film", 7), (9, 1, "toys", 8)]
LINKS = [(1, "0114709", "862"), (6, "133093", ""), (29, "", "902"), (11, "12345678", "9087")]


def write_csv(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\r\n" if path.name == "links.csv" else "\n").writerows([header, *rows])


def write_modern(folder, tags=True, links=True):
    films = [(key, title, "|".join(genres) or "(no genres listed)") for key, title, genres, *_ in FILMS]
    write_csv(folder / "movies.csv", ["movieId", "title", "genres"], films)
    write_csv(folder / "ratings.csv", ["userId", "movieId", "rating", "timestamp"], RATINGS)
    if tags:
        write_csv(folder / "tags.csv", ["userId", "movieId", "tag", "timestamp"], TAGS)
    if links:
        write_csv(folder / "links.csv", ["movieId", "imdbId", "tmdbId"], LINKS)


def write_plain_modern(folder):
    write_modern(folder, tags=False, links=False)


def write_colons(path, rows, encoding):
    path.write_bytes("".join("::".join(map(str, row)) + "\n" for row in rows).encode(encoding))


def write_1m(folder, encoding="latin-1"):
    films = [(key, title, "|".join(genres) or "(no genres listed)") for key, title, genres, *_ in FILMS]
    write_colons(folder / "movies.dat", films, encoding)
    write_colons(folder / "ratings.dat", RATINGS, encoding)


def write_10m(folder):
    write_1m(folder, "utf-8")
    write_colons(folder / "tags.dat", TAGS, "utf-8")


def write_100k(folder):
    lines = []
    for key, title, genres, *_ in FILMS:
        flags = [int(genre in (genres or ["unknown"])) for genre in GENRES]
        lines.append("|".join(map(str, [key, title, "01-Jan-1990", "", "http://us.imdb.com/M/title-exact?x", *flags])))
    (folder / "u.item").write_bytes("".join(line + "\n" for line in lines).encode("latin-1"))
    (folder / "u.data").write_text("".join("\t".join(map(str, row)) + "\n" for row in RATINGS))
    (folder / "u.genre").write_text("".join(f"{genre}|{at}\n" for at, genre in enumerate(GENRES)))


LAYOUTS = [write_modern, write_plain_modern, write_1m, write_10m, write_100k]


def zipped(folder, path, inside="ml-x/"):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in folder.iterdir():
            archive.write(file, inside + file.name)
    return str(path)


def column(bought, name):
    return dict(zip(bought.items["item_id"].to_pylist(), bought.items[name].to_pylist(), strict=True))


def refusal(place):
    with pytest.raises(BadInput) as caught:
        movielens(str(place))
    assert caught.value.fix
    return caught.value


@pytest.mark.parametrize("form", ["folder", "inner folder", "zip", "flat zip"])
@pytest.mark.parametrize("write", LAYOUTS)
def test_every_layout_gives_the_films_and_ratings_of_its_rows(tmp_path, write, form):
    folder = tmp_path / "outer" / "ml"
    folder.mkdir(parents=True)
    write(folder)
    place = {
        "folder": lambda: str(folder),
        "inner folder": lambda: str(folder.parent),
        "zip": lambda: zipped(folder, tmp_path / "ml.zip"),
        "flat zip": lambda: zipped(folder, tmp_path / "ml.zip", ""),
    }[form]()
    bought = movielens(place)
    assert bought.items.select(["item_id", "title", "categories", "year"]).to_pylist() == [
        {"item_id": str(key), "title": title, "categories": genres, "year": year}
        for key, _, genres, title, year in FILMS
    ]
    assert bought.events.schema == EVENTS
    assert bought.events.select(["user_id", "item_id", "rating", "time", "kind", "event_id"]).to_pylist() == [
        {
            "user_id": str(user),
            "item_id": str(film),
            "rating": stars,
            "time": datetime.fromtimestamp(second, UTC),
            "kind": "rating",
            "event_id": event_id(str(user), str(film), second, "rating"),
        }
        for user, film, stars, second in RATINGS
    ]
    assert (bought.vectors, bought.notes, bought.unknown_item_events) == (None, (), 0)


@pytest.mark.parametrize("write", [write_modern, write_10m])
def test_the_text_of_a_film_is_its_tags_by_how_many_users_gave_them(tmp_path, write):
    write(tmp_path)
    users = Counter(tag for _, tag in {(user, tag) for user, film, tag, _ in TAGS if film == 6})
    expected = ", ".join(sorted(users, key=lambda tag: (-users[tag], tag)))
    assert users["dystopia"] == 2
    assert column(movielens(str(tmp_path)), "text") == {
        **dict.fromkeys((str(key) for key, *_ in FILMS), None),
        "6": expected,
        "1": "toys",
    }


def test_a_film_keeps_its_first_twenty_tags(tmp_path):
    write_modern(tmp_path)
    tags = [(1, 1, f"tag {n:02d}", n) for n in reversed(range(MAX_TAGS + 5))] + [(1, 1, " ", 1), (1, 1, "", 1)]
    write_csv(tmp_path / "tags.csv", ["userId", "movieId", "tag", "timestamp"], tags)
    assert column(movielens(str(tmp_path)), "text")["1"] == ", ".join(f"tag {n:02d}" for n in range(20))


def test_links_give_the_ids_at_imdb_and_tmdb(tmp_path):
    write_modern(tmp_path)
    bought = movielens(str(tmp_path))
    none = dict.fromkeys((str(key) for key, *_ in FILMS), None)
    imdb = {"1": "tt0114709", "6": "tt0133093", "11": "tt12345678"}
    assert column(bought, "imdb_id") == {**none, **imdb}
    assert column(bought, "tmdb_id") == {**none, "1": 862, "29": 902, "11": 9087}


def test_without_links_there_are_no_columns_for_them(tmp_path):
    write_plain_modern(tmp_path)
    assert "imdb_id" not in movielens(str(tmp_path)).items.column_names


def test_half_stars_and_ratings_of_unknown_films_are_as_in_other_sources(tmp_path):
    write_plain_modern(tmp_path)
    with (tmp_path / "ratings.csv").open("a") as file:
        file.write("5,1,3.5,10\n5,4711,3.5,10\n")
    bought = movielens(str(tmp_path))
    assert bought.events["rating"].to_pylist()[-1] == 3.5
    assert bought.unknown_item_events == 1
    assert bought.events.num_rows == len(RATINGS) + 1


@pytest.mark.parametrize(
    ("published", "title", "year"),
    [
        ("Beautiful Mind, A (2001)", "A Beautiful Mind", 2001),
        ("American in Paris, An (1951)", "An American in Paris", 1951),
        ("Good, the Bad and the Ugly, The (Buono, il brutto, il cattivo, Il) (1966)",
         "The Good, the Bad and the Ugly (Buono, il brutto, il cattivo, Il)", 1966),
        ("Ring, The(Ringu) (1998)", "The Ring (Ringu)", 1998),
        ("Ring (Ringu, The) (1998)", "Ring (Ringu, The)", 1998),
        ("Haine, La (Hate) (1995)", "Haine, La (Hate)", 1995),
        ("Atalante, L' (1934)", "L'Atalante", 1934),
        ("Die, Mommie, Die (2003)", "Die, Mommie, Die", 2003),
        ("(500) Days of Summer (2009)", "(500) Days of Summer", 2009),
        ("2001: A Space Odyssey (1968)", "2001: A Space Odyssey", 1968),
        ("Death Note (2006–2007)", "Death Note", 2006),
        ("Adventures, The (2007- )", "The Adventures", 2007),
        ("Land Before Time III, The (1995) (V)", "The Land Before Time III", 1995),
        ("  Babylon 5\t", "Babylon 5", None),
        ("1984", "1984", None),
        ("(1999)", "(1999)", None),
        ("Office, The", "The Office", None),
        ("", "", None),
    ],
)  # fmt: skip
def test_a_title_loses_its_year_and_leads_with_its_article(published, title, year):
    assert title_and_year(published) == (title, year)


@pytest.mark.parametrize(
    ("write", "file", "line", "row", "problem"),
    [
        (write_modern, "movies.csv", "5,Heat (1995)", 8, "has 2 cells in place of 3: '5,Heat (1995)'"),
        (write_modern, "movies.csv", "1,Heat (1995),Crime", 8, "item_id '1' is also in row 1"),
        (write_modern, "movies.csv", "5,,Crime", 8, "title '' is missing or empty"),
        (write_modern, "movies.csv", '5,"Heat,Crime\n6,"Speed"",Action', 8, "holds a line break"),
        (write_modern, "movies.csv", b"5,Caf\xe9,Crime", 8, "holds a byte that is not UTF-8, 0xe9"),
        (write_modern, "ratings.csv", "1,1,good,10", 5, "rating 'good' is not a number"),
        (write_modern, "ratings.csv", "1,1,4,10,4", 5, "has 5 cells in place of 4: '1,1,4,10,4'"),
        (write_modern, "tags.csv", "1,,fun,10", 9, "movieId None is missing"),
        (write_modern, "tags.csv", "1,2,fun", 9, "has 3 cells in place of 4: '1,2,fun'"),
        (write_modern, "links.csv", "5,tt12,1", 5, "imdbId 'tt12' is not a number"),
        (write_modern, "links.csv", "5,12,1.5", 5, "tmdbId '1.5' is not a number"),
        (write_1m, "movies.dat", "5::Heat (1995)", 8, "has 2 cells in place of 3"),
        (write_1m, "ratings.dat", "1::1::4::soon", 5, "time 'soon' is not a time"),
        (write_1m, "ratings.dat", "1::1::4", 5, "has 3 cells in place of 4"),
        (write_10m, "tags.dat", "1::2::fun", 9, "has 3 cells in place of 4"),
        (write_100k, "u.item", "|".join(["5", "Heat (1995)", "", "", "", *"2" * 19]), 8, "unknown '2' is no flag"),
        (write_100k, "u.item", "5|Heat (1995)", 8, "has 2 cells in place of 24"),
        (write_100k, "u.data", "\t5\t4\t10", 5, "user_id None is missing or empty"),
    ],
)
@pytest.mark.parametrize("zip_it", [False, True])
def test_a_bad_row_names_its_file_and_row(tmp_path, write, file, line, row, problem, zip_it):
    folder = tmp_path / "ml"
    folder.mkdir()
    write(folder)
    with (folder / file).open("ab") as end:
        end.write((line if isinstance(line, bytes) else line.encode()) + b"\n")
    error = refusal(zipped(folder, tmp_path / "ml.zip") if zip_it else folder)
    assert error.origin == (f"{tmp_path}/ml.zip/ml-x/{file}" if zip_it else f"{folder}/{file}")
    assert error.row == row
    assert problem in error.problem


def test_a_csv_without_a_column_names_it(tmp_path):
    write_modern(tmp_path)
    (tmp_path / "ratings.csv").write_text("userId,item,rating,timestamp\n1,1,1,1\n")
    error = refusal(tmp_path)
    assert error.origin.endswith("ratings.csv")
    assert "'movieId'" in error.problem


def test_a_header_that_is_not_utf8_is_in_no_row(tmp_path):
    write_modern(tmp_path)
    path = tmp_path / "movies.csv"
    path.write_bytes(path.read_bytes().replace(b"genres", b"genr\xe9s", 1))
    error = refusal(tmp_path)
    assert (error.origin, error.row) == (str(path), None)
    assert error.problem == "holds a byte that is not UTF-8, 0xe9"


@pytest.mark.parametrize("content", [b"", b"no zip at all"])
def test_a_file_that_is_no_zip_is_refused(tmp_path, content):
    path = tmp_path / "ml.zip"
    path.write_bytes(content)
    error = refusal(path)
    assert error.origin == str(path)
    assert "is not a whole zip file" in error.problem


def test_a_zip_with_a_name_that_is_not_utf8_is_refused(tmp_path):
    folder = tmp_path / "ml"
    folder.mkdir()
    write_modern(folder)
    (folder / "é.csv").touch()
    path = tmp_path / "ml.zip"
    path.write_bytes(Path(zipped(folder, path)).read_bytes().replace("é".encode(), b"\xff\xff"))
    assert "is not a whole zip file" in refusal(path).problem


def test_a_damaged_lzma_zip_is_refused(tmp_path):
    path = tmp_path / "ml.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("movies.csv", "movieId,title,genres\n" + "1,A,x\n" * 30)
        archive.writestr("ratings.csv", "userId,movieId,rating,timestamp\n1,1,3,4\n")
    data = bytearray(path.read_bytes())
    data[60] ^= 0xFF
    path.write_bytes(data)
    assert "is not a whole zip file" in refusal(path).problem


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_zip_is_refused(tmp_path, damage):
    folder = tmp_path / "ml"
    folder.mkdir()
    write_modern(folder)
    path = tmp_path / "ml.zip"
    data = bytearray(Path(zipped(folder, path)).read_bytes())
    if damage == "cut":
        del data[len(data) // 2 :]
    else:
        with zipfile.ZipFile(path) as archive:
            member = archive.getinfo("ml-x/movies.csv")
        at = member.header_offset + 30 + len(member.filename) + member.compress_size // 2
        data[at] ^= 0xFF
    path.write_bytes(data)
    assert "is not a whole zip file" in refusal(path).problem


def test_a_folder_without_a_data_set_says_what_was_expected(tmp_path):
    assert "movies.csv or movies.dat or u.item" in refusal(tmp_path).fix


def test_films_without_their_ratings_are_refused(tmp_path):
    write_1m(tmp_path)
    (tmp_path / "ratings.dat").unlink()
    assert "has no ratings.dat beside it" in refusal(tmp_path).problem


def test_several_data_sets_in_one_folder_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        write_1m(tmp_path / name)
    assert refusal(tmp_path).problem == "holds several data sets: a, b"


@pytest.mark.parametrize("place", ["", "/no/such/path", "3m"])
def test_neither_a_path_nor_a_name_lists_the_names(place):
    with pytest.raises(InvalidRequest, match=rf"movielens: '{place}' is no path .* {', '.join(NAMES)}"):
        movielens(place)


def test_the_source_movielens_takes_its_place_behind_the_colon(tmp_path):
    write_100k(tmp_path)
    assert loaded(read_source(Source(f"movielens:{tmp_path}"))).items.num_rows == len(FILMS)
    with pytest.raises(InvalidRequest, match="takes no files"):
        read_source(Source(f"movielens:{tmp_path}", items=["i.csv"]))
    with pytest.raises(InvalidRequest, match="movielens:PATH_OR_NAME"):
        read_source(Source("movielens"))


def test_the_official_latest_small_has_its_published_counts_where_it_is_at_hand():
    official = cache_folder() / "ml-latest-small.zip"
    if not official.exists():
        pytest.skip(f"{official} is not there: `semrec import movielens:latest-small` downloads it")
    bought = movielens(str(official))
    assert (bought.items.num_rows, bought.events.num_rows, bought.unknown_item_events) == (9742, 100_836, 0)
