"""Pictures with sliders that need no kernel: every frame is computed before, and lies in the page.

Where no script runs, such as in a printed page, an explorer is the picture of its middle frame.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import predictions
from nnpar_lib.analysis.cost.predictions import STRATEGIES, AssumedMachine
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.course import cost_pictures, pictures
from nnpar_lib.course.picture import RANK_COLOURS, Picture, plot
from nnpar_lib.schedules import BACKWARD, FORWARD, Pipeline

NUM_STAGES = (2, 3, 4, 6, 8)
NUM_MICROBATCHES = (1, 2, 4, 8, 16)
NUM_LAYERS = 64  # of the network whose cost is explored
COST_CHOICES = {
    "ranks": (2, 8, 16),
    "batch": (64, 256, 1024),
    "alpha (microseconds)": (1, 10, 50),
    "1/beta (GB/s)": (1, 12, 150),
}
ACTIONS = (FORWARD, BACKWARD)  # any other pass has the third colour

Choices = Mapping[str, Sequence[Any]]

ATTACH = """
document.querySelectorAll('[data-explorer="%s"]').forEach(element => {
  const frames = %s, inputs = [...element.querySelectorAll("input")];
  const image = element.querySelector("img"), words = element.querySelector("p");
  const address = %s;
  const show = () => {
    inputs.forEach(i => i.nextElementSibling.textContent = i.dataset.names.split("|")[i.value]);
    const [frame, text] = frames[inputs.map(i => i.value).join()];
    image.src = address(frame); image.alt = words.textContent = text;
  };
  inputs.forEach(input => { input.disabled = false; input.oninput = show; });
});
"""

# a frame of a schedule: ranks, ticks, then rank, start, micro-batch and kind of each pass, and the
# length of a pass in ticks
DRAW_SCHEDULE = """([ranks, ticks, length, ...passes]) => {
  const height = 30 * ranks + 4, scale = 400 / ticks, colours = %s;
  let svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 ${height}"
    font-family="sans-serif" font-size="13.5"><rect width="480" height="${height}" fill="white"/>`;
  for (let rank = 0; rank < ranks; rank++)
    svg += `<text x="4" y="${30 * rank + 21}">rank ${rank}</text>`;
  for (let i = 0; i < passes.length; i += 4) {
    const [rank, start, batch, kind] = passes.slice(i, i + 4), width = length * scale;
    const x = 70 + start * scale, y = 30 * rank + 3;
    svg += `<rect x="${x}" y="${y}" width="${width}" height="26" fill="${colours[kind]}"
      stroke="white"/>`;
    if (width > 16) svg += `<text x="${x + width / 2}" y="${y + 18}" text-anchor="middle"
      fill="${kind == 1 ? "black" : "white"}">${batch}</text>`;
  }
  return "data:image/svg+xml," + encodeURIComponent(svg + "</svg>");
}"""

# a frame of costs: ranks, then the speedup, milliseconds and MB of each strategy, or null
DRAW_COSTS = """([ranks, ...costs]) => {
  const names = %s, colours = %s, height = 48 * names.length;
  let svg = `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 480 ${height}"
    font-family="sans-serif" font-size="13.5"><rect width="480" height="${height}" fill="white"/>`;
  names.forEach((name, i) => {
    const y = 48 * i, cost = costs[i];
    const words = cost ? `${cost[0]} times, ${cost[1]} ms, ${cost[2]} MB a rank` : "cannot run";
    svg += `<text x="4" y="${y + 18}">${name}: ${words}</text>
      <rect x="4" y="${y + 25}" width="472" height="14" fill="none" stroke="#767676"/>`;
    if (cost) svg += `<rect x="4" y="${y + 25}" width="${Math.min(472, 472 * cost[0] / ranks)}"
      height="14" fill="${colours[i]}"/>`;
  });
  return "data:image/svg+xml," + encodeURIComponent(svg + "</svg>");
}"""


@dataclass(frozen=True)
class Explorer:
    """A page element with one slider for each choice, and its picture without a script."""

    html: str
    picture: Picture

    def _repr_mimebundle_(self, **_: object) -> Mapping[str, str]:
        return {"text/html": self.html, "text/plain": f"[picture] {self.picture.alt}"}


def of_pictures(choices: Choices, drawing: Callable[..., Picture]) -> Explorer:
    """Return an explorer of the pictures that a function draws, one for each combination."""
    frames = {}
    for indices in _combinations(choices):
        picture = drawing(*_values(choices, indices))
        frames[indices] = (picture.address(), picture.alt)
    return _explorer(choices, frames, drawing(*_values(choices, _middle(choices))), "x => x")


def of_schedules() -> Explorer:
    """Return an explorer of pipeline schedules: who computes which micro-batch when."""
    choices: Choices = {
        "schedule": schedules.SCHEDULES,
        "stages": NUM_STAGES,
        "micro-batches": NUM_MICROBATCHES,
    }
    frames = {
        indices: _schedule_frame(*_values(choices, indices)) for indices in _combinations(choices)
    }
    colours = json.dumps([RANK_COLOURS[0], RANK_COLOURS[2], RANK_COLOURS[3]])
    name, num_ranks, num_microbatches = _values(choices, _middle(choices))
    picture = pictures.schedule(name, Pipeline(num_ranks, num_microbatches, _num_chunks(name)))
    return _explorer(choices, frames, picture, DRAW_SCHEDULE % colours)


def of_ring(num_ranks: int = 4) -> Explorer:
    """Return an explorer of the steps of a ring all-reduce."""
    choices = {"step": range(2 * (num_ranks - 1) + 1)}
    return of_pictures(choices, lambda step: pictures.ring(num_ranks, step))


def of_time_to_goal() -> Explorer:
    """Return an explorer of the time to a goal over the batch size: S(B) times seconds a step."""
    choices = {"B_crit": (64, 256, 1024, 4096), "ranks": (1, 4, 16)}
    return of_pictures(choices, _time_to_goal)


def _time_to_goal(b_crit: int, num_ranks: int) -> Picture:
    """Draw (1 + B_crit/B)(t0 + t1 B/p) with a step's fixed part t0 worth 64 examples.

    Its minimum is at sqrt(B_crit p t0 / t1): the derivative t1/p - B_crit t0/B^2 is zero there.
    """
    fixed = 64.0
    batches = np.geomspace(4, 2**14, 100)
    seconds = (1 + b_crit / batches) * (fixed + batches / num_ranks)
    best = (b_crit * num_ranks * fixed) ** 0.5

    def drawing(ax: Axes) -> None:
        ax.loglog(batches, seconds, color=RANK_COLOURS[0], linewidth=2)
        ax.axvline(b_crit, color=RANK_COLOURS[1], linestyle="--")
        ax.text(b_crit * 1.1, 4e4, "B_crit")
        lowest = (1 + b_crit / best) * (fixed + best / num_ranks)
        ax.plot([best], [lowest], "o", color="black")
        ax.text(
            best, lowest * 0.7, f"fastest: {best:.0f}", ha="center", va="top", backgroundcolor="w"
        )
        ax.set(xlabel="batch size B", ylabel="time to the goal", yticks=[], ylim=(40, 1e5))
        ax.minorticks_off()

    return plot(
        5.6,
        f"With B_crit = {b_crit} and p = {num_ranks} the time to the goal is least at a batch of"
        f" about {best:.0f} examples.",
        drawing,
    )


def of_costs(machine: AssumedMachine) -> Explorer:
    """Return an explorer of the predicted speed of each strategy, on ranks like those of a machine.

    The network has 64 layers of 1,024 features; the sliders set ranks, batch and price of a
    message.
    """
    frames = {
        indices: _cost_frame(machine, *_values(COST_CHOICES, indices))
        for indices in _combinations(COST_CHOICES)
    }
    (num_ranks, *costs), words = frames[_middle(COST_CHOICES)]
    names = [name.replace("_", " ") for name in STRATEGIES]
    picture = cost_pictures.predicted_costs(num_ranks, dict(zip(names, costs, strict=True)), words)
    drawing = DRAW_COSTS % (json.dumps(names), json.dumps(RANK_COLOURS))
    return _explorer(COST_CHOICES, frames, picture, drawing)


def _cost_frame(
    machine: AssumedMachine, num_ranks: int, batch: int, microseconds: float, gigabytes: float
) -> tuple[list[Any], str]:
    """Return the numbers that the script draws, and which strategy is predicted to be fastest."""
    message = AlphaBeta(microseconds * 1e-6, 1e-9 / gigabytes)
    table = predictions.predict(
        replace(machine, message=message),
        num_ranks=num_ranks,
        global_batch_size=batch,
        num_layers=NUM_LAYERS,
    )
    numbers = table[["speedup", "seconds", "memory_bytes"]].to_numpy() * (1, 1e3, 1e-6)
    rounded = {
        str(strategy): [float(f"{number:.3g}") for number in row]
        for strategy, row in zip(table["strategy"], numbers, strict=True)
    }
    best = max(rounded, key=lambda name: rounded[name][0])
    words = (
        f"Of all ways on {num_ranks} ranks, {best.replace('_', ' ')} is predicted to be fastest:"
        f" {rounded[best][0]:g} times the speed of one rank, {rounded[best][1]:g} ms a step."
    )
    return [num_ranks, *(rounded.get(name) for name in STRATEGIES)], words


def _schedule_frame(name: str, num_ranks: int, num_microbatches: int) -> tuple[list[float], str]:
    """Return the numbers that the script draws, and what they show in words."""
    pipeline = Pipeline(num_ranks, num_microbatches, _num_chunks(name))
    length = 1 / pipeline.num_chunks
    events = schedules.simulate(name, pipeline, lambda _: length)
    ticks = max(event.end for event in events)
    numbers: list[float] = [num_ranks, ticks, length]
    for event in events:
        kind = ACTIONS.index(event.action) if event.action in ACTIONS else len(ACTIONS)
        numbers += [event.rank, event.start, event.microbatch, kind]
    live = schedules.peak_live_microbatches(name, pipeline, 0)
    words = (
        f"{name}: idle {schedules.bubble_fraction(events, num_ranks):.0%} of the time, at most"
        f" {live} forward passes await their backward pass on rank 0."
    )
    return [round(number, 4) for number in numbers], words


def _num_chunks(name: str) -> int:
    return 2 if name == "interleaved" else 1


def _combinations(choices: Choices) -> list[tuple[int, ...]]:
    return list(itertools.product(*(range(len(values)) for values in choices.values())))


def _values(choices: Choices, indices: Sequence[int]) -> list[Any]:
    return [values[index] for values, index in zip(choices.values(), indices, strict=True)]


def _middle(choices: Choices) -> tuple[int, ...]:
    return tuple(len(values) // 2 for values in choices.values())


def _explorer(
    choices: Choices, frames: Mapping[tuple[int, ...], Any], picture: Picture, address: str
) -> Explorer:
    """Return sliders, the picture of the middle frame, and the script that changes the picture."""
    middle = _middle(choices)
    sliders = "".join(
        _slider(name, values, index)
        for (name, values), index in zip(choices.items(), middle, strict=True)
    )
    data = json.dumps({",".join(map(str, key)): frame for key, frame in frames.items()})
    data = data.replace("</", "<\\/")
    number = hashlib.sha256(data.encode()).hexdigest()[:12]
    html = (
        f'<div data-explorer="{number}">{sliders}{picture.image()}'
        f'<p aria-live="polite">{escape(frames[middle][1])}</p>'
        f"<script>{ATTACH % (number, data, address)}</script></div>"
    )
    return Explorer(html, picture)


def _slider(name: str, values: Sequence[Any], index: int) -> str:
    names = escape("|".join(map(str, values)))
    return (
        f'<label style="display: inline-block; margin-right: 2em">{escape(name)} <input disabled'
        f' type="range" min="0" max="{len(values) - 1}" value="{index}" data-names="{names}">'
        f" <output>{escape(str(values[index]))}</output></label>"
    )
