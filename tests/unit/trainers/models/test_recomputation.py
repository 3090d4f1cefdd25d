"""Recomputed activations: the same gradients in every bit, running statistics that move once, less
memory."""

import pytest
import torch

from nnpar_lib.analysis.cost.activations import peak_bytes
from nnpar_lib.analysis.cost.cost_model import Block, Model
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.strategies import build
from nnpar_lib.trainers.timeline import Timeline

COMMON = {"global_batch_size": 40, "num_threads": 1}
DEEP = {"hidden": (32,) * 15, **COMMON}
RESNET = {"model": "resnet18", "stem": "imagenet", "width": 4, **COMMON}
CASES = {
    "mlp": DEEP,
    "bf16": {"hidden": (16, 12), "precision": "bf16", **COMMON},
    "cnn": {"model": "cnn", "channels": (4, 5), "memory_format": "channels_last", **COMMON},
    "im2col": {"model": "cnn", "channels": (4, 5), "convolution": "im2col", **COMMON},
    "microbatches": {**RESNET, "microbatch_size": 10},
    "resnet18": {**RESNET, "memory_format": "channels_last"},
}
CASES |= {
    f"{schedule} of {name}": {"strategy": "pipeline", "schedule": schedule, **CASES[name]}
    for schedule in ("1f1b", "interleaved")
    for name in ("mlp", "cnn")
}


def trained(parameters):
    strategy = build(RunConfig(**parameters), SingleCommunicator(), Timeline())
    for step in range(3):
        strategy.step(strategy.batches.batch(step), step)
    return strategy


@pytest.mark.parametrize("name", CASES)
def test_recomputed_steps_are_the_same_in_every_bit(name):
    plain = trained(CASES[name]).state()
    recomputed = trained({**CASES[name], "recompute": True}).state()
    for expected, parameter in zip(plain.parameters, recomputed.parameters, strict=True):
        assert torch.equal(expected, parameter)
    assert len(plain.running) == len(recomputed.running)
    for expected, value in zip(plain.running, recomputed.running, strict=True):
        assert torch.equal(expected, value)


def activations(parameters, **changes):
    strategy = build(RunConfig(**parameters, **changes), SingleCommunicator(), Timeline())
    return strategy.memory_bytes(strategy.batches.batch(0))["activations"]


def predicted(parameters):
    """Return the bytes that the cost model gives the one rank of a run."""
    config = RunConfig(**parameters)
    free = AlphaBeta(0, 0)
    blocks = [
        Block(
            forward=free,
            backward=free,
            parameter_bytes=0,
            output_bytes_per_example=4 * torch.Size(shape).numel(),
        )
        for shape in networks.boundary_shapes(config)[1:]
    ]
    return peak_bytes(config, Model(blocks=blocks))[0]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("schedule", ["", "sequential", "gpipe", "1f1b"])
def test_the_peak_of_single_layers_is_that_of_the_cost_model(schedule, recompute):
    parameters = {**DEEP, "hidden": (512,) * 15, "recompute": recompute}
    if schedule:
        parameters |= {"strategy": "pipeline", "schedule": schedule}
    assert activations(parameters) == pytest.approx(predicted(parameters), rel=0.05)


def test_a_deep_network_needs_about_twice_the_square_root_of_its_layers():
    layer = 40 * 32 * 4  # bytes of the activations of a layer: there are 16, in 4 segments
    images = 40 * 28 * 28 * 4
    kept = activations(DEEP)
    assert kept - images == pytest.approx(16 * layer, rel=0.1)
    assert activations(DEEP, recompute=True) - images == pytest.approx((3 + 3) * layer, rel=0.1)


def test_blocks_that_keep_several_tensors_need_less():
    assert activations(RESNET, recompute=True) < 0.5 * activations(RESNET)
