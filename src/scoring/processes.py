"""One function of many images, on all cores."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import joblib

Item, Result = TypeVar("Item"), TypeVar("Result")
FEW = 48  # items: another process takes longer to start
AT_ONCE = 8  # items that a process is given


def in_order(function: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
    """`function` of each item, in their order; no more results wait in memory than the processes
    make at once.

    Args:
        function: what pickle takes along, such as a `partial` of a function of a module.
    """
    jobs = min(joblib.cpu_count(), -(-len(items) // AT_ONCE))
    if jobs < 2 or len(items) < FEW:
        yield from map(function, items)
        return
    call = joblib.delayed(_each)
    with joblib.Parallel(n_jobs=jobs) as pool:
        for some in _cut(items, jobs * AT_ONCE):
            for results in pool(call(function, own) for own in _cut(some, AT_ONCE)):
                yield from results


def _cut(items: Sequence[Item], size: int) -> Iterator[Sequence[Item]]:
    """Stretches of `size` items."""
    return (items[first : first + size] for first in range(0, len(items), size))


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
