"""How quiet a machine was while it was measured, as a table: a row for each moment and model."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import machines
from nnpar_lib.records.kinds import Record

COLUMNS = [
    *("moment", "time", "model", "again_low", "again_high"),
    *("at_once", "busy_cores", "waited_seconds", "load_average"),
]


def table(records: Iterable[Record]) -> pd.DataFrame:
    """Return what was measured of the noise at each moment, in the order of measurement.

    Columns: the `moment` and its `time` of day, UTC; the `model`; the extremes of a run's rate over
    that of the same run, `again_low` and `again_high`; the rate of each of several independent runs
    `at_once`, over that of one alone; `busy_cores` of others and the seconds that were waited for
    them; the load average. A moment that was measured again is shown as it was the last time. An
    empty table where there are no records.
    """
    by_moment: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        campaign = record.provenance.get("campaign", {})
        if "moment" in campaign:
            times = by_moment.setdefault(campaign["moment"], {})
            times.setdefault(campaign["at"], []).append(record)
    last = sorted((max(times.items()) for times in by_moment.values()), key=lambda item: item[0])
    return pd.DataFrame([row for _, same in last for row in _rows(same)], columns=COLUMNS)


def _rows(records: list[Record]) -> list[dict[str, Any]]:
    campaign = records[0].provenance["campaign"]
    shared = {
        "moment": campaign["moment"],
        "time": campaign["at"][11:16],
        "busy_cores": campaign.get("busy_cores"),
        "waited_seconds": campaign.get("waited_seconds"),
        "load_average": records[0].provenance["load_average"],
    }
    return [
        {**shared, "model": model, "at_once": _at_once(numbers), **numbers}
        for model, numbers in machines.noise(records).items()
    ]


def _at_once(numbers: dict[str, float]) -> float | None:
    return next((value for label, value in numbers.items() if label.endswith("at once")), None)
