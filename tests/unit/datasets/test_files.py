"""A data set that is missing or damaged is told in one line that names file and remedy, before
anything starts."""

import functools
import gzip
import hashlib
import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from nnpar_lib.config import RunConfig, folders
from nnpar_lib.datasets import files, torchvision_operators
from nnpar_lib.launch import preflight
from tests.conftest import ROOT

torchvision_operators.declare_missing()
from torchvision import datasets  # noqa: E402

IMAGES = "t10k-images-idx3-ubyte"
LABELS = "t10k-labels-idx1-ubyte"
ALL_FILES = ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", IMAGES, LABELS]


def write_idx(path, numbers):
    header = np.array([0x0800 + numbers.ndim, *numbers.shape], dtype=">u4").tobytes()
    path.write_bytes(header + numbers.tobytes())


@pytest.fixture(scope="session")
def synthetic(tmp_path_factory):
    """Files of random numbers that look like those of fashion_mnist in every way but their
    pictures."""
    folder = tmp_path_factory.mktemp("synthetic")
    random = np.random.default_rng(0)
    for part, number in (("train", 60_000), ("t10k", 10_000)):
        write_idx(
            folder / f"{part}-images-idx3-ubyte",
            random.integers(0, 256, (number, 28, 28), dtype=np.uint8),
        )
        write_idx(
            folder / f"{part}-labels-idx1-ubyte", random.integers(0, 10, number, dtype=np.uint8)
        )
    return folder


@pytest.fixture
def folder(synthetic, tmp_path, monkeypatch):
    """A data folder with whole files of fashion_mnist, and of what claims to be mnist."""
    for raw in files.SUBFOLDERS.values():
        (tmp_path / raw).mkdir(parents=True)
        for path in synthetic.iterdir():
            (tmp_path / raw / path.name).symlink_to(path)
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    return tmp_path


@pytest.fixture
def mirror(monkeypatch):
    """A function that makes torchvision download from an address; first of all from one where
    nobody listens."""

    def use(url):
        for dataset in (datasets.MNIST, datasets.FashionMNIST):
            monkeypatch.setattr(dataset, "mirrors", [url, url])

    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    with socket.socket() as closed:
        closed.bind(
            ("127.0.0.1", 0)
        )  # bound, but it does not listen: a connection is refused at once
        use(f"http://127.0.0.1:{closed.getsockname()[1]}/")
        yield use


def own_copy(folder, dataset, name):
    """Replace the link to a shared file by a copy that may be damaged."""
    path = folder / files.SUBFOLDERS[dataset] / name
    source = path.resolve()
    path.unlink()
    shutil.copy(source, path)
    return path


def refused(function, *arguments):
    with pytest.raises(files.DataError) as caught:
        function(*arguments)
    message = str(caught.value)
    assert len(message.splitlines()) == 1
    return message


def overwrite(path, offset, content):
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(content)


def test_whole_files_pass_without_a_download(folder, monkeypatch):
    monkeypatch.setattr(files, "_download", lambda dataset: pytest.fail("downloads what is there"))
    files.ensure("fashion_mnist")


def test_digits_need_no_files(monkeypatch, tmp_path):
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path / "nothing"))
    files.ensure("digits")
    files.check("digits")
    preflight.check(RunConfig(dataset="digits"))


@pytest.mark.parametrize(
    ("name", "damage", "problem"),
    [
        (LABELS, lambda path: os.truncate(path, 9_000), "has 9000 bytes instead of 10008"),
        (IMAGES, lambda path: os.truncate(path, 7_840_015), "has 7840015 bytes instead of 7840016"),
        (LABELS, lambda path: os.truncate(path, 0), "starts with nothing instead of 00000801"),
        (IMAGES, lambda path: os.truncate(path, 2**40), f"has {2**40} bytes instead of 7840016"),
        (LABELS, lambda path: os.truncate(path, 6), "has 6 bytes instead of 10008"),
        (LABELS, lambda path: overwrite(path, 10_008, b"\n"), "has 10009 bytes instead of 10008"),
        (
            IMAGES,
            lambda path: overwrite(path, 0, b"\x1f\x8b\x08\x00"),
            "starts with 1f8b0800 instead of 00000803",
        ),
        (
            LABELS,
            lambda path: overwrite(path, 3, b"\x03"),
            "starts with 00000803 instead of 00000801",
        ),
        (
            IMAGES,
            lambda path: overwrite(path, 7, b"\x11"),
            "holds 10001 x 28 x 28 numbers instead of 10000 x 28 x 28",
        ),
        (
            LABELS,
            lambda path: overwrite(path, 5_000, b"\x0a"),
            "holds the label 10, but classes are 0 to 9",
        ),
    ],
)
def test_a_damaged_file_is_named_with_problem_and_remedy(folder, name, damage, problem):
    path = own_copy(folder, "fashion_mnist", name)
    damage(path)
    message = refused(files.ensure, "fashion_mnist")
    assert str(path) in message
    assert problem in message
    assert "delete it" in message


def test_mnist_has_to_be_the_published_one(folder):
    message = refused(files.ensure, "mnist")
    assert str(folder / "MNIST/raw/train-images-idx3-ubyte") in message
    assert "MD5 6bbc9ace898e44ae57da46a324031adb" in message
    assert "delete it" in message


def test_one_flipped_bit_of_mnist_is_found(tmp_path, monkeypatch):
    original = files.data_folder()
    try:
        files.check("mnist")
    except files.DataError as error:
        pytest.skip(f"needs the files of MNIST: {error}")
    shutil.copytree(original / "MNIST", tmp_path / "MNIST")
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    files.ensure("mnist")
    path = tmp_path / "MNIST/raw" / IMAGES
    overwrite(path, 4_000_000, bytes([path.read_bytes()[4_000_000] ^ 1]))
    assert f"{path} is damaged" in refused(files.ensure, "mnist")


def test_a_whole_file_is_read_once_and_again_after_a_change(folder, monkeypatch):
    path = own_copy(folder, "fashion_mnist", LABELS)
    files.check("fashion_mnist")
    with monkeypatch.context() as blind:
        blind.setattr(Path, "read_bytes", lambda path: pytest.fail(f"reads {path} again"))
        files.check("fashion_mnist")
    overwrite(path, 5_000, b"\xff")
    os.utime(path, ns=(0, 0))
    refused(files.check, "fashion_mnist")
    refused(files.check, "fashion_mnist")


def test_a_file_that_cannot_be_read_is_named(folder, monkeypatch):
    def denied(path, mode):
        raise PermissionError(13, "Permission denied")

    own_copy(folder, "fashion_mnist", "train-images-idx3-ubyte")
    monkeypatch.setattr(Path, "open", denied)
    message = refused(files.check, "fashion_mnist")
    assert "train-images-idx3-ubyte cannot be read (Permission denied)" in message


@pytest.mark.parametrize("dataset", ["mnist", "fashion_mnist"])
def test_missing_files_without_a_network_fail_fast_and_name_the_remedy(
    dataset, mirror, tmp_path, monkeypatch
):
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    before = time.monotonic()
    message = refused(files.ensure, dataset)
    assert time.monotonic() - before < 10
    assert str(tmp_path) in message
    assert "refused" in message
    assert all(name in message for name in ALL_FILES)
    assert f"set NNPAR_DATA to the folder that holds {files.SUBFOLDERS[dataset]}" in message
    assert "dataset=digits" in message
    assert socket.getdefaulttimeout() is None


def test_only_what_is_missing_is_named(folder, mirror):
    (folder / "FashionMNIST/raw" / LABELS).unlink()
    message = refused(files.ensure, "fashion_mnist")
    assert f"no {LABELS};" in message
    assert IMAGES not in message.split(": no ")[1]


def test_a_silent_network_is_given_up(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    monkeypatch.setattr(files, "CONNECT_TIMEOUT_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        mirror(f"http://127.0.0.1:{silent.getsockname()[1]}/")
        before = time.monotonic()
        assert "timed out" in refused(files.ensure, "fashion_mnist")
        assert time.monotonic() - before < 5


def test_a_folder_that_cannot_be_made_is_named(mirror, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path / "file"))
    message = refused(files.ensure, "mnist")
    assert f"mnist is missing from {tmp_path / 'file'}" in message
    assert "NNPAR_DATA" in message


@pytest.fixture
def server(tmp_path_factory):
    """A web server on this machine, and the folder that it serves."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    served = tmp_path_factory.mktemp("served")
    handler = functools.partial(Quiet, directory=str(served))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/", served
        server.shutdown()


@pytest.mark.slow
def test_what_is_missing_is_downloaded_and_checked(
    server, synthetic, mirror, tmp_path, monkeypatch
):
    url, served = server
    for name in ALL_FILES:
        packed = gzip.compress((synthetic / name).read_bytes(), compresslevel=0)
        (served / f"{name}.gz").write_bytes(packed)
    resources = [
        (f"{name}.gz", hashlib.md5((served / f"{name}.gz").read_bytes()).hexdigest())
        for name in ALL_FILES
    ]
    monkeypatch.setattr(datasets.FashionMNIST, "resources", resources)
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path / "new"))
    mirror(url)
    preflight.check(RunConfig(dataset="fashion_mnist"))
    for name in ALL_FILES:
        assert (tmp_path / "new/FashionMNIST/raw" / name).read_bytes() == (
            synthetic / name
        ).read_bytes()


def test_a_download_of_something_else_is_refused(server, mirror, tmp_path, monkeypatch):
    url, served = server
    (served / "train-images-idx3-ubyte.gz").write_text(
        "<html>\nPlease log in to this network\n</html>"
    )
    mirror(url)
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    assert "corrupted" in refused(files.ensure, "mnist")


def test_the_data_folder_is_that_of_the_checkout_unless_told_otherwise(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NNPAR_DATA", "~/sets")
    assert files.data_folder() == Path.home() / "sets"
    for unset in (
        lambda: monkeypatch.setenv("NNPAR_DATA", ""),
        lambda: monkeypatch.delenv("NNPAR_DATA"),
    ):
        unset()
        assert files.data_folder() == folders.data_folder() == ROOT / "data"


def test_preflight_refuses_missing_data_as_a_value_error(mirror, tmp_path, monkeypatch):
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    with pytest.raises(ValueError, match="fashion_mnist is missing"):
        preflight.check(RunConfig(dataset="fashion_mnist"))


def test_preflight_refuses_a_gpu_that_is_not_there(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match=r"device='cuda' needs a GPU.*use device='cpu'") as caught:
        preflight.check(RunConfig(device="cuda"))
    assert len(str(caught.value).splitlines()) == 1
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    preflight.check(RunConfig(device="cuda"))


@pytest.mark.parametrize(
    ("parameters", "reason"),
    [
        ({"model": "cnn"}, r"model='cnn', whose convolutions .* choose 'mlp'"),
        ({"precision": "bf16"}, "precision='bf16'; use precision='float32'"),
        ({"tune": True}, "tune, .* leave one of them out"),
    ],
)
def test_preflight_refuses_a_record_that_a_cpu_does_not_have(parameters, reason):
    with pytest.raises(ValueError, match=f"record is not offered on device='cpu' with {reason}"):
        preflight.check(RunConfig(record=True, **parameters))
    preflight.check(RunConfig(record=True))


@pytest.mark.parametrize(
    ("changes", "who"),
    [
        ({"strategy": "gradient_averaging", "allreduce": "nccl"}, "allreduce='nccl'"),
        ({"strategy": "torch_ddp"}, "strategy 'torch_ddp'"),
    ],
)
def test_preflight_refuses_ranks_that_would_share_a_gpu_and_must_not(changes, who, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    config = RunConfig(device="cuda", num_ranks=3, **changes)
    with pytest.raises(ValueError) as caught:
        preflight.check(config)
    assert (
        str(caught.value)
        == f"{who} needs a GPU for each rank, but num_ranks=3 puts 3 ranks of a node on 2; take "
        "fewer ranks, or gradient_averaging with allreduce='mpi'"
    )
    preflight.check(config.replace(num_ranks=2))
    preflight.check(RunConfig(device="cuda", num_ranks=3, strategy="gradient_averaging"))
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: False)
    with pytest.raises(
        ValueError, match="is built without nccl; use gradient_averaging with allreduce='mpi'"
    ):
        preflight.check(config.replace(num_ranks=2))


def python(code):
    path = os.pathsep.join(sys.path)
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path},
    )
    return run.stdout.split()


def test_the_kernel_side_imports_neither_torch_nor_the_engine_side():
    code = "import sys, nnpar_lib.launch.preflight; print(*sys.modules)"
    loaded = set(python(code))
    assert "nnpar_lib.datasets.files" in loaded
    assert not [name for name in loaded if name.split(".")[0] in ("torch", "torchvision", "mpi4py")]
    assert not [name for name in loaded if name.startswith("nnpar_lib.trainers")]


@pytest.mark.slow
def test_torchvision_can_be_imported_and_nothing_is_declared_twice():
    code = (
        "from nnpar_lib.datasets import torchvision_operators as operators; import torch;first ="
        " operators.declare_missing(); import torchvision, torchvision.transforms,"
        " torchvision.datasets;print((first is None) =="
        " torchvision.extension._has_ops());operators.declare_missing.cache_clear();"
        " print(operators.declare_missing())"
    )
    assert python(code) == ["True", "None"]
