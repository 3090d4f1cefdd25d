"""What a record says of the GPU on which a run was trained."""

import torch

from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.placement import Placement, describe_gpu

PLACED = {"num_threads": 1, "bound": False, "oversubscribed": False}


def test_a_gpu_is_described_with_the_most_that_tensors_held_on_it(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda: 12_345)  # there is none here
    placement = Placement(**PLACED, gpu={"name": "H100"})
    described = describe_gpu(placement, SingleCommunicator())
    assert described == {"name": "H100", "peak_bytes": 12_345}


def test_a_cpu_has_nothing_to_describe():
    assert describe_gpu(Placement(**PLACED), SingleCommunicator()) == {}
