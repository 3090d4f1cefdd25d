"""How a step is computed, in which precision, layout and portions, does not change what it
computes."""

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.data.batches import BatchSource, load
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.loop.tuning import Measured, _fastest, _ways
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.timeline import Timeline

CNN = RunConfig(model="cnn", channels=(3, 5), hidden=(16,), global_batch_size=67, num_threads=1)
RESNET = RunConfig(model="resnet18", width=8, global_batch_size=67, num_threads=1)


def gradients(config, num_steps=2):
    """Return each parameter's gradient in the last of some steps, and the losses."""
    replica = Replica(config, Timeline())
    source = BatchSource(load(config.dataset), config, size=1, rank=0)
    losses = []
    for step in range(num_steps):
        losses.append(float(replica.compute_gradient(source.batch(step))))
        if step + 1 < num_steps:
            replica.update(step)
    indices = range(len(replica.parameters))
    return [replica.view_of_gradient(index).clone() for index in indices], losses


def difference(config, changed):
    """Return the largest relative difference of two configs' gradients and losses."""
    expected, losses = gradients(config)
    computed, changed_losses = gradients(changed)
    differences = [abs(a / b - 1) for a, b in zip(losses, changed_losses, strict=True)]
    for reference, value in zip(expected, computed, strict=True):
        differences.append(float((reference - value).norm() / reference.norm()))
    return max(differences)


@pytest.mark.parametrize("config", [CNN, RESNET])
def test_channels_last_computes_the_same(config):
    config = config.replace(dtype="float64")
    changed = config.replace(memory_format="channels_last")
    assert difference(config, changed) < 1e-12
    parameters = Replica(changed, Timeline()).parameters
    weights = [p for p in parameters if p.dim() == 4 and p.shape[1] > 1 and p.shape[2] > 1]
    assert weights and all(
        weight.is_contiguous(memory_format=torch.channels_last) for weight in weights
    )


@pytest.mark.parametrize("memory_format", ["contiguous", "channels_last"])
@pytest.mark.parametrize("stem", ["imagenet", "small"])
@pytest.mark.slow
def test_products_of_windows_are_the_same_convolutions(stem, memory_format):
    config = RESNET.replace(dtype="float64", stem=stem, memory_format=memory_format)
    assert difference(config, config.replace(convolution="im2col")) < 1e-12


@pytest.mark.parametrize("size", [1, 7, 32, 66, 67, 100])
def test_micro_batches_add_up_to_the_batch(size):
    config = CNN.replace(dtype="float64")
    assert difference(config, config.replace(microbatch_size=size)) < 1e-12


@pytest.mark.parametrize(
    "config", [CNN, RESNET, RESNET.replace(convolution="im2col", memory_format="channels_last")]
)
def test_bf16_keeps_weights_and_gradients_in_float32_and_computes_nearly_the_same(config):
    changed = config.replace(precision="bf16")
    replica = Replica(changed, Timeline())
    assert replica.weights.dtype == replica.view_of_gradient(0).dtype == torch.float32
    assert networks.build(changed)(torch.randn(2, 1, 28, 28)).dtype == torch.float32
    expected, losses = gradients(config, num_steps=1)
    computed, rounded_losses = gradients(changed, num_steps=1)
    flat = torch.cat([gradient.flatten() for gradient in expected])
    rounded = torch.cat([gradient.flatten() for gradient in computed])
    # 8 bits of mantissa, and still the gradient
    assert 1e-4 < float((flat - rounded).norm() / flat.norm()) < 0.5
    assert losses == pytest.approx(rounded_losses, rel=0.02)


def test_plain_steps_stay_where_nothing_is_clearly_faster():
    plain, noise, faster = (Measured({}, 32, rate) for rate in (100.0, 101.0, 130.0))
    assert _fastest([plain, noise]) is plain
    assert _fastest([plain, noise, faster]) is faster


def test_only_models_with_small_images_try_products_of_windows():
    ways = {
        model: {way["convolution"] for way in _ways(RunConfig(model=model))} for model in MODELS
    }
    assert ways == {"mlp": {"torch"}, "cnn": {"torch"}, "resnet18": {"torch", "im2col"}}


def test_a_tuned_run_says_what_it_measured_and_chose():
    config = CNN.replace(tune=True, num_steps=3, evaluate_every=0)
    record = train(config, SingleCommunicator())
    assert RunConfig.from_parameters(record.config) == config
    measured = record.tuning["measured"]
    assert [(way["precision"], way["memory_format"]) for way in measured[:4]] == [
        ("float32", "contiguous"),
        ("float32", "channels_last"),
        ("bf16", "contiguous"),
        ("bf16", "channels_last"),
    ]
    assert [way["microbatch_size"] for way in measured[4:]] == [67, 16, 32, 64]
    best = max(measured[:4], key=lambda way: way["samples_per_second"])
    assert record.tuning["precision"] in ("float32", best["precision"])
    assert "times the samples/s" in record.tuning["why"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"strategy": "torch_ddp", "microbatch_size": 8},
            "microbatch_size=8 is not offered by strategy 'torch_ddp'",
        ),
        ({"strategy": "tutorial", "tune": True}, "tune is not offered"),
        (
            {"strategy": "gradient_averaging", "allreduce": "overlapped", "tune": True},
            "tune does not go with",
        ),
    ],
)
def test_micro_batches_are_refused_where_a_strategy_has_none(changes, message):
    with pytest.raises(ValueError, match=message):
        RunConfig(**changes)


def test_bf16_is_no_double_precision():
    with pytest.raises(ValueError, match="precision='bf16'"):
        RunConfig(precision="bf16", dtype="float64")
