"""A study of regimes refuses wrong parameters in one line before anything is searched."""

import pytest

from nnpar_lib.config.study import StudyConfig


@pytest.mark.parametrize(
    ("parameters", "value", "remedy"),
    [
        ({"num_trials": 1.5}, "num_trials=1.5", "type int"),
        ({"num_trials": 0}, "num_trials=0", "at least 1"),
        ({"num_seeds": True}, "num_seeds=True", "type int"),
        ({"max_steps": 1e400}, "max_steps=inf", "type int"),
        ({"max_steps": 10**400}, f"max_steps={10**400}", f"at most {2**63 - 1}"),
        ({"batch_sizes": (1.5,)}, "batch_sizes=(1.5,)", "list of whole numbers"),
        ({"batch_sizes": 1.5}, "batch_sizes=(1.5,)", "list of whole numbers"),
        ({"batch_sizes": "16"}, "batch_sizes=('16',)", "list of whole numbers"),
        ({"channels": (8, "x")}, "channels=(8, 'x')", "list of whole numbers"),
        ({"goal_errors": 10}, "goal_errors=10", "fractions between 0 and 1"),
        ({"model": 3}, "model=3", "type str"),
    ],
)
def test_a_wrong_value_is_refused_in_one_line_that_names_it_and_the_remedy(
    parameters, value, remedy
):
    with pytest.raises(ValueError) as caught:
        StudyConfig(**parameters)
    message = str(caught.value)
    assert value in message
    assert remedy in message
    assert len(message.splitlines()) == 1


def test_lists_and_single_numbers_are_taken_as_papermill_gives_them():
    study = StudyConfig(batch_sizes=[16, 64], goal_errors=[0.1], channels=8)
    assert (study.batch_sizes, study.goal_errors, study.channels) == ((16, 64), (0.1,), (8,))
