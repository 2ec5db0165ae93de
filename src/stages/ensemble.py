"""Stage 03: average all tasks by name; select thresholds and refinement out of fold."""

from src.artifacts import lineage
from src.artifacts.run import Run
from src.artifacts.sealed import up_to_date
from src.scoring import averaging
from src.terminal import console


def ensemble(run: Run, force: bool = False) -> None:
    """Write the averages of all tasks, and what is selected on those out of fold."""
    lineage.check_prepared(run)
    with run.locked():
        lineage.check_prepared(run)
        inputs = lineage.ensemble(run)
        selected = select(run, force)
        if not force and up_to_date(run.ensemble, inputs):
            console.summary(f"{run.ensemble} is up to date{selected and f': {selected}'}")
            return
        counts = averaging.write(run, inputs)
    told = " and ".join(f"{count} {part}" for part, count in counts.items())
    console.say(f"{run.ensemble}: {told} images from {len(run.tasks())} tasks")
    console.summary(f"averaged: {selected or 'what is selected was up to date'}")


def select(run: Run, force: bool = False) -> str:
    """Select out of fold, unless that is up to date; returns a line about what is selected."""
    if not force and up_to_date(run.selection, lineage.selection(run)):
        return ""
    return run.modality.select(run)
