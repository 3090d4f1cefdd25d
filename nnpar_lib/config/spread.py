"""How a training step is spread over ranks: the strategy and what each strategy reads."""

from __future__ import annotations

from dataclasses import dataclass

from nnpar_lib.config.option import METHOD, Section, option
from nnpar_lib.parts import explicit_cuts
from nnpar_lib.schedules import SCHEDULES, Pipeline

STRATEGIES = (
    "serial",
    "tutorial",
    "gradient_averaging",
    "weight_averaging",
    "root_worker",
    "sharded",
    "torch_ddp",
    "torch_fsdp",
    "pipeline",
    "tensor",
    "hybrid",
    "torch_pipelining",
    "cpp",
    "cpp_weight_averaging",
)
NATIVE_STRATEGIES = ("cpp", "cpp_weight_averaging")  # the program in C++
SINGLE_RANK_STRATEGIES = ("serial", "tutorial")
PIPELINES = ("pipeline", "hybrid", "torch_pipelining")  # cut the model into stages
OF_TORCH_DISTRIBUTED = ("torch_ddp", "torch_fsdp", "torch_pipelining")
# Backends of torch.distributed, and the device whose tensors each of them sums.
BACKEND_DEVICES = {"nccl": "cuda", "gloo": "cpu"}
# All-reduces from plain messages, and the composition of two of them.
ALGORITHMS = ("ring", "recursive_doubling", "rabenseifner", "tree")
READ_ALGORITHMS = ("gradient_averaging", "weight_averaging")  # strategies that sum by them
TWO_LEVEL = "two_level"
OF_MESSAGES = (*ALGORITHMS, TWO_LEVEL)
ALLREDUCES = ("shared", "mpi", "overlapped", *OF_MESSAGES, *BACKEND_DEVICES)
# What ranks divide instead of each holding all of it: stages 1, 2 and 3 of ZeRO.
SHARDS = ("optimizer", "gradients", "weights")


@dataclass(frozen=True, kw_only=True)
class Spread(Section):
    """Over how many ranks a step is spread, and in which way."""

    strategy: str = option(
        "serial", "how a training step is spread over ranks", STRATEGIES, role=METHOD
    )
    num_ranks: int = option(1, "number of processes (MPI ranks)", role=METHOD, minimum=1)
    allreduce: str = option(
        "shared",
        "what sums the buffers of ranks: shared memory, one blocking MPI call (mpi), MPI in "
        "buckets during the backward pass (overlapped), an algorithm from plain messages (ring, "
        "recursive_doubling, rabenseifner, tree), one inside nodes and one between them "
        "(two_level), or torch.distributed over nccl (one GPU a rank) or gloo (CPU)",
        ALLREDUCES,
        role=METHOD,
        read_by={
            "strategy": (
                "gradient_averaging",
                "weight_averaging",
                "sharded",
                *NATIVE_STRATEGIES,
            )
        },
        native=("shared", "mpi", "overlapped"),
    )
    inside_nodes: str = option(
        "tree",
        "what sums the buffers of the ranks of a node",
        ALGORITHMS,
        role=METHOD,
        read_by={"strategy": READ_ALGORITHMS, "allreduce": (TWO_LEVEL,)},
    )
    between_nodes: str = option(
        "rabenseifner",
        "what sums the buffers of the first ranks of all nodes",
        ALGORITHMS,
        role=METHOD,
        read_by={"strategy": READ_ALGORITHMS, "allreduce": (TWO_LEVEL,)},
    )
    ranks_per_node: int = option(
        0,
        "ranks that are taken for a node; 0 asks MPI which ranks share one",
        role=METHOD,
        read_by={"strategy": READ_ALGORITHMS, "allreduce": (TWO_LEVEL,)},
        minimum=0,
    )
    bucket_kib: int = option(
        512,
        "size of a bucket, in KiB",
        role=METHOD,
        read_by={"strategy": ("gradient_averaging",), "allreduce": ("overlapped",)},
        minimum=1,
    )
    average_every: int = option(
        0,
        "steps between two averages; 0 averages once an epoch",
        role=METHOD,
        read_by={"strategy": ("weight_averaging", "cpp_weight_averaging")},
        minimum=0,
    )
    shard_data: bool = option(
        True,
        "each rank trains on its own shard and the root trains too; "
        "without it each worker goes through the whole set",
        role=METHOD,
        read_by={"strategy": ("root_worker",)},
    )
    ddp_tuned: bool = option(
        False,
        "DDP as a careful user sets it: a fused optimizer, gradients as views of one bucket, a "
        "static graph; without it as it comes",
        role=METHOD,
        read_by={"strategy": ("torch_ddp",)},
    )
    shard: str = option(
        "weights",
        "what ranks divide: the optimizer's state, gradients too, or weights too, which are then"
        " gathered block by block (stages 1, 2 and 3 of ZeRO)",
        SHARDS,
        role=METHOD,
        read_by={"strategy": ("sharded",)},
    )
    prefetch: bool = option(
        True,
        "exchange a block's weights and gradient while the next block computes",
        role=METHOD,
        read_by={
            "strategy": ("sharded",),
            "shard": ("gradients", "weights"),
            "allreduce": ("mpi",),
        },
    )
    schedule: str = option(
        "1f1b",
        "in which order a pipeline computes its micro-batches",
        SCHEDULES,
        role=METHOD,
        read_by={"strategy": PIPELINES},
    )
    num_microbatches: int = option(
        4,
        "micro-batches that a pipeline cuts a batch into",
        role=METHOD,
        read_by={"strategy": PIPELINES, "schedule": SCHEDULES[1:]},
        minimum=1,
    )
    num_chunks: int = option(
        2,
        "stages that each rank holds",
        role=METHOD,
        read_by={"strategy": PIPELINES, "schedule": ("interleaved",)},
        minimum=1,
    )
    pipeline_size: int = option(
        0,
        "ranks of each pipeline; 0 puts all ranks into one",
        role=METHOD,
        read_by={"strategy": ("hybrid",)},
        minimum=0,
    )
    balance: str = option(
        "layers",
        "how a model is cut into stages: layers (as many blocks each), measured (by a "
        "short profile), or the blocks that later stages begin with, such as 1,3",
        role=METHOD,
        read_by={"strategy": PIPELINES},
    )

    def __post_init__(self) -> None:
        balance: object = self.balance
        if isinstance(balance, int) and not isinstance(balance, bool):
            self._set("balance", str(balance))
        if isinstance(balance, list | tuple):
            self._set("balance", ",".join(map(str, balance)))
        super().__post_init__()
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
        self._check_allreduce()
        if self.strategy in PIPELINES:
            self._check_pipeline_size()

    @property
    def is_native(self) -> bool:
        """Whether the program in C++ takes the steps."""
        return self.strategy in NATIVE_STRATEGIES

    @property
    def prefetches(self) -> bool:
        """Whether blocks are exchanged while others compute."""
        return self.prefetch and self.allreduce == "mpi" and self.shard != "optimizer"

    def num_owners(self, part: str) -> int:
        """Return how many ranks of a node divide what is one of `SHARDS`."""
        is_divided = SHARDS.index(part) <= SHARDS.index(self.shard)
        return self.num_ranks if self.strategy == "sharded" and is_divided else 1

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
        """The blocks that the later stages begin with, None where a rule chooses them."""
        return explicit_cuts(self.balance)

    @property
    def num_data_ranks(self) -> int:
        """Parts that a global batch is divided into.

        Ranks that a model is cut over work on the same examples.
        """
        return 1 if self.strategy == "tensor" else self.num_ranks // self.num_stage_ranks

    def _check_allreduce(self) -> None:
        """Refuse a way to sum gradients where none are summed, or not all at once.

        Strategies of one rank ignore it, for notebooks sweep strategies with it.
        """
        overlapping = ("gradient_averaging", "cpp", *SINGLE_RANK_STRATEGIES)
        if self.allreduce == "overlapped" and self.strategy not in overlapping:
            raise ValueError(
                "allreduce='overlapped' needs a backward pass to hide behind, which"
                f" {self.strategy!r} does not offer; use gradient_averaging, or allreduce='shared'"
                " or 'mpi'"
            )
        by_messages = (*READ_ALGORITHMS, *SINGLE_RANK_STRATEGIES)
        if self.allreduce in OF_MESSAGES and self.strategy not in by_messages:
            raise ValueError(
                f"allreduce={self.allreduce!r} is not offered by strategy {self.strategy!r}; use"
                f" {' or '.join(READ_ALGORITHMS)}, or allreduce='shared' or 'mpi'"
            )
        through_torch = ("gradient_averaging", *SINGLE_RANK_STRATEGIES)
        if self.allreduce in BACKEND_DEVICES and self.strategy not in through_torch:
            raise ValueError(
                f"allreduce={self.allreduce!r} is not offered by strategy {self.strategy!r}; use"
                " gradient_averaging, or allreduce='shared' or 'mpi'"
            )

    def _check_pipeline_size(self) -> None:
        if self.strategy != "hybrid" and self.num_stage_ranks != self.num_ranks:
            raise ValueError(
                f"pipeline_size={self.pipeline_size} is not num_ranks={self.num_ranks}, and"
                f" {self.strategy!r} has one pipeline; leave pipeline_size out, or use the strategy"
                " hybrid"
            )
        if self.num_ranks % self.num_stage_ranks:
            divisors = [n for n in range(1, self.num_ranks + 1) if self.num_ranks % n == 0]
            raise ValueError(
                f"pipeline_size={self.num_stage_ranks} does not divide num_ranks={self.num_ranks};"
                f" choose from {', '.join(map(str, divisors))}"
            )
