"""One function of many items in other processes: the same results in the same order."""

import os
from functools import partial

import joblib
import pytest

from src.scoring.processes import AT_ONCE, FEW, in_order


def power(exponent: int, item: int) -> tuple[int, int]:
    return item**exponent, os.getpid()


@pytest.mark.parametrize("count", [0, 1, FEW - 1, FEW, 3 * AT_ONCE * 4 + 5])
def test_results_come_in_order_from_this_process_or_others(count, monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    results = list(in_order(partial(power, 2), range(count)))
    assert [result for result, _ in results] == [item**2 for item in range(count)]
    elsewhere = {process for _, process in results} - {os.getpid()}
    assert bool(elsewhere) == (count >= FEW)


def fail(item: int) -> int:
    if item == 50:
        raise ValueError("item 50")
    return item


def test_an_error_reaches_the_caller(monkeypatch):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    with pytest.raises(ValueError, match="item 50"):
        list(in_order(fail, range(100)))
