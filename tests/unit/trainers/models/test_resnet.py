"""ResNet-18 is torchvision's, and a summary of it counts what it has and needs."""

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.datasets import torchvision_operators
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.tasks.block_work import summarize

RESNET = RunConfig(model="resnet18")


def torchvision_twin(model):
    """Return torchvision's network for one channel and 10 classes, with the weights of ours in
    their order."""
    torchvision_operators.declare_missing()
    from torchvision.models import resnet18

    twin = resnet18(num_classes=10)
    twin.conv1 = torch.nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    names = [name for name in twin.state_dict() if "num_batches_tracked" not in name]
    twin.load_state_dict(dict(zip(names, model.state_dict().values(), strict=True)), strict=False)
    return twin


def test_it_computes_what_torchvision_does():
    model = networks.build(RESNET)
    twin = torchvision_twin(model)
    images = torch.randn(5, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    for _ in range(2):  # the second time running statistics have moved
        assert torch.equal(model(images), twin(images))
    twin.eval()
    with networks.evaluating(model):
        assert torch.equal(model(images), twin(images))
    assert model.training


def test_the_small_stem_keeps_all_pixels():
    shapes = networks.boundary_shapes(RESNET.replace(stem="small"))
    assert shapes[1] == (64, 28, 28) and shapes[-2] == (512, 4, 4)
    assert networks.boundary_shapes(RESNET)[-2] == (512, 1, 1)


def test_shapes_do_not_depend_on_how_convolutions_are_computed():
    assert networks.boundary_shapes(RESNET) == networks.boundary_shapes(
        RESNET.replace(convolution="im2col")
    )


@pytest.mark.parametrize("config", [RESNET, RESNET.replace(stem="small", width=8)])
def test_it_has_as_many_blocks_as_its_config_says(config):
    model = networks.build(config)
    assert len(model) == config.num_blocks == 10
    images = torch.randn(3, 1, 28, 28)
    for cut in range(1, len(model)):
        assert torch.equal(torch.nn.Sequential(*model[cut:])(model[:cut](images)), model(images))


def test_hidden_layers_are_refused():
    with pytest.raises(ValueError, match=r"hidden=\(128,\) is not offered by the model resnet18"):
        RESNET.replace(hidden=(128,))


def test_a_summary_adds_up():
    rows = summarize(RESNET, batch_size=2)
    assert (
        sum(row["num_parameters"] for row in rows)
        == networks.num_parameters(networks.build(RESNET))
        == 11_175_370
    )
    assert rows[1]["flops"] == 3 * 2 * (
        2 * 2 * 64 * 64 * 9 * 7 * 7
    )  # 3 products of 2 layers, 2 operations, 2 examples


def test_a_summary_of_one_layer_is_that_of_paper_and_pencil():
    (row,) = summarize(RunConfig(hidden=(), optimizer="sgd"), batch_size=3)
    weights = 7840
    biases = 10
    inputs = 3 * 784
    outputs = 3 * 10
    # forward pass and the gradient of the weights; the images need none
    assert row["flops"] == 2 * 2 * 3 * weights
    forward = biases + inputs + weights + outputs
    backward = (outputs + inputs + weights) + (outputs + biases)
    assert row["bytes"] == 4 * (forward + backward + 3 * (weights + biases))
