"""`python -m nnpar_lib`: the runs of the notebooks from a shell or a batch job."""

from __future__ import annotations

import sys

from nnpar_lib.cli import commands
from nnpar_lib.cli.run import complain

INTERRUPTED = 130  # the exit status that shells give to a process that Ctrl-C ended


def main() -> int:
    """Run the command of the shell; a bad value is one line on standard error and status 2."""
    arguments = commands.parse()
    try:
        return int(arguments.run(arguments))
    except ValueError as error:
        complain(str(error))
        return commands.WRONG_USE
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
