"""Files that are there whole or not at all."""

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from common import UserError


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a scratch file's path, to be written inside the `with`; at its end it becomes `path`.
    What writers that were killed an hour ago have left beside it is removed.

    Raises: UserError if the disk refuses; what was at `path` before is then still there.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        yield scratch
        with scratch.open("rb+") as file:
            os.fsync(file.fileno())
        scratch.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises the latter
        raise UserError(f"{path} could not be written ({error})") from error
    finally:
        with contextlib.suppress(OSError):
            scratch.unlink(missing_ok=True)
            for leftover in path.parent.glob(f".{path.name}-*"):
                if leftover.stat().st_mtime < time.time() - 3600:
                    leftover.unlink(missing_ok=True)
