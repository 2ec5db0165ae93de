"""Stage 00: raw images -> data/prepared/<name>/train.h5 and test.h5, clean arrays keyed by name."""

from pathlib import Path

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.digests import digest
from src.artifacts.files import replacing, replacing_folder
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs
from src.report import data
from src.terminal import console
from src.terminal.errors import UserError


def prepare(run: Run, force: bool = False) -> None:
    """Write the prepared files that are not up to date; generates raw files where a competition
    does.
    """
    with run.locked_raw():
        if not force and not _is_stale(run):
            console.summary(f"{run.prepared_folder} is up to date")
            return
        generate(run, force)
        with run.locked_prepared(shared=False):  # others may have prepared it meanwhile
            splits = [split for split in run.splits if force or split in _stale_splits(run, True)]
            for line in run.modality.prepare(run, splits) if splits else ():
                console.tell(line)
            if data.is_due(run):
                found = data.write(run).found() or "nothing in it deserves a look"
                console.say(f"data report: {run.data_report}; {found}")
    counts = {"training" if s == "train" else s: _count(run, s) for s in run.splits}
    told = " and ".join(f"{count} {split}" for split, count in counts.items())
    console.summary(f"prepared {run.prepared_folder}: {told} images")


def _count(run: Run, split: str) -> int:
    return hdf5.shape(run.prepared(split), "image")[0]


def _is_stale(run: Run) -> bool:
    if run.competition.generate and not _is_generated(run):
        return True
    with run.locked_prepared():  # to look is not to disturb those who read it
        return bool(_stale_splits(run)) or data.is_due(run)


def _stale_splits(run: Run, quiet: bool = False) -> list[str]:
    """The splits whose prepared files are not up to date; the test's hangs on the training's."""
    stale: list[str] = []
    for split in run.splits:
        path = run.prepared(split)
        known = not stale and path.is_file()
        if not known or not sealed.up_to_date(path, lineage.prepared(run, split), quiet):
            stale.append(split)
    return stale


def _generated_from(run: Run) -> Inputs:
    return {"generate": digest(run.recipe.generate)}


def _is_generated(run: Run, quiet: bool = False) -> bool:
    """Whether a generated competition's raw files are there, undamaged, with these settings."""
    if not sealed.up_to_date(run.generated, _generated_from(run), quiet):
        return False
    sound = sealed.read_json(run.generated)["files"] == _digest_generated(run, run.raw, run.truth)
    if not sound and not quiet:
        told = "is damaged (the checksum does not fit): generated again"
        console.say(f"{run.raw} or {run.truth} {told}")
    return sound


def generate(run: Run, force: bool = False) -> None:
    """Let a competition generate its raw files, unless they are there.

    Raises:
        UserError: the raw folder holds files that were not generated.
    """
    if not run.competition.generate or (not force and _is_generated(run, quiet=True)):
        return
    if run.raw.exists() and not run.generated.is_file():
        raise UserError(
            f"{run.raw} holds files that were not generated: move them away, this folder is for "
            "generated wells"
        )
    # The truth gets its name first: a marker without its truth would pass for a whole set.
    with replacing_folder(run.raw) as folder, replacing(run.truth) as truth:
        run.competition.generate(folder, truth, run.recipe.generate)
        files = _digest_generated(run, folder, truth)
        sealed.write_json(folder / run.generated.name, {"files": files}, _generated_from(run))
    console.say(f"{run.raw}: wells generated from seed {run.recipe.generate.seed}")


def _digest_generated(run: Run, folder: Path, truth: Path) -> dict[str, str] | None:
    """Digests of all that was generated, whatever the truth is called; None where it lacks."""
    try:
        files = run.competition.files(folder, run.recipe.data)
        names = sealed.listed(path for split in files.values() for path in split)
        return names | {"truth": digest(truth.read_bytes())}
    except (UserError, FileNotFoundError):
        return None
