"""How each rank computes: device, threads, number formats and kernels."""

from __future__ import annotations

from dataclasses import dataclass

from nnpar_lib.config.option import METHOD, PROBLEM, Section, option

DEVICES = ("cpu", "cuda")
BINDINGS = ("none", "core")
DTYPES = ("float32", "float64")
PRECISIONS = ("float32", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last")
CONVOLUTIONS = ("torch", "im2col")
WITH_CONVOLUTIONS = ("cnn", "resnet18")
# Strategies that may throw activations away and compute them again.
RECOMPUTING = ("serial", "gradient_averaging", "sharded", "pipeline", "hybrid")
# Strategies that may compute a batch in micro-batches and add up their gradients.
ACCUMULATING = ("serial", "gradient_averaging", "weight_averaging", "tensor")


@dataclass(frozen=True, kw_only=True)
class Computing(Section):
    """On which device, with how many threads, in which formats a rank computes."""

    device: str = option(
        "cpu", "where the model lives", DEVICES, role=PROBLEM, native=("cpu",), fixed=False
    )
    num_threads: int = option(
        0,
        "threads a rank; 0 shares the cores of the machine evenly among its ranks",
        role=METHOD,
        minimum=0,
    )
    binding: str = option(
        "core",
        "core: each rank keeps to cores of its own where there are enough; none: the "
        "operating system moves ranks as it likes",
        BINDINGS,
        role=METHOD,
    )
    dtype: str = option(
        "float32",
        "floating-point type of weights, gradients and activations",
        DTYPES,
        role=PROBLEM,
        native=("float32",),
    )
    precision: str = option(
        "float32",
        "bf16: products and activations in bfloat16 (autocast); weights, gradients and "
        "their sums over ranks stay in float32",
        PRECISIONS,
        role=METHOD,
        native=("float32",),
        changes_numbers=True,
    )
    memory_format: str = option(
        "contiguous",
        "channels_last: convolutions find the channels of a pixel side by side",
        MEMORY_FORMATS,
        role=METHOD,
        read_by={"model": WITH_CONVOLUTIONS},
        native=("contiguous",),
        changes_numbers=True,
    )
    convolution: str = option(
        "torch",
        "torch: the kernels that it chooses; im2col: convolutions whose output has at "
        "most 64 pixels become a matrix product over copied windows",
        CONVOLUTIONS,
        role=METHOD,
        read_by={"model": WITH_CONVOLUTIONS},
        native=("torch",),
        changes_numbers=True,
    )
    microbatch_size: int = option(
        0,
        "examples that a rank computes at a time, adding up their gradients, so that a "
        "large batch stays in the cache; 0 computes its part of the batch at once",
        role=METHOD,
        read_by={"strategy": ACCUMULATING},
        minimum=0,
        changes_numbers=True,
    )
    recompute: bool = option(
        False,
        "throw activations away and compute them again in the backward pass, which needs less "
        "memory and more time",
        role=METHOD,
        read_by={"strategy": RECOMPUTING},
    )
    tune: bool = option(
        False,
        "measure precisions, memory formats, kinds of convolution and micro-batch sizes for "
        "some seconds first, and train with the fastest",
        role=METHOD,
        read_by={"strategy": ACCUMULATING},
        changes_numbers=True,
    )
    record: bool = option(
        False,
        "record the operations of a step on fixed tensors and replay them: a CUDA graph on a GPU, "
        "no autograd on a CPU",
        role=METHOD,
        read_by={"strategy": ("serial", "gradient_averaging")},
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.precision == "bf16" and self.dtype != "float32":
            raise ValueError(
                f"precision='bf16' keeps weights in float32, not in dtype={self.dtype!r}; leave"
                " one out"
            )
