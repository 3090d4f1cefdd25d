"""Random configs of everything that is offered end where serial training ends, on 2 to 4 ranks."""

from nnpar_lib.config.sections import OPTIONS
from tests.conftest import run_mpi
from tests.mpi import random_equality
from tests.mpi.random_equality import CHOICES, COMBINATIONS, DEFAULTS, FIXED, MAX_RANKS, NUMBERS

NUM_CASES = len(COMBINATIONS)  # each strategy with each model


def test_random_configs_end_where_serial_training_ends():
    words = ("-m", "tests.mpi.random_equality", "--num-cases", NUM_CASES)
    process = run_mpi(MAX_RANKS, *words, timeout=280)
    assert process.returncode == 0, process.stderr[-3000:]
    excesses = random_equality.read(process.stdout)
    assert len(excesses) == NUM_CASES
    assert {config: excess for config, excess in excesses.items() if not excess < 1} == {}


def test_the_same_configs_are_drawn_each_time():
    assert random_equality.drawn(0, 3) == random_equality.drawn(0, 3)


def test_every_option_is_drawn_or_left_out_on_purpose():
    assert {*CHOICES, *NUMBERS, *FIXED, *DEFAULTS} == set(OPTIONS)
