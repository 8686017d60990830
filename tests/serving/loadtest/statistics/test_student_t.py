import pytest
from scipy.stats import t

from hangtag.serving.loadtest.statistics.student_t import critical_value


@pytest.mark.parametrize("freedom", [*range(1, 13), 29, 30, 99, 100, 1001])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.99])
def test_the_quantile_is_scipys(freedom: int, confidence: float) -> None:
    assert critical_value(freedom, confidence) == pytest.approx(t.ppf((1 + confidence) / 2, freedom), rel=1e-9)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="1 degree of freedom or more, not 0"):
        critical_value(0)
    with pytest.raises(ValueError, match="between 0 and 1, not at 95"):
        critical_value(3, 95)
