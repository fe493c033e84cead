"""The URL of a large file in, the file on disk out: it goes on where a cut download ended and checks what came."""

import hashlib
import logging
import re
import time
from pathlib import Path

import httpx

from semrec_ray.errors import BadInput, NotFound, Unavailable

_TIMEOUT_S = 30.0
_PROGRESS_STEPS = 10  # lines a download

logger = logging.getLogger(__name__)


def download(url: str, target: Path) -> Path:
    """Return the target after fetching the URL into it; a target that is there already is not fetched again.

    What has arrived stands in `<target>.part` until its size and, where `<url>.md5` is published, its md5 are
    right. NotFound for a 404; Unavailable where the host cannot be reached or breaks off, and then the next call
    goes on from the part; BadInput where the md5 is another, and then the part is removed.
    """
    if target.exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f"{target.name}.part")
    identity = {"Accept-Encoding": "identity"}  # so that Content-Length counts the bytes of the file
    try:
        with httpx.Client(headers=identity, timeout=_TIMEOUT_S, follow_redirects=True) as client:
            _fetch(client, url, part)
            _check_md5(part, url, _published_md5(client, url))
    except httpx.RequestError as error:
        kept = f"; what has arrived is kept in {part}, the next try goes on from there" if part.exists() else ""
        raise Unavailable(f"cannot reach {httpx.URL(url).host} ({error}){kept}") from error
    return part.replace(target)


def _fetch(client: httpx.Client, url: str, part: Path) -> None:
    """Write the rest of the URL behind what the part holds, or all of it where the server knows no ranges."""
    have = part.stat().st_size if part.exists() else 0
    with client.stream("GET", url, headers={"Range": f"bytes={have}-"} if have else {}) as response:
        if not have or response.status_code != httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            return _write(response, part, have if response.status_code == httpx.codes.PARTIAL_CONTENT else 0)
        complete = response.headers.get("Content-Range") == f"bytes */{have}"
    if not complete:  # longer than the file is: the remains of another one
        part.unlink(missing_ok=True)
        _fetch(client, url, part)


def _write(response: httpx.Response, part: Path, have: int) -> None:
    _refuse(response)
    length = response.headers.get("Content-Length")
    total = have + int(length) if length else None
    started, arrived, step = time.monotonic(), have, 0
    with part.open("ab" if have else "wb") as file:
        for chunk in response.iter_raw():  # without a chunk size: what came before a cut is written
            file.write(chunk)
            arrived += len(chunk)
            if total and arrived * _PROGRESS_STEPS // total > step:
                step = arrived * _PROGRESS_STEPS // total
                speed = (arrived - have) / 1e6 / max(time.monotonic() - started, 1e-9)
                logger.info("%s: %d %% of %.1f MB, %.1f MB/s", response.url, 100 * arrived // total, total / 1e6, speed)
    size = part.stat().st_size
    if total is not None and size != total:
        raise Unavailable(f"{part} has {size} bytes, {response.url} has {total}: is another process fetching it?")


def _refuse(response: httpx.Response) -> None:
    """Raise the error of a status that brings no file."""
    if response.status_code == httpx.codes.NOT_FOUND:
        raise NotFound(f"there is no {response.url} (404)")
    if not response.is_success:
        raise Unavailable(f"{response.url} answered with status {response.status_code}")


def _published_md5(client: httpx.Client, url: str) -> str | None:
    """Return the md5 in `<url>.md5`, written as by `md5sum` or by BSD's `md5`; None where there is none."""
    response = client.get(f"{url}.md5")
    try:
        _refuse(response)
    except NotFound:
        return None
    found = re.search(r"\b[0-9a-f]{32}\b", response.text.lower())
    return found[0] if found else None


def _check_md5(part: Path, url: str, published: str | None) -> None:
    with part.open("rb") as file:
        arrived = hashlib.file_digest(file, "md5").hexdigest()
    if published not in (None, arrived):
        part.unlink()
        raise BadInput(url, None, f"came with the md5 {arrived}, published is {published}", "Download it again")
