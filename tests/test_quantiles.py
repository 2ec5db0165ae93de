"""Quantiles by counting, against NumPy's, which sorts."""

import numpy as np
import pytest

from src.scoring.quantiles import quantiles

SHARES = np.array([0, 0.001, 0.25, 1 / 3, 0.5, 0.75, 0.999, 1])


@pytest.mark.parametrize("columns", [1, 5])
@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_quantiles_are_those_of_numpy_to_the_last_digit(rows: int, columns: int) -> None:
    values = np.random.default_rng(rows).normal(0, 1e-3, (rows, columns)).astype(np.float32)
    parts = [values[: rows // 3], values[rows // 3 :]]
    np.testing.assert_array_equal(quantiles(parts, SHARES), np.quantile(values, SHARES, axis=0))


def test_equal_values_zeros_and_what_is_no_number() -> None:
    rng = np.random.default_rng(0)
    values = np.round(rng.normal(0, 2, (500, 3))).astype(np.float32)
    values[:, 1] = -0.25
    values[rng.random(values.shape) < 0.3] = np.nan
    values[0] = 0
    np.testing.assert_array_equal(
        quantiles([values], SHARES), np.nanquantile(values, SHARES, axis=0)
    )
