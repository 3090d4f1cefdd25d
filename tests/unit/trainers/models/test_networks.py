"""Networks have the sizes of the literature, weights from the seed alone, and can be cut between
any two blocks."""

import pytest
import torch
from torch import nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models import networks

MLP = RunConfig(model="mlp")
CNN = RunConfig(model="cnn")


@pytest.mark.parametrize(
    ("config", "num_parameters"),
    [
        (MLP, 235_146),
        (CNN, 1_199_882),
        (MLP.replace(hidden=(128,)), 784 * 128 + 128 + 128 * 10 + 10),
        (MLP.replace(hidden=()), 784 * 10 + 10),
        (
            CNN.replace(channels=(4,), kernel_size=5, hidden=(7, 6)),
            4 * 25 + 4 + (4 * 12 * 12) * 7 + 7 + 7 * 6 + 6 + 6 * 10 + 10,
        ),
        (CNN.replace(channels=(), hidden=(3,)), 784 * 3 + 3 + 3 * 10 + 10),
    ],
)
def test_number_of_parameters(config, num_parameters):
    assert networks.num_parameters(networks.build(config)) == num_parameters


@pytest.mark.parametrize(
    ("config", "layers"),
    [
        (MLP, [["Flatten", "Linear", "ReLU"], ["Linear", "ReLU"], ["Linear"]]),
        (MLP.replace(hidden=()), [["Flatten", "Linear"]]),
        (
            CNN,
            [
                ["Convolution", "ReLU"],
                ["Convolution", "MaxPool2d", "ReLU"],
                ["Flatten", "Linear", "ReLU"],
                ["Linear"],
            ],
        ),
    ],
)
def test_blocks(config, layers):
    assert [[type(layer).__name__ for layer in block] for block in networks.build(config)] == layers


@pytest.mark.parametrize("config", [MLP, CNN, CNN.replace(channels=(2, 3, 4), kernel_size=2)])
@pytest.mark.parametrize("num_images", [0, 1, 5])
def test_any_cut_into_two_stages_gives_the_same_logits(config, num_images):
    model = networks.build(config)
    images = torch.randn(num_images, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    logits = model(images)
    assert logits.shape == (num_images, 10)
    for cut in range(1, len(model)):
        assert torch.equal(nn.Sequential(*model[cut:])(nn.Sequential(*model[:cut])(images)), logits)


def test_num_parameters_leaves_out_frozen_ones():
    model = networks.build(MLP)
    model[0].requires_grad_(False)
    assert networks.num_parameters(model) == 256 * 128 + 128 + 128 * 10 + 10


@pytest.mark.parametrize("config", [MLP, CNN])
def test_weights_are_a_function_of_the_seed(config):
    torch.manual_seed(1)
    first = networks.build(config)
    torch.manual_seed(2)
    again = networks.build(config)
    reseeded = networks.build(config.replace(seed=1))
    for name, weight in first.state_dict().items():
        assert torch.equal(weight, again.state_dict()[name])
        assert not torch.equal(weight, reseeded.state_dict()[name])


def test_weights_do_not_depend_on_what_else_the_config_says():
    changed = networks.build(
        MLP.replace(num_ranks=2, strategy="torch_ddp", lr=0.5, dataset="mnist")
    )
    assert torch.equal(
        nn.utils.parameters_to_vector(changed.parameters()),
        nn.utils.parameters_to_vector(networks.build(MLP).parameters()),
    )


@pytest.mark.parametrize("config", [MLP, CNN])
@pytest.mark.parametrize("default_dtype", [torch.float32, torch.float64])
def test_both_dtypes_start_from_the_same_weights(config, default_dtype):
    single = networks.build(config).state_dict()
    torch.set_default_dtype(default_dtype)
    try:
        double = networks.build(config.replace(dtype="float64")).state_dict()
        again = networks.build(config).state_dict()
    finally:
        torch.set_default_dtype(torch.float32)
    for name, weight in single.items():
        assert (weight.dtype, double[name].dtype, again[name].dtype) == (
            torch.float32,
            torch.float64,
            torch.float32,
        )
        assert torch.equal(weight.double(), double[name])


def test_building_leaves_the_global_generator_alone():
    torch.manual_seed(123)
    before = torch.get_rng_state()
    networks.build(CNN)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_starts_from_the_same_weights():
    before = torch.cuda.get_rng_state()
    on_gpu = networks.build(CNN.replace(device="cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), before)
    for weight, expected in zip(on_gpu.parameters(), networks.build(CNN).parameters(), strict=True):
        assert weight.is_cuda
        assert torch.equal(weight.cpu(), expected)
