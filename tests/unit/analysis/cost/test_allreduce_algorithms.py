"""Predicted all-reduces against Thakur's formulas, counted messages and times that are known."""

import pytest

from nnpar_lib.analysis.cost import allreduce_algorithms
from nnpar_lib.analysis.cost.allreduce_algorithms import FORMULAS, Prices
from nnpar_lib.analysis.cost.cost_model import Machine
from nnpar_lib.analysis.scaling import AlphaBeta
from nnpar_lib.config.spread import ALGORITHMS
from nnpar_lib.records.kinds import AllreduceRecord, MessageRecord

ALPHA, BETA, GAMMA = 1e-6, 2e-9, 5e-10
PRICES = Prices(message=AlphaBeta(ALPHA, BETA), addition=AlphaBeta(0, GAMMA))
N = 1e6
SIZES = [1_000, 10_000, 100_000]


@pytest.mark.parametrize("p", [1, 2, 4, 8, 16])
def test_powers_of_two_cost_what_the_paper_says(p):
    lg = p.bit_length() - 1
    least = 2 * N * (p - 1) / p * BETA + N * (p - 1) / p * GAMMA
    expected = {
        "ring": 2 * (p - 1) * ALPHA + least,
        "recursive_doubling": lg * (ALPHA + N * BETA + N * GAMMA),
        "rabenseifner": 2 * lg * ALPHA + least,
        "tree": 2 * lg * (ALPHA + N * BETA) + lg * N * GAMMA,
    }
    seconds = {kind: formula(N, p, PRICES) for kind, formula in FORMULAS.items()}
    assert seconds == pytest.approx(expected)
    assert tuple(FORMULAS) == ALGORITHMS


def test_other_numbers_of_ranks_pay_for_folding():
    step = ALPHA + N * BETA + N * GAMMA
    back = ALPHA + N * BETA
    assert FORMULAS["recursive_doubling"](N, 3, PRICES) == pytest.approx(2 * step + back)
    assert FORMULAS["tree"](N, 3, PRICES) == FORMULAS["tree"](N, 4, PRICES)


def test_two_levels_send_less_between_nodes():
    dear = Prices(message=AlphaBeta(1e-4, 1e-7), addition=PRICES.addition)
    flat = FORMULAS["ring"](N, 32, dear)
    levels = {"inside": ("tree", PRICES), "between": ("ring", dear)}
    seconds = allreduce_algorithms.two_level(N, 4, 8, **levels)
    broadcast = 3 * PRICES.message.seconds(N)
    parts = FORMULAS["tree"](N, 8, PRICES) + FORMULAS["ring"](N, 4, dear) + broadcast
    assert seconds == pytest.approx(parts)
    assert seconds < flat


def test_a_machine_predicts_by_the_formula_what_it_has_not_measured():
    machine = Machine(message=PRICES.message, allreduces={}, addition=PRICES.addition)
    assert machine.allreduce(N, 4, "tree") == FORMULAS["tree"](N, 4, PRICES)
    measured = Machine(message=PRICES.message, allreduces={"tree": AlphaBeta(1, 0)})
    assert measured.allreduce(N, 2, "tree") == 2


def message(num_bytes, **seconds):
    return MessageRecord(
        num_bytes=num_bytes, seconds=[1.0], provenance={}, oversubscribed=False, **seconds
    )


def sum_of(kind, size, seconds):
    return AllreduceRecord(
        allreduce=kind,
        num_ranks=2,
        num_elements=size,
        dtype="float32",
        seconds=[seconds],
        provenance={},
        oversubscribed=False,
    )


def test_prices_are_fitted_to_exchanges_and_additions():
    records = [
        message(size, exchange_seconds=[ALPHA + size * BETA], add_seconds=[size * GAMMA])
        for size in SIZES
    ]
    fitted = allreduce_algorithms.prices(records)
    assert fitted.message.alpha == pytest.approx(ALPHA)
    assert fitted.message.beta == pytest.approx(BETA)
    assert fitted.addition.beta == pytest.approx(GAMMA)


def test_messages_of_an_older_sweep_give_no_prices():
    with pytest.raises(ValueError, match="no exchanges"):
        allreduce_algorithms.prices([message(size) for size in SIZES])


def test_what_was_measured_stands_beside_what_was_predicted():
    records = [sum_of("ring", size, 2e-6) for size in SIZES]
    records += [sum_of("mpi", size, 1e-9 * size) for size in SIZES]
    records.append(message(1_000))
    table = allreduce_algorithms.compare(records, PRICES).set_index(["allreduce", "num_elements"])
    ring = table.loc["ring", 1_000]
    assert ring["predicted"] == FORMULAS["ring"](4_000, 2, PRICES)
    assert ring["error"] == pytest.approx(ring["predicted"] / 2e-6 - 1)
    assert ring["bandwidth"] == ring["bus_bandwidth"] == 4_000 / 2e-6  # 2(p-1)/p is 1 on two ranks
    assert table["predicted"].isna().groupby("allreduce").all().to_dict() == {
        "mpi": True,
        "ring": False,
    }
    crossover = allreduce_algorithms.crossovers(table.reset_index())
    assert crossover[["first", "second"]].to_numpy().tolist() == [["mpi", "ring"]]
    assert crossover["num_elements"].tolist() == pytest.approx([2_000])
    best = allreduce_algorithms.fastest(table.reset_index())
    assert best["allreduce"].tolist() == ["mpi", "ring", "ring"]


def test_few_numbers_want_few_messages_and_many_want_short_ones():
    table = allreduce_algorithms.predict([1, 10**7], 8, PRICES)
    best = allreduce_algorithms.fastest(table)["allreduce"].tolist()
    assert best[0] == "recursive_doubling" and best[1] in ("ring", "rabenseifner")
