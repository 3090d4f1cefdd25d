"""Networks read test images alike however they were trained, and from wherever their weights
come."""

import numpy as np
import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import native
from nnpar_lib.launch.engines import RankError

# at a rate where training does not amplify the rounding of different kernels
BASE = RunConfig(
    hidden=(32, 16), lr=0.03, num_steps=60, global_batch_size=60, num_warmup_steps=1, num_threads=1
)
WAYS = {
    "serial": {},
    "gradient_averaging": {"num_ranks": 2},
    "pipeline": {"num_ranks": 2},
    "tensor": {"num_ranks": 2},
}


def test_whatever_trained_a_network_it_reads_the_same(shared_engines, tmp_path):
    runs = [
        BASE.replace(strategy=way, checkpoint=str(tmp_path / way), **changes)
        for way, changes in WAYS.items()
    ]
    accuracies = [shared_engines.run(config).final_test_accuracy for config in runs]
    in_cpp = BASE.replace(strategy="cpp", num_ranks=2)
    accuracies.append(native.run(in_cpp, weights_file=tmp_path / "cpp").final_test_accuracy)
    files = [
        *((config, config.checkpoint) for config in runs),
        (in_cpp, tmp_path / "cpp"),
    ]
    seen = shared_engines.classify_test_images(files, 10_000)
    serial = seen["probabilities"][0]
    assert seen["images"].shape == (len(serial), 28, 28) and np.allclose(
        serial.sum(axis=1), 1, atol=1e-5
    )
    assert np.abs(seen["probabilities"] - serial).max() < 1e-4
    read = [(digits.argmax(axis=1) == seen["labels"]).mean() for digits in seen["probabilities"]]
    assert read == pytest.approx(accuracies)
    assert accuracies[0] > 0.5


@pytest.mark.parametrize(
    ("size", "message"), [(None, "does not exist; train first"), (4, "holds 4 weights")]
)
def test_a_missing_or_cut_file_is_named_with_the_remedy(shared_engines, tmp_path, size, message):
    file = tmp_path / "weights"
    if size is not None:
        np.zeros(size, dtype=np.float32).tofile(file)
    with pytest.raises(RankError, match=message):
        shared_engines.classify_test_images([(BASE.replace(strategy="cpp"), file)], 10)
