"""The class probabilities that trained networks give to test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.data.batches import load, normalise
from nnpar_lib.trainers.loop import checkpoint
from nnpar_lib.trainers.strategies.base import Strategy
from nnpar_lib.trainers.tasks.equality import serial_twin
from nnpar_lib.trainers.timeline import Timeline


def classify_test_images(
    runs: Sequence[tuple[dict[str, Any], str]], num_images: int
) -> dict[str, Any]:
    """Return the first test images of the runs' data set and each trained network's probabilities.

    A run is its config and the file of its weights: a checkpoint, or the weights that the program
    in C++ wrote. Each network is built whole on this rank, however it was trained. Return `images`
    uint8 [N, 28, 28], `labels` [N], and `probabilities` [runs, N, 10]. Raises a ValueError where a
    file is missing or damaged.
    """
    configs = [RunConfig.from_parameters(config) for config, _ in runs]
    data = load(configs[0].dataset)
    images = data.test_images[:num_images]
    labels = data.test_labels[:num_images]
    probabilities = []
    for config, (_, file) in zip(configs, runs, strict=True):
        inputs = normalise(images, data, getattr(torch, config.dtype))
        probabilities.append(_probabilities(config, Path(file), inputs))
    return {
        "images": images.squeeze(1).numpy(),
        "labels": labels.numpy(),
        "probabilities": np.stack(probabilities),
    }


@torch.no_grad()
def _probabilities(config: RunConfig, file: Path, inputs: Tensor) -> np.ndarray[Any, Any]:
    if not file.exists():
        raise ValueError(f"{file} does not exist; train first, with checkpoint={str(file)!r}")
    trained = strategies.build(serial_twin(config), SingleCommunicator(), Timeline())
    load_weights = _load_native if config.is_native else _load_checkpoint
    load_weights(trained, file, config)
    logits = trained.predict(inputs.to(config.device))
    trained.close()
    return logits.float().softmax(dim=1).cpu().numpy()


def _load_checkpoint(trained: Strategy, file: Path, config: RunConfig) -> None:
    checkpoint.restore(file, serial_twin(config), trained, SingleCommunicator())


def _load_native(trained: Strategy, file: Path, config: RunConfig) -> None:
    weights = torch.from_numpy(np.fromfile(file, dtype=np.float32))
    num_weights = sum(parameter.numel() for parameter in trained.whole_parameters())
    if len(weights) != num_weights:
        raise ValueError(
            f"{file} holds {len(weights)} weights, and this network has {num_weights}; name another"
            " file"
        )
    nn.utils.vector_to_parameters(weights, trained.whole_parameters())
