"""The ideas of the course as pictures: what is copied, what is cut, who waits and what is sent."""

from __future__ import annotations

from collections.abc import Sequence

from nnpar_lib.course.picture import PALE, RANK_COLOURS, UNCOLOURED, Canvas, Picture, draw
from nnpar_lib.schedules import BACKWARD, FORWARD, Pipeline, simulate

PASS_COLOURS = {FORWARD: RANK_COLOURS[0], BACKWARD: RANK_COLOURS[2]}


def allreduce() -> Picture:
    """Draw two ranks before and after an all-reduce of three numbers."""

    def drawing(canvas: Canvas) -> None:
        numbers = ((3, 1, 4), (1, 5, 9))
        sums = [str(sum(column)) for column in zip(*numbers, strict=True)]
        canvas.heading((0.3, 4.2), "before")
        canvas.heading((6.9, 4.2), "after")
        for rank, bottom in enumerate((2.6, 0.6)):
            texts = [str(number) for number in numbers[rank]]
            canvas.text((0.3, bottom + 0.4), f"rank {rank}", ha="left")
            canvas.row((1.6, bottom), (0.7, 0.8), texts, [PALE[rank]] * 3)
            canvas.row((6.9, bottom), (0.7, 0.8), sums, [PALE[2]] * 3)
            canvas.arrow((3.8, bottom + 0.4), (4.3, 2.0))
            canvas.arrow((6.2, 2.0), (6.8, bottom + 0.4))
            canvas.text((9.2, bottom + 0.4), f"rank {rank}", ha="left")
        canvas.text((5.25, 2.0), "all-reduce:\nsum", weight="bold")

    return draw(
        4.7,
        "Before the all-reduce rank 0 holds 3, 1, 4 and rank 1 holds 1, 5, 9. After it both ranks"
        " hold the sums 4, 6, 13.",
        drawing,
    )


def serial_step() -> Picture:
    """Draw the four parts of a training step on one rank, in a circle."""

    def drawing(canvas: Canvas) -> None:
        canvas.row(
            (0.3, 1.9),
            (1.95, 1.1),
            ["batch of\nimages", "forward\npass", "loss", "backward\npass"],
            [UNCOLOURED, PALE[0], UNCOLOURED, PALE[2]],
            gap=0.65,
        )
        for left in (2.25, 4.85, 7.45):
            canvas.arrow((left, 2.45), (left + 0.65, 2.45))
        canvas.box((4.05, 0.2), (3.0, 0.8), "update of weights", colour=PALE[3])
        canvas.arrow((9.1, 1.9), (7.05, 0.6), connectionstyle="arc3,rad=-0.25")
        canvas.arrow((4.05, 0.6), (3.9, 1.9), connectionstyle="arc3,rad=-0.4")
        canvas.text((9.05, 0.7), "gradient", ha="left")
        canvas.text((2.1, 1.15), "next step")

    return draw(
        3.3,
        "A training step: a batch of images goes through the forward pass to a loss; the backward"
        " pass computes the gradient; the update changes the weights for the next step.",
        drawing,
    )


def copies() -> Picture:
    """Draw data parallelism: two copies of the model, half of the batch each, one all-reduce."""

    def drawing(canvas: Canvas) -> None:
        canvas.row((2.2, 6.3), (3.0, 0.7), ["first half", "second half"], [PALE[0], PALE[1]])
        canvas.text((0.2, 6.65), "global batch", ha="left")
        for rank, left in enumerate((0.6, 6.4)):
            middle = left + 1.7
            canvas.arrow((3.7 + 3.0 * rank, 6.3), (middle, 5.6))
            canvas.box(
                (left, 3.9), (3.4, 1.7), f"rank {rank}\ncopy of the model", colour=PALE[rank]
            )
            canvas.arrow((middle, 3.9), (middle, 3.2))
            canvas.box((left, 2.4), (3.4, 0.8), "gradient of its half", colour=PALE[rank])
            canvas.arrow((middle, 2.4), (middle, 0.95))
            canvas.box((left, 0.15), (3.4, 0.8), "the same update", colour=PALE[3])
        canvas.arrow((4.05, 2.8), (6.35, 2.8), style="<|-|>", linewidth=2)
        canvas.text((5.2, 2.15), "all-reduce:\nsum of both", weight="bold")

    return draw(
        7.2,
        "Data parallelism on two ranks: each holds a copy of the model and takes half of the global"
        " batch. An all-reduce sums their gradients, and both make the same update.",
        drawing,
    )


def stages() -> Picture:
    """Draw a batch on four stages in one piece, and in four micro-batches (GPipe)."""

    def drawing(canvas: Canvas) -> None:
        _schedule_rows(canvas, "sequential", Pipeline(4, 1), top=9.9)
        canvas.heading((0.2, 10.4), "one batch: one stage works, three wait")
        _schedule_rows(canvas, "gpipe", Pipeline(4, 4), top=4.6)
        canvas.heading((0.2, 5.2), "four micro-batches (GPipe): stages work at once")
        canvas.text((5.2, 0.25), "forward passes blue, backward passes green")

    return draw(
        10.9,
        "Above, a whole batch visits four stages one after the other and back: three of four ranks"
        " always wait. Below, four micro-batches follow each other through the stages, so that"
        " ranks work at the same time and wait only at the beginning, the turn and the end.",
        drawing,
    )


def schedule(name: str, pipeline: Pipeline) -> Picture:
    """Draw who computes which micro-batch when, with passes of one length."""
    height = pipeline.num_ranks + 0.5
    return draw(
        height,
        f"The schedule {name} on {pipeline.num_ranks} ranks with {pipeline.num_microbatches}"
        " micro-batches; forward passes are blue, backward passes green.",
        lambda canvas: _schedule_rows(canvas, name, pipeline, top=height - 0.2),
    )


def _schedule_rows(canvas: Canvas, name: str, pipeline: Pipeline, top: float) -> None:
    """Draw the simulated passes of each rank, all of one length."""
    for rank in range(pipeline.num_ranks):
        canvas.text((0.2, top - rank - 0.4), f"rank {rank}", ha="left")
    events = simulate(name, pipeline, lambda _: 1.0)
    width = (10.2 - 1.5) / max(event.end for event in events)
    for event in events:
        corner = 1.5 + event.start * width, top - event.rank - 0.8
        canvas.box(
            corner,
            (width, 0.75),
            str(event.microbatch),
            colour=PASS_COLOURS.get(event.action, RANK_COLOURS[3]),
        )


def split_layers() -> Picture:
    """Draw a pair of layers cut for two ranks: the first by its outputs, the second by its
    inputs."""

    def drawing(canvas: Canvas) -> None:
        canvas.heading((0.2, 9.3), "first layer, cut by outputs: no message")
        canvas.box((0.4, 6.2), (1.8, 1.8), "X\nwhole")
        canvas.text((2.6, 7.1), "×")
        canvas.row((3.0, 6.2), (1.2, 1.8), ["A₀", "A₁"], RANK_COLOURS[:2])
        canvas.text((5.9, 7.1), "=")
        canvas.row((6.4, 6.2), (1.3, 1.8), ["Y₀", "Y₁"], RANK_COLOURS[:2])
        canvas.text((3.6, 8.4), "rank 0", color=RANK_COLOURS[0])
        canvas.text((4.85, 8.4), "rank 1")
        canvas.heading((0.2, 5.0), "second layer, cut by inputs: one sum")
        canvas.row((0.4, 2.0), (0.9, 1.8), ["Y₀", "Y₁"], RANK_COLOURS[:2])
        canvas.text((2.6, 2.9), "×")
        canvas.box((3.0, 2.95), (2.4, 0.9), "B₀", colour=RANK_COLOURS[0])
        canvas.box((3.0, 1.95), (2.4, 0.9), "B₁", colour=RANK_COLOURS[1])
        canvas.text((5.9, 2.9), "=")
        canvas.box((6.4, 2.3), (1.4, 1.2), "Y₀B₀", colour=RANK_COLOURS[0])
        canvas.text((8.1, 2.9), "+")
        canvas.box((8.4, 2.3), (1.4, 1.2), "Y₁B₁", colour=RANK_COLOURS[1])
        canvas.text((5.2, 0.7), "each rank has one addend; the + is an all-reduce", weight="bold")

    return draw(
        9.8,
        "A pair of layers on two ranks. The first weight matrix is cut by columns: each rank"
        " computes its own outputs from the whole input. The second is cut by rows: each rank"
        " multiplies its features and holds one addend of the result, which an all-reduce sums.",
        drawing,
    )


def three_cuts() -> Picture:
    """Draw what two ranks share of a model of four layers in each kind of parallelism."""

    def drawing(canvas: Canvas) -> None:
        canvas.text((1.9, 7.0), "copies", weight="bold")
        for rank, left in enumerate((0.3, 2.1)):
            _layers(canvas, left, (1.4,), [PALE[rank : rank + 1]] * 4)
        canvas.text((5.2, 7.0), "stages", weight="bold")
        _layers(canvas, 4.2, (2.0,), [PALE[:1]] * 2 + [PALE[1:2]] * 2)
        canvas.text((8.6, 7.0), "layers cut inside", weight="bold")
        _layers(canvas, 7.4, (1.2, 1.2), [PALE[:2]] * 4)
        for place, text in zip(
            (1.9, 5.2, 8.6),
            (
                "sent: gradients\nof all weights",
                "sent: activations\nat one border",
                "sent: sums\nof every pair",
            ),
            strict=True,
        ):
            canvas.text((place, 1.25), text)
        canvas.row((3.2, 0.1), (2.0, 0.55), ["rank 0", "rank 1"], PALE[:2])

    return draw(
        7.4,
        "Four layers on two ranks in three ways. Copies: each rank has all layers, and gradients of"
        " all weights are sent. Stages: each rank has two whole layers, and activations at one"
        " border are sent. Layers cut inside: each rank has half of every layer, and sums of every"
        " pair of layers are sent.",
        drawing,
    )


def _layers(
    canvas: Canvas, left: float, widths: Sequence[float], colours: Sequence[Sequence[str]]
) -> None:
    """Draw layers from below, each of boxes with these widths and colours."""
    for layer, row in enumerate(colours):
        corner = left
        for width, colour in zip(widths, row, strict=True):
            canvas.box((corner, 2.0 + 1.15 * layer), (width, 0.85), f"W{layer + 1}", colour=colour)
            corner += width


def ring(num_ranks: int = 4, step: int = 0) -> Picture:
    """Draw the parts of each rank's buffer after a number of steps of a ring all-reduce.

    A part is written as the ranks whose addends it holds. In step s < p - 1 rank r sends part
    r - s to rank r + 1, which adds it; in the later steps complete parts are passed on.
    """
    parts, arrived = _ring_state(num_ranks, step)
    width = 8.4 / num_ranks
    height = 1.0

    def drawing(canvas: Canvas) -> None:
        canvas.heading((0.2, height * num_ranks + 1.75), _ring_title(num_ranks, step))
        for rank in range(num_ranks):
            left = 1.8 + rank * width
            canvas.text((left + width / 2, height * num_ranks + 1.0), f"rank {rank}")
            for index in range(num_ranks):
                held = parts[rank][index]
                is_new = (rank, index) in arrived
                canvas.box(
                    (left + 0.08, 0.65 + height * (num_ranks - 1 - index)),
                    (width - 0.16, height - 0.15),
                    "+".join(map(str, sorted(held))),
                    colour=PALE[2] if len(held) == num_ranks else PALE[1] if is_new else UNCOLOURED,
                    linewidth=2.4 if is_new else 0.8,
                )
        for index in range(num_ranks):
            middle = 0.65 + height * (num_ranks - 1 - index) + 0.42
            canvas.text((0.2, middle), f"part {index}", ha="left")
        canvas.text((5.2, 0.25), "bold: just arrived; green: complete")

    return draw(height * num_ranks + 2.2, _ring_words(num_ranks, step, parts), drawing)


def _ring_state(
    num_ranks: int, num_steps: int
) -> tuple[list[list[set[int]]], set[tuple[int, int]]]:
    """Return the addends in each rank's parts after some steps, and what arrived in the last."""
    parts = [[{rank} for _ in range(num_ranks)] for rank in range(num_ranks)]
    arrived: set[tuple[int, int]] = set()
    for step in range(num_steps):
        arrived = set()
        before = [[set(part) for part in row] for row in parts]
        for rank in range(num_ranks):
            target = (rank + 1) % num_ranks
            index = (rank - step) % num_ranks  # the second half goes on with the same rule
            parts[target][index] |= before[rank][index]
            arrived.add((target, index))
    return parts, arrived


def _ring_title(num_ranks: int, step: int) -> str:
    if step == 0:
        return f"{num_ranks} ranks: before the first step"
    phase = "reduce-scatter" if step < num_ranks else "all-gather"
    return f"step {step} of {2 * (num_ranks - 1)}: {phase}"


def _ring_words(num_ranks: int, step: int, parts: list[list[set[int]]]) -> str:
    complete = sum(len(part) == num_ranks for row in parts for part in row)
    return (
        f"A ring all-reduce of {num_ranks} ranks, each with {num_ranks} parts, after {step} steps:"
        f" {complete} of {num_ranks**2} parts are complete sums."
    )
