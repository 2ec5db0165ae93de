"""From a finished run to a model folder, which predicts new data by itself."""

import os
import shutil
from pathlib import Path
from typing import Any

from src.artifacts import lineage, sealed
from src.artifacts.digests import digest_files
from src.artifacts.files import replacing, replacing_folder
from src.artifacts.model_folder import files_of, weights_within
from src.artifacts.run import Run
from src.recipe import to_toml
from src.report import card
from src.scoring.unlike import familiar
from src.stages import submit
from src.terminal import console, environment
from src.terminal.errors import UserError


def bundle(run: Run, folder: Path, packed: bool = False) -> None:
    """Write the model folder, and (`packed`) a zip of it beside it.

    Raises:
        UserError: the run is not finished.
    """
    lineage.check_prepared(run)
    with run.locked():
        if not submit.is_done(run, lineage.submission(run)):
            raise UserError(
                f"{run.submission('.json')} is not up to date: run {lineage.STAGES[4]} "
                f"{run.recipe.name} first"
            )
        result = sealed.read_json(run.submission(".json"))
        zipped = folder.with_name(f"{folder.name}.zip")
        zipped.unlink(missing_ok=True)  # of an earlier run
        with replacing_folder(folder) as partial:
            _write(run, result, partial)
        if packed:
            with replacing(zipped) as partial:
                shutil.make_archive(str(partial), "zip", folder)
                os.replace(f"{partial}.zip", partial)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    console.say(f"{folder / 'card.md'} says what it is for and how good it is")
    console.summary(f"{folder}: {len(run.tasks())} networks, {size / 1e6:.1f} MB")


def _write(run: Run, result: dict[str, Any], folder: Path) -> None:
    toml = to_toml(run.recipe, run.competition.kind)
    (folder / "recipe.toml").write_text(toml, encoding="utf-8")
    for task in run.tasks():
        place = folder / weights_within(task)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(sealed.verified(run.weights(task)), place)
    content = _content(run, result)
    (folder / "card.md").write_text(card.text(run, content), encoding="utf-8")
    files = {name: digest_files([folder / name]) for name in sorted(files_of(run.recipe))}
    inputs = {
        "train": sealed.fingerprint(run.prepared("train")),
        "selection": sealed.fingerprint(run.selection),
    }
    sealed.write_json(folder / "decisions.json", {**content, "files": files}, inputs)


def _content(run: Run, result: dict[str, Any]) -> dict[str, Any]:
    """What decisions.json holds but the digests."""
    kept = ("metric", "oof_score", "oof_by_group", "expected_score", "expected_interval")
    kept += ("judgement", "calibration")
    return {
        "recipe": run.recipe.name,
        "competition": run.competition.name,
        "kind": run.competition.kind,
        **{name: result[name] for name in kept if name in result},
        "training": run.training(),
        "decisions": run.decisions(),
        "familiar": familiar(run.modality.features(run, "train")),
        "commit": environment.commit(),
    }
