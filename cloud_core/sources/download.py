"""Downloads that go on where they were cut, are checked, and are made once."""

import json
import os
from pathlib import Path

import httpx
from filelock import FileLock

from cloud_core.files import file_digest
from cloud_core.sources.opening import refuse_html
from cloud_core.sources.record import SourceError
from cloud_core.sources.remote import Politeness, RateLimit, ServerBusyError, asking, raise_if_busy


def cache_folder(*names: str) -> Path:
    """A folder under `runs/cache` (or `$CLOUD_RUNS/cache`)."""
    return Path(os.environ.get("CLOUD_RUNS", "runs"), "cache", *names)


def fetch(
    url: str,
    target: Path,
    sha256: str | None = None,
    md5: str | None = None,
    politeness: Politeness | None = None,
) -> Path:
    """`url` as the file `target`: at once if it is there already, else downloaded and checked.

    A part is kept beside it as `target.part`, and asked for from its end on. The checksum that was found
    is noted in `target.json`. Of several processes one downloads, and the others wait.

    Raises:
        SourceError: no answer, an HTML page, the wrong checksum (the part is removed then), or a cached
            file that is no longer of the size it had.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(target.with_name(target.name + ".lock")):
        if not target.exists():
            part = target.with_name(target.name + ".part")
            rate_limit = RateLimit(politeness or Politeness())
            rate_limit.retrying(lambda: _continue(url, part, rate_limit.politeness.timeout_s))
            _check(url, part, sha256, md5)
            with part.open("rb") as file:
                refuse_html(file.read(256), url)
            note = {"url": url, "sha256": file_digest(part), "bytes": part.stat().st_size}
            target.with_name(target.name + ".json").write_text(json.dumps(note))
            part.replace(target)
    note_file = target.with_name(target.name + ".json")
    if note_file.exists() and json.loads(note_file.read_text())["bytes"] != target.stat().st_size:
        raise SourceError(f"{target}: not of the size that was downloaded; remove it to fetch it again")
    return target


def tag(url: str, politeness: Politeness) -> str:
    """What moves when the file behind an address does: its ETag, or time and size.

    Raises:
        SourceError: the server does not answer, or tells neither.
    """

    def ask() -> httpx.Response:
        with asking(url):
            answer = httpx.head(url, timeout=politeness.timeout_s, follow_redirects=True)
        raise_if_busy(url, answer)
        return answer

    answer = RateLimit(politeness).retrying(ask)
    if answer.status_code >= 400:
        raise SourceError(f"{url}: HTTP {answer.status_code}; check the address, or give a file")
    found = answer.headers.get("etag") or answer.headers.get("last-modified")
    if not found:
        raise SourceError(f"{url}: the server does not tell whether the file changed; give a file")
    return f"{found} {answer.headers.get('content-length', '')}"


def _continue(url: str, part: Path, timeout_s: float) -> None:
    """One attempt at the rest of a file."""
    have = part.stat().st_size if part.exists() else 0
    tag_file = part.with_name(part.name + ".etag")
    headers = {"accept-encoding": "identity", "user-agent": "cloud-pipeline"}
    tag = tag_file.read_text() if have and tag_file.exists() else ""
    if have:
        headers["range"] = f"bytes={have}-"
        if tag:
            headers["if-range"] = tag  # a file that changed meanwhile comes whole
    with (
        asking(url, "the connection broke"),
        httpx.stream("GET", url, headers=headers, timeout=timeout_s, follow_redirects=True) as answer,
    ):
        if answer.status_code == 416 and answer.headers.get("content-range", "").endswith(f"/{have}"):
            return  # everything was there
        raise_if_busy(url, answer)
        if answer.status_code not in (200, 206):
            raise SourceError(f"{url}: HTTP {answer.status_code}; check the address, or give a file")
        if not answer.headers.get("etag", "").startswith("W/"):
            tag_file.write_text(answer.headers.get("etag", ""))
        mode = "ab" if answer.status_code == 206 else "wb"
        expected = int(answer.headers["content-length"]) if "content-length" in answer.headers else None
        written = 0
        with part.open(mode) as file:
            for block in answer.iter_raw():
                file.write(block)
                written += len(block)
    if expected is not None and written < expected:
        raise ServerBusyError(f"{url}: the answer ended early")


def _check(url: str, part: Path, sha256: str | None, md5: str | None) -> None:
    for name, expected in (("sha256", sha256), ("md5", md5)):
        if expected and (found := file_digest(part, name)) != expected:
            head = part.open("rb").read(256)
            part.unlink()
            refuse_html(head, url)
            raise SourceError(
                f"{url}: {name} is {found}, the catalogue says {expected}; the file changed or was damaged. "
                "Try again, or give a file"
            )
