"""What the lessons share. Nothing in here imports a lesson."""


class UserError(Exception):
    """A mistake that the reader can mend: a script prints it in one line and exits with 2."""
