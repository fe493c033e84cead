"""A real HTTP server on the loopback interface serves what a publisher would."""

import hashlib
import io
import logging
import socket
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from semrec_ray.data.download import download
from semrec_ray.data.movielens import NAMES, movielens
from semrec_ray.errors import BadInput, NotFound, Unavailable
from tests.conftest import loaded

BODY = bytes(range(256)) * 4096  # 1 MiB, no two neighbouring bytes alike


class Publisher(ThreadingHTTPServer):
    """Serves `files` by path; `cut_at` ends a body there, `meanwhile` is called before each answer."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answer)
        self.files, self.asked = {}, []
        self.cut_at, self.ranges, self.status = None, True, None
        self.meanwhile = lambda: None

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    def do_GET(self):
        server, asked = self.server, self.headers.get("Range")
        server.asked.append((self.path, asked))
        server.meanwhile()
        body = server.files.get(self.path)
        if body is None or server.status:
            return self.send(server.status or 404, b"")
        start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and server.ranges else 0
        if start >= len(body) > 0:
            return self.send(416, b"", f"bytes */{len(body)}")
        return self.send(206 if start else 200, body[start:], f"bytes {start}-{len(body) - 1}/{len(body)}")

    def send(self, status, body, content_range=None):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()
        self.wfile.write(body[: self.server.cut_at])
        self.close_connection = True

    def log_message(self, *args):
        pass


@pytest.fixture
def publisher(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with Publisher() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "ml.zip"


@pytest.fixture
def logged():
    """Return the list that the package's log lines go to, whatever `configure_logging()` did before."""
    lines, logger = [], logging.getLogger("semrec_ray.data")
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)


def part(target):
    return target.with_name("ml.zip.part")


def md5(body):
    return hashlib.md5(body).hexdigest()


def archive():
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as file:
        file.writestr("ml-1m/movies.dat", "6::Heat (1995)::Crime\n")
        file.writestr("ml-1m/ratings.dat", "1::6::5::10\n")
    return data.getvalue()


@pytest.mark.parametrize("published", [None, "{md5}  ml.zip\n", "MD5 (ml.zip) = {md5}\n", "no hash\n"])
def test_a_whole_file_arrives_with_and_without_a_published_md5(publisher, target, published):
    publisher.files["/ml.zip"] = BODY
    if published:
        publisher.files["/ml.zip.md5"] = published.format(md5=md5(BODY)).encode()
    assert download(f"{publisher.url}/ml.zip", target) == target
    assert target.read_bytes() == BODY
    assert not part(target).exists()
    assert publisher.asked == [("/ml.zip", None), ("/ml.zip.md5", None)]


def test_a_file_that_is_there_is_not_fetched_again(publisher, target):
    target.parent.mkdir()
    target.write_bytes(b"here")
    assert download(f"{publisher.url}/ml.zip", target).read_bytes() == b"here"
    assert publisher.asked == []


def test_progress_is_logged_in_percent_and_speed(publisher, target, logged):
    publisher.files["/ml.zip"] = BODY
    download(f"{publisher.url}/ml.zip", target)
    assert 1 <= len(logged) <= 10
    assert logged[-1].startswith(f"{publisher.url}/ml.zip: 100 % of {len(BODY) / 1e6:.1f} MB, ")
    assert logged[-1].endswith(" MB/s")


def test_a_cut_download_goes_on_where_it_ended(publisher, target):
    publisher.files |= {"/ml.zip": BODY, "/ml.zip.md5": md5(BODY).encode()}
    publisher.cut_at = 300_000
    with pytest.raises(Unavailable, match=r"cannot reach 127\.0\.0\.1 .*the next try goes on from there"):
        download(f"{publisher.url}/ml.zip", target)
    assert not target.exists()
    assert part(target).read_bytes() == BODY[:300_000]
    publisher.cut_at = None
    download(f"{publisher.url}/ml.zip", target)
    assert target.read_bytes() == BODY
    assert publisher.asked[1] == ("/ml.zip", "bytes=300000-")


def test_a_server_without_ranges_sends_all_of_it_again(publisher, target):
    publisher.files["/ml.zip"], publisher.ranges = BODY, False
    target.parent.mkdir()
    part(target).write_bytes(b"x" * 1000)
    download(f"{publisher.url}/ml.zip", target)
    assert target.read_bytes() == BODY


def test_a_part_that_is_whole_is_only_checked(publisher, target):
    publisher.files["/ml.zip"] = BODY
    target.parent.mkdir()
    part(target).write_bytes(BODY)
    assert download(f"{publisher.url}/ml.zip", target).read_bytes() == BODY
    assert publisher.asked == [("/ml.zip", f"bytes={len(BODY)}-"), ("/ml.zip.md5", None)]


def test_a_part_longer_than_the_file_is_thrown_away(publisher, target):
    publisher.files["/ml.zip"] = BODY
    target.parent.mkdir()
    part(target).write_bytes(b"x" * (len(BODY) + 1))
    assert download(f"{publisher.url}/ml.zip", target).read_bytes() == BODY


def test_a_wrong_md5_removes_what_came(publisher, target):
    publisher.files |= {"/ml.zip": BODY, "/ml.zip.md5": md5(b"other").encode()}
    with pytest.raises(BadInput, match=f"the md5 {md5(BODY)}, published is {md5(b'other')}"):
        download(f"{publisher.url}/ml.zip", target)
    assert list(target.parent.iterdir()) == []


def test_a_part_that_another_process_writes_to_is_not_taken(publisher, target):
    publisher.files["/ml.zip"] = BODY
    target.parent.mkdir()
    part(target).write_bytes(BODY[:1000])
    publisher.meanwhile = lambda: part(target).write_bytes(BODY[:1004])
    with pytest.raises(Unavailable, match=rf"has {len(BODY) + 4} bytes, .* has {len(BODY)}: is another process"):
        download(f"{publisher.url}/ml.zip", target)
    assert not target.exists()


def test_a_status_416_without_a_part_is_an_error(publisher, target):
    publisher.files["/ml.zip"], publisher.status = BODY, 416
    with pytest.raises(Unavailable, match="answered with status 416"):
        download(f"{publisher.url}/ml.zip", target)


def test_a_name_is_downloaded_once_and_read(publisher, tmp_path, logged):
    publisher.files["/ml-1m.zip"] = archive()
    both = [loaded(movielens("1m", cache=tmp_path, base_url=publisher.url)) for _ in range(2)]
    assert [bought.items["title"].to_pylist() for bought in both] == [["Heat"]] * 2
    assert [path for path, _ in publisher.asked] == ["/ml-1m.zip", "/ml-1m.zip.md5"]
    assert sum("not for commercial use" in line for line in logged) == 1


def test_a_name_is_cached_in_the_users_home(publisher, tmp_path, monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    publisher.files["/ml-1m.zip"] = published = archive()
    monkeypatch.setenv("HOME", str(tmp_path))
    movielens("1m", base_url=publisher.url)
    assert (tmp_path / ".cache" / "semrec_ray" / "ml-1m.zip").read_bytes() == published


def test_a_name_that_is_not_published_lists_the_names(publisher, tmp_path):
    with pytest.raises(NotFound, match=rf"no {publisher.url}/ml-32m\.zip \(404\): .*{', '.join(NAMES)}"):
        movielens("32m", cache=tmp_path, base_url=publisher.url)
    assert list(tmp_path.iterdir()) == []


def test_a_broken_publisher_is_unavailable(publisher, tmp_path):
    publisher.files["/ml-1m.zip"], publisher.status = b"", 503
    with pytest.raises(Unavailable, match=r"answered with status 503; download .*/ml-1m\.zip elsewhere"):
        movielens("1m", cache=tmp_path, base_url=publisher.url)


def test_without_a_network_the_error_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as bound:  # bound and not listening: a connection is refused
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        with pytest.raises(Unavailable) as caught:
            movielens("latest-small", cache=tmp_path, base_url=url)
    assert caught.value.message.startswith("cannot reach 127.0.0.1 (")
    fix = f"download {url}/ml-latest-small.zip elsewhere and pass movielens:/path/to/ml-latest-small.zip"
    assert caught.value.message.endswith(fix)
