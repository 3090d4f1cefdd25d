"""What a machine or a number of repeats cannot do is refused before anything is started."""

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import preflight


@pytest.mark.parametrize(
    ("num_repeats", "message"),
    [(0, "num_repeats=0 is too small"), (10**30, f"num_repeats={10**30} is too large; .* 100000")],
)
def test_a_number_of_repeats_that_cannot_be_done_is_refused(num_repeats, message):
    with pytest.raises(ValueError, match=message):
        preflight.check_repeats([RunConfig()], num_repeats)
