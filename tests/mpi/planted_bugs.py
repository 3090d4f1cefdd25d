"""Run by mpiexec on 4 ranks: a catalogue of bugs of parallel training, and which check catches
which.

    mpiexec -n 4 python -m tests.mpi.planted_bugs

prints the table. Each bug is a step function that is right but for one thing.
"""

import json
from functools import partial

import torch
from torch import nn

from nnpar_lib import verify
from nnpar_lib.config.environment import launched_rank

loss_sum = partial(nn.functional.cross_entropy, reduction="sum")
loss_mean = nn.functional.cross_entropy


def summed(tensor, communicator):
    """Return the sum of a tensor over the ranks, the same on all of them."""
    total = torch.empty_like(tensor)
    communicator.Allreduce(tensor.contiguous().numpy(), total.numpy())
    return total


def right(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        parameter.grad = summed(parameter.grad, communicator) / part.num_global_examples


def mean_of_means(model, part, communicator):
    if len(part.targets):
        loss_mean(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        parameter.grad = summed(gradient, communicator) / communicator.size


def sum_instead_of_mean(model, part, communicator):
    right(model, part, communicator)
    for parameter in model.parameters():
        parameter.grad *= communicator.size


def undivided_sum(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        parameter.grad = summed(parameter.grad, communicator)


def last_rank_left_out(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    is_last = communicator.size > 1 and communicator.rank == communicator.size - 1
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if is_last else parameter.grad
        parameter.grad = summed(gradient, communicator) / part.num_global_examples


def no_exchange(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        parameter.grad *= communicator.size / part.num_global_examples


def reused_receive_buffer(model, part, communicator):
    """Receive from all ranks into the same buffer, and add it when all have arrived."""
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        total = parameter.grad.contiguous().clone()
        if communicator.rank == 0:
            buffer = torch.empty_like(total)
            for source in range(1, communicator.size):
                communicator.Recv(buffer.numpy(), source)
            for _ in range(1, communicator.size):
                total += buffer
        else:
            communicator.Send(total.numpy(), 0)
        communicator.Bcast(total.numpy(), 0)
        parameter.grad = total / part.num_global_examples


def padded_last_batch(model, part, communicator):
    """Make all parts as long as the longest, by repeating an example."""
    length = -(-part.num_global_examples // communicator.size)
    inputs, targets = part.inputs, part.targets
    if 0 < len(targets) < length:
        inputs, targets = torch.cat([inputs, inputs[-1:]]), torch.cat([targets, targets[-1:]])
    loss_sum(model(inputs), targets).backward()
    for parameter in model.parameters():
        parameter.grad = summed(parameter.grad, communicator) / part.num_global_examples


def microbatch_means(model, part, communicator):
    """Average the means of micro-batches of two, though the last may hold only one example."""
    num_microbatches = max(1, -(-len(part.targets) // 2))
    for inputs, targets in zip(part.inputs.split(2), part.targets.split(2), strict=True):
        if len(targets):
            (loss_mean(model(inputs), targets) / num_microbatches).backward()
    for parameter in model.parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        weighted = gradient * len(part.targets)
        parameter.grad = summed(weighted, communicator) / part.num_global_examples


def last_parameter_forgotten(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    *exchanged, last = model.parameters()
    for parameter in exchanged:
        parameter.grad = summed(parameter.grad, communicator) / part.num_global_examples
    last.grad *= communicator.size / part.num_global_examples


def exchanged_in_float32(model, part, communicator):
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        total = summed(parameter.grad.float(), communicator)
        parameter.grad = total.double() / part.num_global_examples


def every_rank_in_its_order(model, part, communicator):
    """Add up the gradients of all ranks, each rank beginning with its own."""
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        gradients = communicator.allgather(parameter.grad)
        total = parameter.grad.clone()
        for distance in range(1, communicator.size):
            total += gradients[(communicator.rank + distance) % communicator.size]
        parameter.grad = total / part.num_global_examples


class StaleWeights:
    """Compute the gradient on a copy of the weights, which lags a step behind."""

    def __init__(self):
        self.copies = {}

    def __call__(self, model, part, communicator):
        now = [parameter.detach().clone() for parameter in model.parameters()]
        older = self.copies.get(communicator.size, now)
        with torch.no_grad():
            for parameter, old in zip(model.parameters(), older, strict=True):
                parameter.copy_(old)
        right(model, part, communicator)
        with torch.no_grad():
            for parameter, new in zip(model.parameters(), now, strict=True):
                parameter.copy_(new)
        self.copies[communicator.size] = now


def update(model, part, communicator, optimizer):
    optimizer.zero_grad()
    right(model, part, communicator)
    optimizer.step()


def gradients_not_cleared(model, part, communicator, optimizer):
    loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        parameter.grad = summed(parameter.grad, communicator) / part.num_global_examples
    optimizer.step()


def updated_on_one_rank(model, part, communicator, optimizer):
    """Update on rank 0, and forget to send the weights to the others."""
    optimizer.zero_grad()
    right(model, part, communicator)
    if communicator.rank == 0:
        optimizer.step()


def momentum(model):
    return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def save_weights(model, optimizer):
    return model.state_dict()


def load_weights(saved, model, optimizer):
    model.load_state_dict(saved)


class Centred(nn.Module):
    """Learns nothing, and keeps the mean of all inputs: what batch normalisation does, too."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(6))

    def forward(self, inputs):
        if self.training and len(inputs):
            self.running_mean.mul_(0.9).add_(0.1 * inputs.mean(dim=0))
        return inputs


def with_statistics():
    return nn.Sequential(Centred(), nn.Linear(6, 3))


BUGS = {
    "none": (right, {}),
    "none, with an optimizer": (update, {"optimizer": momentum}),
    "mean of means over uneven parts": (mean_of_means, {}),
    "sum of means instead of their mean": (sum_instead_of_mean, {}),
    "sum that is not divided": (undivided_sum, {}),
    "a rank left out": (last_rank_left_out, {}),
    "no exchange": (no_exchange, {}),
    "reused receive buffer": (reused_receive_buffer, {}),
    "short batch filled up with repeated examples": (padded_last_batch, {}),
    "wrong scale of micro-batches": (microbatch_means, {}),
    "a parameter forgotten in the exchange": (last_parameter_forgotten, {}),
    "exchange in float32": (exchanged_in_float32, {}),
    "every rank adds in an order of its own": (every_rank_in_its_order, {}),
    "stale weights": (StaleWeights(), {}),
    "gradients not set to zero": (gradients_not_cleared, {"optimizer": momentum}),
    "update on one rank only": (updated_on_one_rank, {"optimizer": momentum}),
    "momentum lost at a resume": (
        update,
        {"optimizer": momentum, "save": save_weights, "load": load_weights},
    ),
    "statistics of one rank only": (right, {"model": with_statistics}),
}


def table(caught):
    """Return the catalogue as text: a line a bug, a column a check, and on how many ranks."""
    width = max(map(len, caught))
    head = f"{'':<{width}}  " + "  ".join(f"{check:^16}" for check in verify.CHECKS)
    lines = [head.rstrip()]
    for bug, counts in caught.items():
        cells = [",".join(map(str, counts.get(check, []))) or "-" for check in verify.CHECKS]
        lines.append(f"{bug:<{width}}  " + "  ".join(f"{cell:^16}" for cell in cells))
    return "\n".join(line.rstrip() for line in lines)


def main():
    caught = {}
    words = {}
    for bug, (step, options) in BUGS.items():
        report = verify.check(step, **options)
        caught[bug] = {}
        for check, num_ranks in report.failed:
            caught[bug].setdefault(check, []).append(num_ranks)
        words[bug] = report.explanations()
    if launched_rank() == 0:
        print("Numbers of ranks on which a check catches a bug:\n")
        print(table(caught))
        print("RESULT " + json.dumps({"caught": caught, "words": words}))


if __name__ == "__main__":
    main()
