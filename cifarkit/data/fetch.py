"""Download one file with progress and checksum, leaving it whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path

from cifarkit.data.published import replacing
from cifarkit.data.source import Progress
from cifarkit.errors import DataError

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 256 * 1024


class _Failed(Exception):
    """This address did not deliver the file; another might."""


def fetch(urls: Sequence[str], target: Path, md5: str, progress: Progress) -> None:
    """Download ``target`` from the first of ``urls`` that delivers it.

    Args:
        urls: addresses of the same file, tried in order.
        target: where the file goes; it appears only when complete and with the right checksum.
        md5: 32 hex digits.
        progress: called after every chunk.

    Raises:
        DataError: no address delivered the file; says why, and what to do without a network.
        OSError: the folder cannot be written.
    """
    reasons = []
    for url in urls:
        try:
            with replacing(target) as out:
                digest = hashlib.md5(usedforsecurity=False)
                done = 0
                for chunk, total in _chunks(url):
                    out.write(chunk)
                    digest.update(chunk)
                    done += len(chunk)
                    progress(target.name, done, total)
                if digest.hexdigest() != md5:
                    raise _Failed(f"checksum mismatch: md5 is {digest.hexdigest()}, not {md5}")
            return
        except _Failed as error:
            reasons.append(f"{url}: {error}")
    raise DataError(
        f"cannot download {target.name} ({'; '.join(reasons)}); without a network, place {target.name} "
        f"in {target.parent} and run the same command again"
    )


def _chunks(url: str) -> Iterator[tuple[bytes, int | None]]:
    """Pieces of the file with its length; network errors become `_Failed`, errors of the consumer do not."""
    request = urllib.request.Request(url, headers={"User-Agent": "cifarkit"})
    done = 0
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as response:
            length = response.headers.get("Content-Length")
            total = int(length) if length else None
            while chunk := response.read(CHUNK_BYTES):
                done += len(chunk)
                yield chunk, total
    except urllib.error.HTTPError as error:
        error.close()
        raise _Failed(str(error)) from None
    except urllib.error.URLError as error:
        raise _Failed(str(error.reason)) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Failed(str(error) or type(error).__name__) from None
    # A sized read() ends quietly when the connection is cut, so the length has to be compared.
    if total is not None and done < total:
        raise _Failed(f"connection closed after {done} of {total} bytes")
