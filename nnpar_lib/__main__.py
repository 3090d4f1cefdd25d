"""`python -m nnpar_lib`: the runs of the notebooks from a shell or a batch job."""

from __future__ import annotations

import os
import sys

from nnpar_lib.cli import commands
from nnpar_lib.cli.run import complain
from nnpar_lib.config.usage import (
    CLOSED_PIPE_STATUS,
    INTERRUPT_STATUS,
    USAGE_STATUS,
    is_usage_error,
)
from nnpar_lib.launch.calls import EnginesLost


def main() -> int:
    """Run the command of the shell; a bad value is one line on standard error and status 2.

    A rank that dies is one line, too; a defect of the library keeps its traceback.
    """
    try:
        arguments = commands.parse()
        status = int(arguments.run(arguments))
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPT_STATUS
    except BrokenPipeError:  # such as `| head`: nobody reads on, and there is nothing to say
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE_STATUS
    except EnginesLost as error:
        complain(str(error))
        return 1
    except Exception as error:
        if not is_usage_error(error):
            raise
        complain(str(error))
        return USAGE_STATUS
    return status


if __name__ == "__main__":
    sys.exit(main())
