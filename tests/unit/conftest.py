"""What every unit test needs."""

import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def settings_of_figures_kept():
    """Undo what a test sets for all figures: the theme moves titles, which others then look for."""
    with mpl.rc_context():
        yield
