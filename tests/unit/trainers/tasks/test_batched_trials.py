"""Trials trained together end where each of them ends alone."""

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.data.batches import BatchSource, load
from nnpar_lib.trainers.step.replica import Replica
from nnpar_lib.trainers.tasks.batched_trials import train_together
from nnpar_lib.trainers.timeline import Timeline

BASE = {
    "num_steps": 12,
    "global_batch_size": 1111,
    "num_epochs": 2,
    "dtype": "float64",
    "lr_schedule": "linear",
}  # with a short batch at the end of an epoch
FEW = {"global_batch_size": 100, "num_steps": 6}  # convolutions in float64 are slow on a CPU
TRIALS = [(0.3, 0.9, 0), (0.01, 0.5, 0), (0.1, 0.1, 7)]
CASES = [
    ({"model": "mlp", "hidden": (16,)}, "momentum"),
    ({"model": "mlp"}, "sgd"),
    ({"model": "cnn", "channels": (2, 3), "hidden": (8,), **FEW}, "nesterov"),
    (
        {
            "model": "cnn",
            "channels": (2, 3),
            "hidden": (),
            "memory_format": "channels_last",
            **FEW,
            "num_steps": 2,
        },
        "sgd",
    ),
]


def alone(config):
    replica = Replica(config, Timeline())
    source = BatchSource(load(config.dataset), config.replace(seed=0), 1, 0)
    losses = []
    for step in range(config.total_steps):
        batch = source.batch(step)
        losses.append(float(replica.compute_gradient(batch)) / len(batch.labels))
        replica.update(step)
    return losses, dict(replica.model.named_parameters())


@pytest.mark.parametrize(("model", "optimizer"), CASES)
@pytest.mark.slow
def test_each_trial_ends_where_it_ends_alone(model, optimizer):
    configs = [
        RunConfig(optimizer=optimizer, lr=lr, momentum=momentum, seed=seed, **(BASE | model))
        for lr, momentum, seed in TRIALS
    ]
    together = train_together(configs)
    for index, config in enumerate(configs):
        losses, weights = alone(config)
        assert together.losses[:, index].tolist() == pytest.approx(losses, rel=1e-10)
        for name, value in weights.items():
            torch.testing.assert_close(
                together.weights[name][index], value.detach(), rtol=1e-9, atol=1e-12
            )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"global_batch_size": 32}, "may differ in lr, momentum and seed only"),
        ({"optimizer": "adam"}, "optimizer='adam' has no batched form"),
    ],
)
def test_what_cannot_be_stacked_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        train_together(
            [RunConfig(**changes), RunConfig(optimizer=changes.get("optimizer", "momentum"))]
        )
