"""What the lessons share. Import it before torch: nothing in here imports a lesson."""

import os
import sys
from pathlib import Path

# PyTorch's threads spin while they wait for work. Beside another busy process that costs them most
# of their speed, on an idle machine it gains nothing; read when torch is loaded, yours wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# Without a terminal (pythonw, `>&-`) these are None: what is said is lost, and nothing fails.
sys.stdout = sys.stdout or Path(os.devnull).open("w")  # noqa: SIM115
sys.stderr = sys.stderr or Path(os.devnull).open("w")  # noqa: SIM115


class UserError(Exception):
    """A mistake that the reader can mend: a script prints it in one line and exits with 2."""
