"""A recorder for a CPU: it keeps the operations of the work it records, with their very tensors,
and does them again.

What it has of a CUDA graph: numbers are those of the record, and only what lies in tensors can
change; results appear in the tensors in which they appeared then; recording does nothing by itself,
and nothing may be read back meanwhile.
"""

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Keeps every operation while it is entered, and what was in the tensors that they write to."""

    def __init__(self):
        super().__init__()
        self.calls, self.before = [], []

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in operation.name(), "recorded work reads a number back"
        kwargs = kwargs or {}
        self.before += [(tensor, tensor.clone()) for tensor in written(operation, args, kwargs)]
        found = operation(*args, **kwargs)
        self.calls.append((operation, args, kwargs, found))
        return found

    @torch.no_grad()
    def undo(self):
        for tensor, value in reversed(self.before):
            tensor.copy_(value)
        self.before.clear()

    @torch.no_grad()
    def replay(self):
        for operation, args, kwargs, found in self.calls:
            again = operation(*args, **kwargs)
            for then, now in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if isinstance(then, torch.Tensor) and then.data_ptr() != now.data_ptr():
                    then.copy_(now)


def written(operation, args, kwargs):
    """Return the tensors that an operation writes to."""
    places = [
        (position, argument.name)
        for position, argument in enumerate(operation._schema.arguments)
        if argument.alias_info is not None and argument.alias_info.is_write
    ]
    values = [
        args[position] if position < len(args) else kwargs.get(name) for position, name in places
    ]
    return [leaf for leaf in tree_leaves(values) if isinstance(leaf, torch.Tensor)]


class TapeRecorder:
    """What stands for `cuda_graph.CudaRecorder` in a test; counts what it is asked for."""

    def __init__(self):
        self.num_rehearsals = self.num_records = self.num_replays = 0

    def rehearse(self, work):
        self.num_rehearsals += 1
        work()

    def record(self, work):
        self.num_records += 1
        with Tape() as tape:
            work()
        tape.undo()  # so that the replay is what is tested

        def replay():
            self.num_replays += 1
            tape.replay()

        replay()
        return replay
