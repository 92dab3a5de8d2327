"""Downloads that resume, retry, show progress, verify and leave no half file."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path

from t2s_assets.text2sql.errors import DataError
from t2s_assets.text2sql.storage import file_hash, replacing_file

_BLOCK = 1 << 18
_SHOW_EVERY = 2.0
"""Seconds between lines of progress."""


def download(
    url: str,
    path: Path,
    *,
    sha256: str | None = None,
    tries: int = 5,
    timeout: float = 30.0,
    wait: float = 1.0,
    log: Callable[[str], None] = lambda line: None,
) -> Path:
    """The file behind `url`, at `path`; one that is there already is taken when its checksum holds.

    A dropped connection is tried again `tries` times in all, after `wait`, 2 `wait`, 4 `wait` ... seconds, and
    goes on where it stopped if the server can (HTTP Range with If-Range). `timeout` bounds each silence, in seconds.

    Raises:
        DataError: the server refuses, the tries are used up, or the checksum differs.
    """
    if path.exists() and (sha256 is None or file_hash(path) == sha256):
        return path
    with replacing_file(path) as part:
        _fetch_with_retries(url, path, part, tries, timeout, wait, log)
        if sha256 is not None and (got := file_hash(part)) != sha256:
            raise DataError(f"{url}: sha256 is {got}, {sha256} is wanted; the file was changed or damaged on its way")
    return path


def _fetch_with_retries(
    url: str, path: Path, part: Path, tries: int, timeout: float, wait: float, log: Callable[[str], None]
) -> None:
    validator: list[str] = []
    for attempt in range(1, tries + 1):
        try:
            return _fetch(url, part, validator, timeout, log)
        except urllib.error.HTTPError as e:
            if e.code < 500 and e.code not in (408, 416, 429):
                raise DataError(f"{url}: the server answers {e.code} {e.reason}; check the address") from e
            reason: Exception = e
            if e.code == 416:  # what we hold is no prefix of what the server has
                part.unlink(missing_ok=True)
        except (OSError, HTTPException) as e:
            reason = e
        if attempt == tries:
            raise DataError(
                f"{url}: not downloaded after {tries} tries ({reason}); without a network, fetch the file elsewhere, "
                f"put it at {path}, or name its place with source: {{kind: local, path: ...}}"
            ) from reason
        log(f"{url}: {reason}; trying again in {wait:.0f} s ({attempt} of {tries})")
        time.sleep(wait)
        wait *= 2


def _fetch(url: str, part: Path, validator: list[str], timeout: float, log: Callable[[str], None]) -> None:
    """Append to `part` what is missing; OSError when the connection breaks.

    `validator` keeps the server's name for this version of the file, so that a later try never joins two versions.
    """
    have = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "t2s-assets"})
    asked = have if have and validator else 0
    if asked:
        request.add_header("Range", f"bytes={asked}-")
        request.add_header("If-Range", validator[-1])
    with urllib.request.urlopen(request, timeout=timeout) as response:
        etag = response.headers.get("ETag")
        version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
        if response.status == 206:
            # Servers that know Range but not If-Range answer with a piece of whatever they hold now.
            piece = response.headers.get("Content-Range", "")
            if version != validator[-1] or not piece.startswith(f"bytes {asked}-"):
                part.unlink()
                raise OSError("the server's file changed since the last try")
        else:
            have = 0
        validator[:] = [version] if version else []
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        shown = time.monotonic()
        with part.open("ab" if have else "wb") as out:
            while block := response.read1(_BLOCK):  # what has arrived, so that a later silence loses none of it
                out.write(block)
                have += len(block)
                if time.monotonic() - shown > _SHOW_EVERY:
                    shown = time.monotonic()
                    log(f"{have / 1e6:,.1f} MB" + (f" of {total / 1e6:,.1f} MB" if total else ""))
        if total is not None and have < total:
            raise OSError(f"the connection closed after {have:,} of {total:,} bytes")
        log(f"{have / 1e6:,.1f} MB downloaded")
