"""The figure of crossovers, from times that are known."""

import matplotlib.pyplot as plt
import pytest

from nnpar_lib.analysis.cost import allreduce_algorithms
from nnpar_lib.analysis.cost.allreduce_algorithms import Prices
from nnpar_lib.analysis.figures import allreduce_plots
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.records.kinds import AllreduceRecord

SIZES = [1_000, 100_000]
PRICES = Prices(message=AlphaBeta(1e-6, 1e-9), addition=AlphaBeta(0, 1e-10))


def test_every_way_is_drawn_over_the_ring_and_labelled():
    records = [
        AllreduceRecord(
            allreduce=kind,
            num_ranks=2,
            num_elements=size,
            dtype="float32",
            seconds=[factor * size * 1e-9] * 3,
            provenance={},
            oversubscribed=False,
        )
        for kind, factor in (("ring", 1), ("mpi", 3), ("tree", 2))
        for size in SIZES
    ]
    table = allreduce_algorithms.compare(records, PRICES)
    ax = allreduce_plots.crossovers(table)
    drawn = [list(line.get_ydata()) for line in ax.lines]
    assert [pytest.approx([3, 3]), pytest.approx([2, 2])] == [
        next(y for y in drawn if y == pytest.approx([factor, factor])) for factor in (3, 2)
    ]
    labels = " ".join(text.get_text() for text in ax.texts)
    assert "MPI Allreduce" in labels and "ring" in labels and "tree" in labels
    plt.close(ax.figure)
