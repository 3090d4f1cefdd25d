"""A kernel for the tests to interrupt and to kill: starts engines, tells of them, and waits in a
call for ever."""

import signal
import sys

from nnpar_lib.launch.engines import engines

if __name__ == "__main__":
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell that runs the tests in the background ignores it
    try:
        with engines(2) as running:
            print(f"session {running.session}", flush=True)
            running.call("spmd_functions.wait_in_collective")
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        sys.exit(3)
