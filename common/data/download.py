"""A file from the network: over http or https, in a time that has an end."""

import contextlib
import queue
import re
import threading
import time
import urllib.request
from pathlib import Path
from urllib.parse import urlsplit

from tqdm import tqdm

SILENCE = 15  # seconds without a byte, after which a server is given up
PATIENCE, SPEED = 60, 50_000  # seconds, and bytes a second that are asked for from then on
LARGEST = 400_000_000  # bytes; CIFAR has 170 million


def fetch(url: str, path: Path) -> None:
    """Write what lies at an address to a file, with a progress bar.

    Raises: ValueError for another address than of http or https; OSError, among them TimeoutError
    for a server that is silent for SILENCE seconds, or after PATIENCE seconds slower than SPEED on
    average; http.client.HTTPException for one that does not keep to the protocol.
    """
    if urlsplit(url).scheme not in ("http", "https") or re.search(r"[^!-~]", url):
        raise ValueError("an address starts with http:// or https:// and holds no space")
    parts: queue.Queue = queue.Queue(maxsize=100)
    # In a thread of its own, for a server may send single bytes of its headers for ever.
    threading.Thread(target=_receive, args=(url, parts), daemon=True).start()
    start, received = time.monotonic(), 0
    shown = {"unit": "B", "unit_scale": True, "disable": None, "leave": False}
    with path.open("wb") as file, tqdm(desc="download", **shown) as bar:
        while True:
            with contextlib.suppress(queue.Empty):
                part = parts.get(timeout=0.2)
                if isinstance(part, BaseException):
                    raise part
                if isinstance(part, int):
                    bar.total = part or None
                    continue
                if not part:
                    break
                file.write(part)
                received += len(part)
                bar.update(len(part))
            if received > LARGEST:
                raise ValueError(f"more than {LARGEST:,} bytes")
            if time.monotonic() - start > PATIENCE + received / SPEED:
                raise TimeoutError(f"slower than {SPEED / 1000:.0f} kB a second")
    if bar.total and received < bar.total:
        raise ConnectionError(f"{received:,} of {bar.total:,} bytes came")


def _receive(url: str, parts: queue.Queue) -> None:
    """Put on the queue: the length if it is known, bytes as they come, b"" at the end; or what was
    raised instead."""
    try:
        with urllib.request.urlopen(url, timeout=SILENCE) as response:  # noqa: S310, see fetch
            parts.put(response.length or 0)
            while part := response.read1(65_536):
                parts.put(part, timeout=SILENCE)
        parts.put(b"")
    except BaseException as error:
        with contextlib.suppress(queue.Full):
            parts.put(error, timeout=SILENCE)
