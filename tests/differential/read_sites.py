"""When the servers are asked.

Three long ranges are the marks of the suite; short ones and instants lie in each part of the lake
(see `read_world`) and across the borders between them. A site is one of

    RAW     nothing but raw samples can answer it: everything is equal
    FINE    evaluations lie where windows of the level end that is used
    ROUGH   they do not, or what is left is coarser than what is asked
"""

from dataclasses import dataclass
from enum import Enum

from tests.differential.read_data import DAY_MS, END_MS, START_MS
from tests.differential.read_world import FIVE_MINUTES_AFTER_MS, RAW_AFTER_MS
from tests.integration.promql import Evaluation

HOUR_S, DAY_S = 3600.0, 86400.0
START_S, END_S = START_MS / 1000, END_MS / 1000
RAW_S, FIVE_MINUTES_S = RAW_AFTER_MS / 1000, FIVE_MINUTES_AFTER_MS / 1000
assert DAY_MS == DAY_S * 1000


class Grade(Enum):
    """What a site asks of the bridge."""

    RAW = "raw"
    FINE = "fine"
    ROUGH = "rough"


@dataclass(frozen=True)
class Site:
    """One time, or range of times.

    Args:
        name: for people.
        when: the evaluation.
        grade: which bound holds.
        width: of the windows of the coarsest level that may have to do.
        is_mark: whether it is one of the three long ranges.
    """

    name: str
    when: Evaluation
    grade: Grade
    width: str = "1h"
    is_mark: bool = False

    @property
    def near(self) -> str:
        """The range that stands for the word NEAR: the lookback, and a window on both sides."""
        return "[125m] offset -1h" if self.width == "1h" else "[15m] offset -5m"


def _range(start_s: float, length_s: float, step_s: float) -> Evaluation:
    return Evaluation(start_s, start_s + length_s, step_s)


_MORNING_S = 9 * DAY_S + 10 * HOUR_S  # a time in each part, 10:00 of its tenth day
_UNEVEN_S = 17 * 60 + 23.457
_RAW, _FINE, _ROUGH = Grade.RAW, Grade.FINE, Grade.ROUGH

SITES: tuple[Site, ...] = (
    Site(
        "60 d by 12 h",
        Evaluation(START_S + 12 * HOUR_S, END_S, 12 * HOUR_S),
        _FINE,
        is_mark=True,
    ),
    Site("40 d by 6 h", _range(END_S - 40 * DAY_S, 40 * DAY_S, 6 * HOUR_S), _FINE, is_mark=True),
    Site("30 d by 1 h", _range(END_S - 30 * DAY_S, 30 * DAY_S, HOUR_S), _FINE, is_mark=True),
    Site("8 d by 1 h, 1h to 5m", _range(FIVE_MINUTES_S - 4 * DAY_S, 8 * DAY_S, HOUR_S), _FINE),
    Site(
        "30 d by 12 h, off the grid",
        _range(START_S + 15 * DAY_S + 433, 30 * DAY_S, 12 * HOUR_S),
        _ROUGH,
    ),
    Site("15 s, raw", _range(RAW_S + _MORNING_S, 1200, 15), _RAW, "5m"),
    Site("15 s, 5m", _range(FIVE_MINUTES_S + _MORNING_S, 1200, 15), _ROUGH, "5m"),
    Site("15 s, 1h", _range(START_S + _MORNING_S, 1200, 15), _ROUGH),
    Site("15 s, 5m to raw", _range(RAW_S - 600, 1200, 15), _ROUGH, "5m"),
    Site("15 s, 1h to 5m", _range(FIVE_MINUTES_S - 600, 1200, 15), _ROUGH),
    Site("5 m, raw", _range(RAW_S + _MORNING_S, 8 * HOUR_S, 300), _FINE, "5m"),
    Site("5 m, 5m", _range(FIVE_MINUTES_S + _MORNING_S, 8 * HOUR_S, 300), _FINE, "5m"),
    Site("5 m, 1h", _range(START_S + _MORNING_S, 8 * HOUR_S, 300), _ROUGH),
    Site("5 m, 5m to raw", _range(RAW_S - 4 * HOUR_S, 8 * HOUR_S, 300), _FINE, "5m"),
    Site("5 m, 1h to 5m", _range(FIVE_MINUTES_S - 4 * HOUR_S, 8 * HOUR_S, 300), _ROUGH),
    *(
        Site(f"{what} instant, {level}", Evaluation(start_s + _MORNING_S + shift_s), grade)
        for level, start_s in (("raw", RAW_S), ("5m", FIVE_MINUTES_S), ("1h", START_S))
        for what, shift_s, grade in (("even", 0.0, _FINE), ("uneven", _UNEVEN_S, _ROUGH))
    ),
)


# The last evaluations look at samples that a reader may have itself.
TO_THE_END = Site("2 d by 1 h to the end", _range(END_S - 2 * DAY_S, 2 * DAY_S, HOUR_S), _FINE)
# Every five minutes of the parts in which rollups are all there is, off their windows.
PARTS = {
    level: Site(
        f"5 m, all of {level}", _range(start_s + DAY_S + 137, 18 * DAY_S, 300), _ROUGH, level
    )
    for level, start_s in (("1h", START_S), ("5m", FIVE_MINUTES_S))
}
