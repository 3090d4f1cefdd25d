"""What every unit test needs."""

import matplotlib as mpl
import pytest


@pytest.fixture(autouse=True)
def usual_settings_of_figures():
    """Let each test draw with the settings of matplotlib, whatever others have set for all figures:
    the theme moves titles, and a fixture of a module sets it before the first test has begun."""
    with mpl.rc_context():
        mpl.rcdefaults()
        yield
