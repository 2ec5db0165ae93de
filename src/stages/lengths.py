"""What tasks are called, and how long they take beside each other."""

from src.artifacts.run import Run
from src.recipe import Task


def lengths(calls: list[tuple[Run, Task]], training: bool) -> list[float]:
    """How long each task takes beside the others: by the operations of its network."""
    costs: dict[tuple[str, str], float] = {}
    for run, task in calls:
        key = (run.recipe.name, task.member)
        if key not in costs:
            costs[key] = run.modality.cost(run.recipe.member(task.member), training)
    return [costs[run.recipe.name, task.member] for run, task in calls]


def names(calls: list[tuple[Run, Task]]) -> list[str]:
    """What tells tasks apart: member and fold, and where there are several, seed and recipe."""
    recipes = len({run.recipe.name for run, _ in calls}) > 1
    return [
        f"{run.recipe.name + ': ' if recipes else ''}{task.member}, fold {task.fold}"
        f"{f', seed {task.seed}' if len(run.recipe.seeds) > 1 else ''}"
        for run, task in calls
    ]
