"""What the lessons share. Import it before torch: nothing in here imports a lesson."""

import contextlib
import errno
import importlib.util
import os
import sys
from pathlib import Path

# PyTorch's threads spin for milliseconds while they wait for work. Beside another busy process this
# costs them half of their speed or more. Here they sleep, GNU's (on Linux) after 10,000 looks: on
# an idle machine sleeping at once costs more. Read when torch is loaded; your own setting wins.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

# Without a terminal (pythonw, `>&-`) these are None: what is said is lost, and nothing fails.
sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


def _draws(backend: str) -> bool:
    """Whether matplotlib will know a backend; it is not imported for that."""
    if backend.startswith("module://"):
        return importlib.util.find_spec(backend[9:].split(".")[0] or "-") is not None
    places = importlib.util.find_spec("matplotlib").submodule_search_locations
    return Path(places[0], "backends", f"backend_{backend.lower()}.py").is_file()


# A notebook tells the programs that it starts to draw in it; where its packages are not, matplotlib
# would refuse to be imported.
if os.environ.get("MPLBACKEND") and not _draws(os.environ["MPLBACKEND"]):
    del os.environ["MPLBACKEND"]


class UserError(Exception):
    """A mistake that the reader can mend: a script prints it in one line and exits with 2."""


_locks: dict[Path, int] = {}  # open files, by folder


def lock(folder: Path) -> bool:
    """Keep other processes out of a folder until `unlock` or the end of this one, however it ends;
    False where the file system has no locks.

    Raises: UserError if another process has locked it.
    """
    folder = folder.resolve()
    if folder in _locks:
        return True
    windows = os.name == "nt"  # which cannot open a folder
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT) if windows else os.open(folder, 0)
    try:
        if windows:
            import msvcrt

            msvcrt.locking(file, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(file)
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            raise UserError(f"another run is writing to {folder}") from error
        return False
    _locks[folder] = file
    return True


def unlock(folder: Path) -> None:
    """Let other processes in again."""
    if (file := _locks.pop(folder.resolve(), None)) is not None:
        with contextlib.suppress(OSError):
            os.close(file)
