"""What the lessons share. Import it before torch: nothing in here imports a lesson."""

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

# A notebook tells the programs that it starts to draw in it; where its packages are not, matplotlib
# would refuse to be imported.
backend = os.environ.get("MPLBACKEND", "").partition("module://")[2].split(".")[0]
if backend and importlib.util.find_spec(backend) is None:
    del os.environ["MPLBACKEND"]


class UserError(Exception):
    """A mistake that the reader can mend: a script prints it in one line and exits with 2."""
