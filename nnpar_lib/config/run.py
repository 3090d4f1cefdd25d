"""What a run is asked to do: one frozen, validated set of parameters, from a notebook, papermill or
the shell."""

from __future__ import annotations

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from nnpar_lib.config.rules import PIPELINES, check_cuts, check_offers
from nnpar_lib.parts import explicit_cuts
from nnpar_lib.schedules import SCHEDULES, Pipeline

STRATEGIES = (
    "serial",
    "tutorial",
    "gradient_averaging",
    "weight_averaging",
    "root_worker",
    "torch_ddp",
    "pipeline",
    "tensor",
    "hybrid",
    "torch_pipelining",
    "cpp",
    "cpp_weight_averaging",
)
NATIVE_STRATEGIES = ("cpp", "cpp_weight_averaging")  # the program in C++
SINGLE_RANK_STRATEGIES = ("serial", "tutorial")
MODELS = ("mlp", "cnn", "resnet18")
DATASETS = ("digits", "mnist", "fashion_mnist")
OPTIMIZERS = ("sgd", "momentum", "nesterov", "adam", "adagrad")
ALLREDUCES = ("shared", "mpi", "overlapped")
COMMUNICATORS = ("mpi", "nccl", "gloo")
STEMS = ("imagenet", "small")
BATCH_NORMS = ("synchronised", "local")
DTYPES = ("float32", "float64")
PRECISIONS = ("float32", "bf16")
MEMORY_FORMATS = ("contiguous", "channels_last")
CONVOLUTIONS = ("torch", "im2col")
DEVICES = ("cpu", "cuda")
LR_SCHEDULES = ("constant", "linear", "cosine")
DATA_LOADINGS = ("memory", "loader")
BINDINGS = ("none", "core")
NUM_TRAINING_EXAMPLES = {"digits": 12_000, "mnist": 60_000, "fashion_mnist": 60_000}
DEFAULT_HIDDEN: dict[str, tuple[int, ...]] = {"mlp": (256, 128), "cnn": (128,), "resnet18": ()}
NUM_RESIDUAL_BLOCKS = 8
IMAGE_SIZE = 28


def option(default: Any, text: str, choices: Sequence[str] = ()) -> Any:
    """Return a dataclass field that carries its own help text and choices."""
    return dataclasses.field(default=default, metadata={"help": text, "choices": tuple(choices)})


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The parameters of one training run.

    A wrong value raises a ValueError that names it and says what would be right, so that nothing is
    started in vain.
    """

    strategy: str = option("serial", "how a training step is spread over ranks", STRATEGIES)
    model: str = option("mlp", "the network", MODELS)
    dataset: str = option("digits", "the data set; digits needs no download", DATASETS)
    num_ranks: int = option(1, "number of processes (MPI ranks)")
    num_threads: int = option(
        0, "threads a rank; 0 shares the cores of the machine evenly among its ranks"
    )
    global_batch_size: int = option(128, "examples a step, over all ranks")
    num_epochs: int = option(1, "passes over the training set")
    num_steps: int | None = option(
        None, "stop after this many steps, even in the middle of an epoch"
    )
    optimizer: str = option("momentum", "the update rule", OPTIMIZERS)
    lr: float = option(0.1, "learning rate")
    momentum: float = option(0.9, "momentum of the optimizers momentum and nesterov")
    lr_schedule: str = option(
        "constant", "how the learning rate goes to zero over the run, if it does", LR_SCHEDULES
    )
    allreduce: str = option(
        "shared",
        "how ranks sum their buffers: through shared memory, by one blocking MPI "
        "call, or in buckets during the backward pass (gradient_averaging only)",
        ALLREDUCES,
    )
    bucket_kib: int = option(512, "size of a bucket of the overlapped all-reduce, in KiB")
    communicator: str = option(
        "mpi",
        "gradient_averaging: what sums gradients over ranks: mpi, in the way of "
        "allreduce, or one call of torch.distributed over nccl (one rank a GPU) or gloo (CPU)",
        COMMUNICATORS,
    )
    average_every: int = option(
        0, "weight_averaging: steps between two averages; 0 averages once an epoch"
    )
    shard_data: bool = option(
        True,
        "root_worker: each rank trains on its own shard and the root trains too; "
        "without it each worker goes through the whole set",
    )
    data_loading: str = option(
        "memory",
        "memory: the set lies in memory as uint8; loader: torch's DataLoader with "
        "ToTensor and Normalize, image by image",
        DATA_LOADINGS,
    )
    schedule: str = option(
        "1f1b", "in which order a pipeline computes its micro-batches", SCHEDULES
    )
    num_microbatches: int = option(
        4,
        "micro-batches that a pipeline cuts a batch into; the schedule sequential takes "
        "the batch whole",
    )
    num_chunks: int = option(
        2, "stages that each rank holds in the schedule interleaved; 1 in the others"
    )
    pipeline_size: int = option(0, "hybrid: ranks of each pipeline; 0 puts all ranks into one")
    balance: str = option(
        "layers",
        "how a model is cut into stages: layers (as many blocks each), measured (by a "
        "short profile), or the blocks that later stages begin with, such as 1,3",
    )
    num_traced_steps: int = option(
        0, "steps, the last ones, whose events on each rank are kept in the record"
    )
    memory_budget_mib: int = option(
        0, "MiB that each rank may allocate for the run, enforced; 0 sets no limit"
    )
    hidden: tuple[int, ...] | None = option(
        None,
        "widths of the hidden fully connected layers, comma separated "
        "(default: 256,128 for mlp and 128 for cnn)",
    )
    channels: tuple[int, ...] = option(
        (32, 64), "channels of the convolutions of the cnn, comma separated"
    )
    stem: str = option(
        "imagenet",
        "first layers of resnet18: imagenet leaves 7x7 of 28x28 pixels, small all of them",
        STEMS,
    )
    width: int = option(
        64, "channels of the first stage of resnet18; the next ones have 2, 4 and 8 times as many"
    )
    batch_norm: str = option(
        "synchronised",
        "resnet18: normalise with statistics of a micro-batch over all ranks that "
        "average gradients, or with each rank's local ones",
        BATCH_NORMS,
    )
    kernel_size: int = option(3, "height and width of the convolutions of the cnn")
    seed: int = option(0, "seed of the initial weights and of the order of the examples")
    device: str = option("cpu", "where the model lives", DEVICES)
    cuda_graph: bool = option(
        False, "record a step on the GPU and replay it, which spares the launches of its kernels"
    )
    dtype: str = option(
        "float32", "floating-point type of weights, gradients and activations", DTYPES
    )
    precision: str = option(
        "float32",
        "bf16: products and activations in bfloat16 (autocast); weights, gradients and "
        "their sums over ranks stay in float32",
        PRECISIONS,
    )
    memory_format: str = option(
        "contiguous",
        "channels_last: convolutions find the channels of a pixel side by side",
        MEMORY_FORMATS,
    )
    convolution: str = option(
        "torch",
        "torch: the kernels that it chooses; im2col: convolutions whose output has at "
        "most 64 pixels become a matrix product over copied windows",
        CONVOLUTIONS,
    )
    microbatch_size: int = option(
        0,
        "examples that a rank computes at a time, adding up their gradients, so that a "
        "large batch stays in the cache; 0 computes its part of the batch at once",
    )
    tune: bool = option(
        False,
        "measure precisions, memory formats, kinds of convolution and micro-batch sizes for "
        "some seconds first, and train with the fastest",
    )
    binding: str = option(
        "core",
        "core: each rank keeps to cores of its own where there are enough; none: the "
        "operating system moves ranks as it likes",
        BINDINGS,
    )
    num_warmup_steps: int = option(5, "steps taken and undone before the clock starts")
    evaluate_every: int = option(1, "epochs between two evaluations on the test set; 0: never")
    checkpoint: str | None = option(
        None,
        "file that keeps the state of the run, and that a run which was broken off "
        "goes on from (default: none)",
    )
    stall_seconds: float = option(
        60.0,
        "seconds that a rank waits for others before it ends the run and says who is "
        "missing; 0: for ever",
    )
    checkpoint_every: float = option(
        60.0, "seconds between two checkpoints; there is one at the end too"
    )

    def __post_init__(self) -> None:
        self._coerce()
        self._check_choices()
        self._check_numbers()
        self._check_combinations()
        self._check_model()
        check_offers(self)

    def replace(self, **changes: Any) -> RunConfig:
        """Return a copy with some parameters changed; an unknown name is an error that suggests the
        nearest one."""
        return RunConfig.from_parameters({**dataclasses.asdict(self), **changes})

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Build a config from a mapping such as papermill's parameters or a record's `config`."""
        known = [f.name for f in dataclasses.fields(cls)]
        for name in parameters:
            if name not in known:
                raise ValueError(f"unknown parameter {name!r}; {_suggestion(name, known)}")
        return cls(**parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain values that survive a round trip through JSON."""
        values = dataclasses.asdict(self)
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}

    @property
    def hidden_widths(self) -> tuple[int, ...]:
        """The widths of the hidden fully connected layers, the model's default where none were
        given."""
        return DEFAULT_HIDDEN[self.model] if self.hidden is None else self.hidden

    @property
    def num_blocks(self) -> int:
        """Atomic blocks of the model: what stages are made of."""
        first = {"cnn": len(self.channels), "resnet18": 1 + NUM_RESIDUAL_BLOCKS}.get(self.model, 0)
        return first + len(self.hidden_widths) + 1

    @property
    def is_native(self) -> bool:
        """Whether the program in C++ takes the steps."""
        return self.strategy in NATIVE_STRATEGIES

    @property
    def num_stage_ranks(self) -> int:
        """Ranks that a model is cut over; the others hold copies."""
        return (self.pipeline_size or self.num_ranks) if self.strategy in PIPELINES else 1

    @property
    def pipeline(self) -> Pipeline:
        """The size of each pipeline of the run."""
        return Pipeline(
            self.num_stage_ranks,
            1 if self.schedule == "sequential" else self.num_microbatches,
            self.num_chunks if self.schedule == "interleaved" else 1,
        )

    @property
    def cuts(self) -> tuple[int, ...] | None:
        """The blocks that the later stages begin with, None where the balance is left to a rule."""
        return explicit_cuts(self.balance)

    @property
    def num_data_ranks(self) -> int:
        """Parts that a global batch is divided into; ranks that a model is cut over work on the
        same examples."""
        return 1 if self.strategy == "tensor" else self.num_ranks // self.num_stage_ranks

    @property
    def num_steps_per_epoch(self) -> int:
        """Steps in one pass over the training set, a last short batch included."""
        return math.ceil(NUM_TRAINING_EXAMPLES[self.dataset] / self.global_batch_size)

    @property
    def total_steps(self) -> int:
        """Steps that the run takes."""
        steps = self.num_epochs * self.num_steps_per_epoch
        return steps if self.num_steps is None else min(steps, self.num_steps)

    def _coerce(self) -> None:
        """Turn what YAML, JSON or a shell make of a list of widths into a tuple, then check every
        type."""
        for name in ("hidden", "channels"):
            value = getattr(self, name)
            if (
                value is not None or name == "channels"
            ):  # None stands for the default of hidden alone
                object.__setattr__(self, name, _widths(name, value))
        if isinstance(self.balance, int | list | tuple) and not isinstance(self.balance, bool):
            cuts = self.balance if isinstance(self.balance, list | tuple) else [self.balance]
            object.__setattr__(self, "balance", ",".join(map(str, cuts)))
        for field in dataclasses.fields(self):
            _check_type(field.name, str(field.type), getattr(self, field.name))

    def _check_choices(self) -> None:
        for field in dataclasses.fields(self):
            choices = field.metadata["choices"]
            value = getattr(self, field.name)
            if choices and value not in choices:
                raise ValueError(f"unknown {field.name} {value!r}; {_suggestion(value, choices)}")

    def _check_numbers(self) -> None:
        _at_least(
            self,
            1,
            "num_ranks",
            "global_batch_size",
            "num_epochs",
            "kernel_size",
            "bucket_kib",
            "num_microbatches",
            "num_chunks",
            "width",
        )
        _at_least(
            self,
            0,
            "num_threads",
            "average_every",
            "seed",
            "num_warmup_steps",
            "evaluate_every",
            "pipeline_size",
            "num_traced_steps",
            "memory_budget_mib",
            "microbatch_size",
        )
        if self.num_steps is not None:
            _at_least(self, 1, "num_steps")
        for name in ("hidden", "channels"):
            if any(width < 1 for width in getattr(self, name) or ()):
                raise ValueError(
                    f"{name}={getattr(self, name)} holds a width below 1; give positive whole"
                    " numbers"
                )
        if not (math.isfinite(self.lr) and self.lr > 0):
            raise ValueError(
                f"lr={self.lr} is not a positive number; try 0.1 for momentum or 0.001 for adam"
            )
        for name in ("checkpoint_every", "stall_seconds"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                raise ValueError(
                    f"{name}={getattr(self, name)} is no number of seconds; 60 is usual"
                )
        if not 0 <= self.momentum < 1:
            raise ValueError(f"momentum={self.momentum} is outside [0, 1); 0.9 is usual")

    def _check_combinations(self) -> None:
        num_examples = NUM_TRAINING_EXAMPLES[self.dataset]
        if self.global_batch_size > num_examples:
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is larger than the {num_examples}"
                f" training examples of {self.dataset}; take at most {num_examples}"
            )
        if self.global_batch_size < self.num_ranks and self.strategy not in (*PIPELINES, "tensor"):
            raise ValueError(
                f"global_batch_size={self.global_batch_size} is smaller than"
                f" num_ranks={self.num_ranks}; each rank needs at least one example: enlarge the"
                " batch or take fewer ranks"
            )
        if self.strategy in SINGLE_RANK_STRATEGIES and self.num_ranks != 1:
            raise ValueError(
                f"strategy {self.strategy!r} runs on one rank, not num_ranks={self.num_ranks}; "
                "set num_ranks=1 or choose a parallel strategy such as gradient_averaging"
            )
        if self.strategy == "root_worker" and not self.shard_data and self.num_ranks < 2:
            raise ValueError(
                "root_worker without shard_data has a root that does not train: num_ranks=1 leaves"
                " no worker; take at least 2 ranks"
            )
        if self.allreduce == "overlapped" and self.strategy not in (
            "gradient_averaging",
            "cpp",
            *SINGLE_RANK_STRATEGIES,
        ):
            raise ValueError(
                "allreduce='overlapped' needs a backward pass to hide behind, which"
                f" {self.strategy!r} does not offer; use gradient_averaging, or allreduce='shared'"
                " or 'mpi'"
            )
        check_cuts(self, num_examples)

    def _check_model(self) -> None:
        if self.precision == "bf16" and self.dtype != "float32":
            raise ValueError(
                f"precision='bf16' keeps weights in float32, not in dtype={self.dtype!r}; leave"
                " one out"
            )
        if self.model == "resnet18" and self.hidden:
            raise ValueError(
                f"hidden={self.hidden} is not offered by the model resnet18, which has a single"
                " fully connected layer; leave it out, or choose mlp or cnn"
            )
        remaining = IMAGE_SIZE - len(self.channels) * (self.kernel_size - 1)
        if self.model == "cnn" and remaining < 2:
            raise ValueError(
                f"kernel_size={self.kernel_size} with {len(self.channels)} convolutions leaves"
                f" nothing of a {IMAGE_SIZE}x{IMAGE_SIZE} image; take a smaller kernel or fewer"
                " channels"
            )


def _widths(name: str, value: Any) -> tuple[Any, ...]:
    """Return widths as a tuple: from a list, from a single number, or from a str such as
    "256,128"."""
    if isinstance(value, str):
        try:
            return tuple(int(width) for width in value.split(","))
        except ValueError:
            raise ValueError(
                f"{name}={value!r} is no comma-separated list of whole numbers; write it like"
                " 256,128"
            ) from None
    return tuple(value) if isinstance(value, Sequence) else (value,)


def _check_type(name: str, annotation: str, value: Any) -> None:
    """Refuse a value of another type than the field's annotation (papermill hands on whatever YAML
    made of it)."""
    if value is None and "None" in annotation:
        return
    wanted: dict[str, tuple[type, ...]] = {
        "int": (int,),
        "float": (int, float),
        "str": (str,),
        "bool": (bool,),
    }
    kind = annotation.split(" ", maxsplit=1)[0]
    if kind.startswith("tuple"):
        good = all(isinstance(item, int) and not isinstance(item, bool) for item in value)
        kind = "list of whole numbers"
    else:
        good = isinstance(value, wanted[kind]) and (kind == "bool" or not isinstance(value, bool))
    if not good:
        raise ValueError(f"{name}={value!r} is not a value of type {kind}")


def _at_least(config: RunConfig, minimum: int, *names: str) -> None:
    for name in names:
        if getattr(config, name) < minimum:
            raise ValueError(
                f"{name}={getattr(config, name)} is too small; it must be at least {minimum}"
            )


def _suggestion(value: object, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(value), known, n=1)
    return (f"did you mean {near[0]!r}? " if near else "") + "choose from " + ", ".join(known)
