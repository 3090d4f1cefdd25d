"""Message passing between ranks for torch tensors, over mpi4py.

This is the only module that imports mpi4py, and it does so late: a process that trains alone never
initialises MPI.
"""

from __future__ import annotations

import atexit
import copy
import ctypes
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import cache, cached_property
from typing import Any

import torch
from torch import Tensor

from nnpar_lib.config.environment import launched_rank, launched_size, start_seconds
from nnpar_lib.records.provenance import loaded_mpi
from nnpar_lib.trainers.communication.communicator import (
    Communicator,
    Request,
    SharedMemory,
    SingleCommunicator,
    check_group,
)
from nnpar_lib.trainers.communication.shared_window import SharedWindow
from nnpar_lib.trainers.communication.stall import StallWatch

BLOCKING_TAG = 32766  # of blocking messages; those of a pipeline have smaller ones

# how a tensor is handed to MPI
VIEW = "view"
STAGED = "staged"
ADDRESS = "address"


@cache
def world() -> Communicator:
    """Return all ranks that were launched together; alone, a group of one that needs no MPI.

    The first call starts MPI (collective), under a watch: a rank that does not come ends the run.
    """
    if launched_rank() is None:
        return SingleCommunicator()
    watch = StallWatch(start_seconds())
    watch.start()
    with watch("the start of MPI"):
        mpi = _mpi()
    _check_launcher(mpi.COMM_WORLD.Get_size())
    if mpi.Query_thread() >= mpi.THREAD_MULTIPLE:
        watch.connect(mpi.COMM_WORLD)
    else:
        watch.cannot_ask()
    atexit.register(watch.stop)  # before MPI is finalised: exit functions run in reverse order
    return MpiCommunicator(mpi.COMM_WORLD, watch=watch)


def _check_launcher(size: int) -> None:
    """Raise a ValueError where the launcher and the library belong to different MPIs.

    Each rank is then alone in a world of its own, would train the whole run, and write its records.
    """
    num_launched = launched_size()
    if size == 1 and num_launched not in (None, 1):
        raise ValueError(
            f"mpiexec started {num_launched} ranks, but the MPI library that mpi4py loaded"
            f" ({loaded_mpi()}) sees {size}: they belong to different MPIs; name the library's"
            " own launcher with NNPAR_MPIEXEC, or the launcher's library with MPI4PY_LIBMPI"
        )


@cache
def is_cuda_aware() -> bool:
    """Return whether the loaded MPI takes tensors of a GPU, by its own word; no without one."""
    query = getattr(ctypes.CDLL(_mpi().__file__), "MPIX_Query_cuda_support", None)
    return query is not None and bool(query())


class MpiCommunicator:
    """A group of ranks over an mpi4py communicator.

    Tensors travel as views, without pickling. From a GPU they are handed over by their address
    where MPI is CUDA-aware, else copied to pinned memory of the host and back. `ranks_per_node`
    pretends that a node has only that many ranks, and `way` that tensors have to be handed over so,
    to try out several nodes, or a GPU's ways, on one machine.
    """

    def __init__(
        self,
        comm: Any,
        *,
        ranks_per_node: int | None = None,
        watch: StallWatch | None = None,
        way: str | None = None,
    ) -> None:
        self._comm = comm
        self._watch = watch or StallWatch()
        self._way = way
        self._sum: Callable[[Tensor], None] | None = None
        self._ranks_per_node = ranks_per_node
        self._groups: dict[int, Communicator | None] = {}  # kept: MPI has few to give
        self._splits: dict[tuple[int, ...], Communicator] = {}
        self.rank: int = comm.Get_rank()
        self.size: int = comm.Get_size()

    def barrier(self) -> None:
        with self._watch("a barrier"):
            self._comm.Barrier()

    def idle_barrier(self, poll_seconds: float = 0.002) -> None:
        request = self._comm.Ibarrier()
        while not request.Test():
            time.sleep(poll_seconds)

    @property
    def takes_gpu_tensors(self) -> bool:
        return is_cuda_aware()

    def summing_by(self, sum_: Callable[[Tensor], None]) -> Communicator:
        twin = copy.copy(self)  # shares the groups: MPI has few to give
        twin._sum = sum_
        return twin

    def allreduce_sum_(self, tensor: Tensor) -> None:
        if self._sum is not None:
            self._sum(tensor)
            return
        message = self._hand_over(tensor)
        with self._watch("an all-reduce"):
            self._comm.Allreduce(_mpi().IN_PLACE, message.buffer)
        message.unpack()

    def broadcast_(self, tensor: Tensor, source: int) -> None:
        message = self._hand_over(tensor)
        with self._watch("a broadcast"):
            self._comm.Bcast(message.buffer, source)
        message.unpack()

    def start_allreduce_sum_(self, tensor: Tensor) -> Request:
        message = self._hand_over(
            tensor, is_staged=tensor.is_cuda
        )  # no MPI offers this one for tensors of a GPU
        request = self._comm.Iallreduce(_mpi().IN_PLACE, message.buffer)
        return _MpiRequest(request, self._watch, "an all-reduce", message, is_written=True)

    def start_allgather_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        message = self._hand_over(whole, is_staged=whole.is_cuda)
        request = self._comm.Iallgatherv(_mpi().IN_PLACE, [message.buffer, counts])
        return _MpiRequest(request, self._watch, "an all-gather", message, is_written=True)

    def start_reduce_scatter_sum_(self, whole: Tensor, counts: Sequence[int]) -> Request:
        message = self._hand_over(whole, is_staged=whole.is_cuda)
        request = self._comm.Ireduce_scatter(_mpi().IN_PLACE, message.buffer, counts)
        return _MpiRequest(request, self._watch, "a reduce-scatter", message, is_written=True)

    def start_send(self, tensor: Tensor, target: int, tag: int) -> Request:
        message = self._hand_over(tensor)
        request = self._comm.Isend(message.buffer, target, tag)
        return _MpiRequest(request, self._watch, f"a send to rank {target}", message)

    def start_receive_(self, tensor: Tensor, source: int, tag: int) -> Request:
        message = self._hand_over(tensor, is_read=False)
        return _MpiRequest(
            self._comm.Irecv(message.buffer, source, tag),
            self._watch,
            f"a receive from rank {source}",
            message,
            is_written=True,
        )

    def send(self, values: Tensor, target: int) -> None:
        message = self._hand_over(values)
        with self._watch(f"a send to rank {target}"):
            self._comm.Send(message.buffer, target, BLOCKING_TAG)

    def receive_(self, values: Tensor, source: int) -> None:
        message = self._hand_over(values, is_read=False)
        with self._watch(f"a receive from rank {source}"):
            self._comm.Recv(message.buffer, source, BLOCKING_TAG)
        message.unpack()

    def exchange_(self, sent: Tensor, target: int, received: Tensor, source: int) -> None:
        leaving = self._hand_over(sent)
        arriving = self._hand_over(received, is_read=False)
        with self._watch(f"an exchange, to rank {target} and from rank {source}"):
            self._comm.Sendrecv(
                leaving.buffer, target, BLOCKING_TAG, arriving.buffer, source, BLOCKING_TAG
            )
        arriving.unpack()

    def split(self, colors: Sequence[int]) -> Communicator:
        key = tuple(colors)
        if key not in self._splits:
            self._splits[key] = MpiCommunicator(
                self._comm.Split(key[self.rank], self.rank),
                ranks_per_node=self._ranks_per_node,
                watch=self._watch,
                way=self._way,
            )
        return self._splits[key]

    def sum(self, value: float) -> float:
        return float(sum(self._all_values(value)))

    def max(self, value: float) -> float:
        return float(max(self._all_values(value)))

    def _all_values(self, value: float) -> list[float]:
        """Gather a number of each rank; mpi4py's allreduce would hold Python's global lock while it
        waits, and the stall watch with it."""
        with self._watch("an all-reduce"):
            values: list[float] = self._comm.allgather(value)
        return values

    def broadcast_object(self, value: Any) -> Any:
        with self._watch("a broadcast"):
            return self._comm.bcast(value)

    def gather_objects(self, value: Any) -> list[Any] | None:
        with self._watch("a gather"):
            gathered: list[Any] | None = self._comm.gather(value)
        return gathered

    def allgather_objects(self, value: Any) -> list[Any]:
        with self._watch("an all-gather"):
            gathered: list[Any] = self._comm.allgather(value)
        return gathered

    def first_ranks(self, num_ranks: int) -> Communicator | None:
        check_group(num_ranks, self.size)
        if num_ranks not in self._groups:
            self._groups[num_ranks] = self._split(0 if self.rank < num_ranks else None)
        return self._groups[num_ranks]

    @cached_property
    def node(self) -> Communicator:
        if self._ranks_per_node is None:
            part = self._comm.Split_type(_mpi().COMM_TYPE_SHARED, key=self.rank)
        else:
            part = self._comm.Split(self.rank // self._ranks_per_node, self.rank)
        return MpiCommunicator(part, watch=self._watch)

    @cached_property
    def node_leaders(self) -> Communicator | None:
        return self._split(0 if self.node.rank == 0 else None)

    def allocate_shared(self, num_elements: int, dtype: torch.dtype) -> SharedMemory:
        return SharedWindow(_mpi(), self._comm, num_elements, dtype, self._watch)

    def abort(self, status: int = 1) -> None:
        self._comm.Abort(status)

    def stall_watch(self, seconds: float) -> AbstractContextManager[None]:
        world_group = _mpi().COMM_WORLD.Get_group()
        ranks = self._comm.Get_group().Translate_ranks(range(self.size), world_group)
        return self._watch.training(list(ranks), seconds)

    def _split(self, color: int | None) -> MpiCommunicator | None:
        part = self._comm.Split(_mpi().UNDEFINED if color is None else color, self.rank)
        return (
            None
            if color is None
            else MpiCommunicator(
                part, ranks_per_node=self._ranks_per_node, watch=self._watch, way=self._way
            )
        )

    def _hand_over(
        self, tensor: Tensor, *, is_read: bool = True, is_staged: bool = False
    ) -> _Message:
        if self._way is not None:
            return _Message(tensor, self._way, is_read=is_read)
        if is_staged or not tensor.is_contiguous():
            return _Message(tensor, STAGED, is_read=is_read)
        if tensor.is_cuda:
            return _Message(tensor, ADDRESS if self.takes_gpu_tensors else STAGED, is_read=is_read)
        return _Message(tensor, VIEW, is_read=is_read)


class _Message:
    """A tensor as MPI gets it: a view, a copy in the host's memory, or its address on a GPU.

    MPI knows nothing of a GPU's queue of work. What MPI reads must have been computed before, and
    what it writes must not be in use.
    """

    def __init__(self, tensor: Tensor, way: str, *, is_read: bool) -> None:
        self._tensor = self._host = tensor.detach()
        if way == STAGED:
            self._host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=tensor.is_cuda)
            if is_read:
                self._host.copy_(self._tensor, non_blocking=True)
        if tensor.is_cuda and (is_read or way == ADDRESS):
            torch.cuda.current_stream().synchronize()
        self.buffer: Any = _by_address(self._host) if way == ADDRESS else self._host.numpy()

    def unpack(self) -> None:
        """Copy what MPI has written to the tensor."""
        if self._host is not self._tensor:
            self._tensor.copy_(
                self._host, non_blocking=True
            )  # torch keeps pinned memory until it has been read


def _by_address(tensor: Tensor) -> list[Any]:
    """Return what mpi4py takes for memory that the host cannot read."""
    code = torch.empty(0, dtype=tensor.dtype).numpy().dtype.char
    return [
        _mpi().buffer.fromaddress(tensor.data_ptr(), tensor.nbytes),
        _mpi().Datatype.fromcode(code),
    ]


class _MpiRequest:
    """An operation under way on a message, which it keeps alive."""

    def __init__(
        self,
        request: Any,
        watch: StallWatch,
        operation: str,
        message: _Message,
        *,
        is_written: bool = False,
    ) -> None:
        self._request = request
        self._message = message
        self._is_written = is_written
        self._watch = watch
        self._operation = operation

    def test(self) -> bool:
        return bool(self._request.Test())

    def wait(self) -> None:
        with self._watch(self._operation):
            self._request.Wait()
        if self._is_written:
            self._message.unpack()


@cache
def _mpi() -> Any:
    """Return mpi4py's module; the first call starts MPI (collective).

    mpi4py itself would start it under Python's global lock, and no thread could look at the wait.
    """
    import mpi4py

    mpi4py.rc.initialize = False
    mpi4py.rc.finalize = False
    from mpi4py import MPI

    if not MPI.Is_initialized():
        level = ctypes.c_int(MPI.THREAD_MULTIPLE)
        ctypes.CDLL(MPI.__file__).MPI_Init_thread(None, None, level, ctypes.byref(ctypes.c_int()))
        MPI.COMM_WORLD.Set_errhandler(MPI.ERRORS_RETURN)  # as exceptions
        atexit.register(MPI.Finalize)
    return MPI
