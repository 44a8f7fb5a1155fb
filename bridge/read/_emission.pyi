import numpy as np
from numpy.typing import NDArray

from bridge.lake.grouped import GroupedRows
from bridge.lake.window_rows import WindowRows
from bridge.read.kinds import Emission
from bridge.wire.columns import I64Array

class Emitter:
    """Rows that are checked and counted, and what leaves of some slots of them.

    Attributes:
        counts: (slots,) int64, how many samples leave at most. Not counted are windows that no
            evaluation looks at. Close to the truth but for the ends of the span, where samples are
            left out.
    """

    counts: I64Array

    def __init__(self, rows: WindowRows, emission: Emission) -> None:
        """Looks at all rows.

        Args:
            rows: with at least the columns that `columns_of` the emission names; retained.
            emission: how they leave.

        Raises:
            ValueError: a column is missing or the columns differ in length; offsets or windows do
                not ascend, or a window does not hold its samples.
        """

    def emit(self, begin: int, end: int, counters: NDArray[np.int8] | None) -> GroupedRows:
        """The samples of slots, in strictly ascending order of time for each.

        Args:
            begin: the first slot.
            end: behind the last one.
            counters: (slots,) int8, of all slots: 1 for a counter, 0 for none, -1 if that is not
                known; None if nothing is known. INSTANT alone looks at it, and takes what is not
                known for a counter if it behaves like one.

        Raises:
            ValueError: not one counter for each slot, or slots that there are not.
        """

def emit(
    rows: WindowRows, emission: Emission, counters: NDArray[np.int8] | None = None
) -> GroupedRows:
    """The samples of all slots; arguments and errors as of `Emitter`."""

def count_points(rows: WindowRows, emission: Emission) -> I64Array:
    """The counts of an `Emitter`."""
