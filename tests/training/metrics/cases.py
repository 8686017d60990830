"""Random logits with true classes."""

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp


@st.composite
def cases(draw: st.DrawFn) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    n, k = draw(st.integers(1, 20)), draw(st.integers(2, 12))
    finite = st.floats(-1e4, 1e4, width=32)
    logits = draw(hnp.arrays(np.float32, (n, k), elements=finite))
    return logits, draw(hnp.arrays(np.uint8, n, elements=st.integers(0, k - 1)))
