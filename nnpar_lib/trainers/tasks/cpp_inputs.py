"""What the program in C++ starts from, as files: data set, initial weights, order of examples."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.datasets import files
from nnpar_lib.trainers.data.batches import epoch_order, load
from nnpar_lib.trainers.models import networks


def export_data(name: str, folder: str) -> str:
    """Return the folder of a data set's four idx files, `folder` where they are written here."""
    if name in files.SUBFOLDERS:
        return str(files.data_folder() / files.SUBFOLDERS[name])
    data = load(name)
    for prefix, images, labels in (
        ("train", data.train_images, data.train_labels),
        ("t10k", data.test_images, data.test_labels),
    ):
        _write_idx(Path(folder, f"{prefix}-images-idx3-ubyte"), images.squeeze(1))
        _write_idx(Path(folder, f"{prefix}-labels-idx1-ubyte"), labels)
    return folder


def export_start(parameters: dict[str, Any], weights_file: str, order_file: str) -> None:
    """Write a config's initial weights (float32, in the model's order) and its order of examples.

    The order is uint32, epoch after epoch.
    """
    config = RunConfig.from_parameters(parameters)
    with Path(weights_file).open("wb") as file:
        for parameter in networks.build(config).parameters():  # one by one: no copy of all of them
            parameter.detach().numpy().astype(np.float32, copy=False).tofile(file)
    num_examples = len(load(config.dataset).train_labels)
    num_epochs = math.ceil(config.total_steps / config.num_steps_per_epoch)
    with Path(order_file).open("wb") as file:
        for epoch in range(num_epochs):
            epoch_order(num_examples, config.seed, epoch).numpy().astype(np.uint32).tofile(file)


def _write_idx(path: Path, values: Tensor) -> None:
    """Write bytes as an idx file, whole at once: others may read the file meanwhile.

    Its header is the type, the number of dimensions, and each dimension.
    """
    header = struct.pack(
        f">4B{values.dim()}I", 0, 0, files.IDX_UNSIGNED_BYTE, values.dim(), *values.shape
    )
    new = path.with_name(path.name + ".new")
    new.write_bytes(header + values.numpy().astype(np.uint8).tobytes())
    new.replace(path)
