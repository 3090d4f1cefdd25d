"""Run by mpiexec on 3 ranks: what exchanges in a step, each piece by itself, on one node and on
pretended ones.

Rank 0 prints one JSON object: for each case the names of what is wrong on any rank. Whole numbers
keep sums exact.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import time

import torch
from mpi4py import MPI
from torch import nn

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.trainers.communication import shards
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.communication.mpi import MpiCommunicator
from nnpar_lib.trainers.communication.shared_sums import SharedSums
from nnpar_lib.trainers.models import batch_norm
from nnpar_lib.trainers.models.batch_norm import BatchNorm
from nnpar_lib.trainers.models.sharding import Exchange
from nnpar_lib.trainers.models.synchronisation import synchronise
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.step.shared_update import SharedUpdate
from nnpar_lib.trainers.tasks.runs import abort_all_on_error
from nnpar_lib.trainers.timeline import Timeline

NUM_RANKS = 3
KIND_VARIABLE = "NNPAR_TEST_PIECES"  # cases whose names begin so: all, where it is not set
NODES = (None, 1, 2)  # real and pretended ones
SIZES = (7, 1, 12, 2, 5)  # of buffers that are divided: one is empty on two ranks
CONFIG = RunConfig(hidden=(3,), optimizer="momentum", lr=0.1, dtype="float64", num_threads=1)


def late(turn: int, rank: int) -> None:
    """Let each rank in turn come later than the others."""
    if turn % NUM_RANKS == rank:
        time.sleep(0.003)


def recorded() -> Timeline:
    timeline = Timeline(num_traced_steps=1)
    timeline.begin_step()
    return timeline


def booked(timeline: Timeline) -> list[str]:
    """Return the activities since the last call, and forget them."""
    activities = [event[0] for event in timeline.events]
    timeline.begin_step()
    return activities


def window(ranks: MpiCommunicator, dtype: torch.dtype) -> dict[str, bool]:
    """Share buffers of 0, 5 and 10 numbers."""
    memory = ranks.allocate_shared(5 * ranks.rank, dtype)
    local = memory.buffers[ranks.rank]
    checks = {
        "sizes": [len(buffer) for buffer in memory.buffers] == [0, 5, 10],
        "types": {buffer.dtype for buffer in memory.buffers} == {dtype},
        "zero": not any(buffer.any() for buffer in memory.buffers),
    }
    memory.barrier()
    for turn in range(1, 31):
        late(turn, ranks.rank)
        local.fill_(turn + ranks.rank)
        memory.barrier()
        for rank, buffer in enumerate(memory.buffers):
            checks["seen"] = checks.get("seen", True) and bool((buffer == turn + rank).all())
        memory.barrier()
    del local
    memory.free()
    checks["freed"] = len(memory.buffers) == 0
    return checks


def sums(ranks: MpiCommunicator) -> dict[str, bool]:
    """Sum matrices and a vector that fills the memory, in quick succession."""
    timeline = recorded()
    shared = SharedSums(ranks, 6, timeline)
    checks = {"ranks": shared.communicator is ranks, "sums": True}
    for turn, shape in enumerate([(2, 3), (6,), (1,), (3, 1)] * 8):
        late(turn, ranks.rank)
        numbers = torch.arange(6.0, dtype=torch.float64)[: torch.Size(shape).numel()]
        total = shared.sum((numbers + turn + ranks.rank).view(shape), "mine")
        expected = (3 * (numbers + turn) + 3).view(shape)
        checks["sums"] &= torch.equal(total, expected) and total.dtype == torch.float64
        checks["booked"] = booked(timeline) == ["mine", "communicate"]
    shared.free()
    return checks


def divided(ranks: MpiCommunicator, kind: str, are_whole: bool, ahead: bool) -> dict[str, bool]:
    """Gather and reduce buffers of several sizes, three times over."""
    like = torch.zeros(0, dtype=torch.float64)
    buffers = shards.build(kind, ranks, SIZES, like, are_whole=are_whole, is_overlapped=ahead)
    group = buffers.group
    num_slots = 1 + (ahead and kind == "mpi")
    parts = [part(size, group.size, group.rank) for size in SIZES]
    checks = {
        "group": group.size
        == shards.owners(kind, ranks).size
        == (ranks.size if kind == "mpi" else ranks.node.size),
        "slots": buffers.num_slots == (len(SIZES) if are_whole else num_slots),
        "addend slots": buffers.num_addend_slots == (num_slots if kind == "mpi" else 2),
        "wholes": [len(whole) for whole in buffers.wholes] == list(SIZES),
        "addends": [len(addend) for addend in buffers.addends] == list(SIZES),
        "parts": [len(local) for local in buffers.weights] == [p.stop - p.start for p in parts],
        "zero": not any(t.any() for t in (*buffers.wholes, *buffers.weights, *buffers.addends)),
        "types": {t.dtype for t in (*buffers.wholes, *buffers.weights, *buffers.addends)}
        == {like.dtype},
        "taken": len({whole.data_ptr() for whole in buffers.wholes}) == buffers.num_slots,
        "addends taken": len({a.data_ptr() for a in buffers.addends}) == buffers.num_addend_slots,
    }
    buffers.publish()
    for turn in range(3):
        late(turn, ranks.rank)
        for index, size in enumerate(SIZES):
            numbers = torch.arange(size, dtype=torch.float64) + 100 * index + turn
            buffers.weights[index].copy_(numbers[parts[index]])
        buffers.publish()
        for index, size in enumerate(SIZES):
            late(index, ranks.rank)
            numbers = torch.arange(size, dtype=torch.float64) + 100 * index + turn
            buffers.start_gather_(index).wait()
            checks[f"gathered {index}"] = torch.equal(buffers.wholes[index], numbers)
            buffers.addends[index].copy_(numbers * (ranks.rank + 1))
            buffers.start_reduce_(index).wait()
            expected = numbers * (ranks.size * (ranks.size + 1) // 2)
            checks[f"reduced {index}"] = torch.equal(buffers.reduced(index), expected[parts[index]])
        buffers.publish()
    buffers.free()
    checks["freed"] = not (buffers.weights or buffers.wholes or buffers.addends)
    return checks


@torch.no_grad()
def update(ranks: MpiCommunicator) -> dict[str, bool]:
    """Update weights that are shared, and all of them on one rank, with the same gradients."""
    timeline = recorded()
    alone = Replica(CONFIG, Timeline())
    replica = Replica(CONFIG, timeline)
    shared = SharedUpdate(ranks, replica, timeline)
    initial = alone.weights.clone()
    checks = {"measures": shared.measures_wait, "begun": _are_close(replica, alone)}
    booked(timeline)

    def take_steps() -> bool:
        are_close = True
        for step in range(4):
            late(step, ranks.rank)
            for place, parameter in enumerate(replica.parameters):
                replica.view_of_gradient(place).copy_(parameter + step + ranks.rank)
            addends = [p.detach().reshape(-1) for p in alone.parameters]
            alone.weights.grad.copy_(
                ranks.size * (torch.cat(addends) + step) + sum(range(ranks.size))
            )
            alone.update(step)
            shared(step)
            are_close = are_close and _are_close(replica, alone)
        return are_close

    checks["steps"] = take_steps()
    times = ["other", "wait", "communicate", "update", "communicate"]
    checks["booked"] = booked(timeline) == times * 4
    state = shared_state(replica, shared)
    expected = alone.state()
    (momenta,) = state.optimizer.values()
    checks["momenta"] = all(map(torch.allclose, momenta, *expected.optimizer.values()))
    checks["moved"] = float((alone.weights - initial).abs().max()) > 1e-3
    for _ in range(2):
        late(1, ranks.rank)
        shared.restore(state)
        alone.restore(state)
        checks["restored"] = checks.get("restored", True) and take_steps()
    shared.free()
    ranks.barrier()
    checks["kept"] = _are_close(replica, alone)
    replica.parameters[0].data.fill_(ranks.rank)
    ranks.barrier()
    checks["private"] = bool((replica.parameters[0] == ranks.rank).all())
    return checks


def shared_state(replica: Replica, shared: SharedUpdate):
    state = replica.state(shared.join)
    state.parameters = [value.clone() for value in state.parameters]
    return state


def _are_close(replica: Replica, alone: Replica) -> bool:
    return all(map(torch.allclose, replica.parameters, alone.parameters))


def normalised(ranks: MpiCommunicator, name: str, sizes: tuple[int, ...], follows: bool):
    """Normalise uneven parts of a batch over ranks, and the batch on one; backward too."""
    torch.manual_seed(3)
    layer = BatchNorm(4).double()
    nn.init.uniform_(layer.weight)
    nn.init.uniform_(layer.bias)
    whole = torch.nn.BatchNorm2d(4).double()
    whole.load_state_dict(layer.state_dict(), strict=False)
    exchange = Exchange(ranks, recorded())
    layer.exchange = SharedSums(ranks, 9, recorded()) if name == "shared" else exchange
    checks = {}
    wrong = set()
    for _ in range(2):
        images = (torch.randn(sum(sizes), 4, 3, 2).double() + 1) * 2
        weights = torch.randn_like(images)
        local = slice(sum(sizes[: ranks.rank]), sum(sizes[: ranks.rank + 1]))
        inputs = images[local].clone().requires_grad_()
        images.requires_grad_()
        kept = contextlib.nullcontext() if follows else batch_norm.running_statistics_kept(layer)
        with kept:
            output = layer(inputs)
        before = whole.state_dict()["running_var"].clone()
        expected = whole(images)
        (output * weights[local]).sum().backward()
        (expected * weights).sum().backward()
        if not follows:
            whole.reset_running_stats()
        for parameter in (layer.weight, layer.bias):
            ranks.allreduce_sum_(parameter.grad)
        checks["output"] = torch.allclose(output, expected[local])
        checks["inputs"] = torch.allclose(inputs.grad, images.grad[local])
        checks["weight"] = torch.allclose(layer.weight.grad, whole.weight.grad)
        checks["bias"] = torch.allclose(layer.bias.grad, whole.bias.grad)
        checks["mean"] = torch.allclose(layer.running_mean, whole.running_mean)
        checks["variance"] = torch.allclose(layer.running_var, whole.running_var)
        checks["moved"] = torch.equal(before, whole.running_var) is not follows
        layer.zero_grad()
        whole.zero_grad()
        wrong |= {check for check, is_right in checks.items() if not is_right}
    checks["follows"] = layer.follows
    layer.eval()
    whole.eval()
    checks["evaluation"] = torch.allclose(layer(images), whole(images))
    layer.running_mean.fill_(ranks.rank)
    layer.running_var.fill_(2.0 * ranks.rank)
    batch_norm.average_running_(nn.Sequential(layer, nn.Linear(2, 2)), ranks)
    checks |= dict.fromkeys(wrong, False)
    checks["averaged mean"] = bool((layer.running_mean == 1).all())
    checks["averaged variance"] = bool((layer.running_var == 2).all())
    layer.exchange.free()
    layer.exchange = None
    layer.train()
    with batch_norm.running_statistics_kept(nn.Linear(2, 2), nn.Sequential(layer)):
        checks["local"] = torch.allclose(layer(images), whole.train()(images))
    checks["local, kept"] = bool((layer.running_mean == 1).all())
    return checks


def wiring(ranks: MpiCommunicator) -> dict[str, bool]:
    """Let the layers of a model exchange where a config says so, through what it says."""
    checks = {}
    for nodes, how, allreduce in itertools.product(
        (None, 2), ("synchronised", "local"), ("shared", "mpi")
    ):
        group = MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=nodes)
        timeline = recorded()
        layers = [BatchNorm(2), BatchNorm(5), BatchNorm(1)]
        model = nn.Sequential(nn.Linear(2, 2), *layers)
        config = RunConfig(
            strategy="gradient_averaging", model="resnet18", batch_norm=how, allreduce=allreduce
        )
        exchange = synchronise(model, config, group, timeline)
        is_shared = (nodes, how, allreduce) == (None, "synchronised", "shared")
        name = f"{nodes} {how} {allreduce}"
        checks[f"{name} kind"] = type(exchange) is (SharedSums if is_shared else Exchange)
        wanted = exchange if how == "synchronised" else None
        checks[f"{name} layers"] = all(layer.exchange is wanted for layer in layers)
        total = exchange.sum(torch.ones(11, dtype=torch.float64), "mine")
        checks[f"{name} sum"] = bool((total == ranks.size).all())
        checks[f"{name} booked"] = booked(timeline) == ["mine", "communicate"]
        exchange.free()
        empty = synchronise(nn.Linear(2, 2), config, group, timeline)
        checks[f"{name} none"] = type(empty) is Exchange
        for layer in layers:
            layer.exchange = None
        alone = synchronise(model, config, SingleCommunicator(), timeline)
        checks[f"{name} alone"] = type(alone) is Exchange and layers[0].exchange is None
    return checks


def cases() -> dict:
    """Return what to call for each case."""
    of_nodes = {nodes: MpiCommunicator(MPI.COMM_WORLD, ranks_per_node=nodes) for nodes in NODES}
    world = of_nodes[None]
    calls = {f"window {dtype}": (window, world, dtype) for dtype in (torch.float32, torch.int64)}
    calls["sums"] = (sums, world)
    for nodes, kind in itertools.product(NODES, ("shared", "mpi")):
        for are_whole, ahead in itertools.product((True, False), repeat=2):
            name = f"shards of {kind}, {nodes} a node, {are_whole}, {ahead}"
            calls[name] = (divided, of_nodes[nodes], kind, are_whole, ahead)
    for nodes in NODES:
        calls[f"update, {nodes} a node"] = (update, of_nodes[nodes])
    for kind, sizes in itertools.product(("shared", "messages"), ((3, 4, 2), (0, 5, 1), (0, 0, 1))):
        calls[f"normalised {kind} {sizes}"] = (normalised, world, kind, sizes, True)
    calls["normalised, kept"] = (normalised, world, "shared", (3, 4, 2), False)
    calls["wiring"] = (wiring, world)
    kind = os.environ.get(KIND_VARIABLE, "")
    return {name: call for name, call in calls.items() if name.startswith(kind)}


def main() -> None:
    torch.set_num_threads(1)
    wrong = {}
    for name, (function, ranks, *arguments) in cases().items():
        checks = function(ranks, *arguments)
        mine = [check for check, is_right in checks.items() if not is_right]
        all_wrong = MPI.COMM_WORLD.allgather(mine)
        wrong[name] = sorted(set(itertools.chain.from_iterable(all_wrong)))
    if MPI.COMM_WORLD.rank == 0:
        print("\nRESULT " + json.dumps(wrong))


if __name__ == "__main__":
    with abort_all_on_error():
        main()
