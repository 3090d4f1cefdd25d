"""An enforced limit to the memory of a rank."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

MIB = 2**20


@contextmanager
def memory_budget(num_mib: int, device: str) -> Iterator[None]:
    """Meanwhile, let this process allocate at most so many MiB more; 0 sets no limit.

    On a CPU the address space is limited, on a GPU torch's share of the memory. An allocation that
    fails becomes a MemoryError that names the remedy.
    """
    if not num_mib:
        yield
        return
    before = resource.getrlimit(resource.RLIMIT_AS)
    _set_limit(num_mib, device)
    try:
        yield
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise _too_small(num_mib) from error
    except RuntimeError as error:
        if "allocate memory" not in str(error):  # torch has no error type for this on a CPU
            raise
        raise _too_small(num_mib) from error
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        if device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def _set_limit(num_mib: int, device: str) -> None:
    if device == "cuda":
        total = torch.cuda.get_device_properties(0).total_memory
        fraction = (torch.cuda.memory_allocated() + num_mib * MIB) / total
        torch.cuda.set_per_process_memory_fraction(min(1.0, fraction))
        return
    num_pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = num_pages * resource.getpagesize() + num_mib * MIB
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


def _too_small(num_mib: int) -> MemoryError:
    return MemoryError(
        f"the memory budget of {num_mib} MiB a rank is too small for its part of the model;"
        " divide it over more ranks with the strategy sharded, pipeline or tensor, or enlarge"
        " memory_budget_mib"
    )
