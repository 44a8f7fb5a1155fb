"""Names for the numpy arrays that travel between the parts."""

from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

F64Array: TypeAlias = NDArray[np.float64]
I32Array: TypeAlias = NDArray[np.int32]
I64Array: TypeAlias = NDArray[np.int64]
U8Array: TypeAlias = NDArray[np.uint8]
U32Array: TypeAlias = NDArray[np.uint32]
