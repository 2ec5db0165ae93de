"""A trained model predicts new data: the stages do it, from its folder instead of a training."""

import shutil
from contextlib import ExitStack
from typing import Any

from src.artifacts import hdf5, lineage, sealed
from src.artifacts.files import replacing_folder, write_text
from src.artifacts.run import Run
from src.stages import submit
from src.stages.ensemble import ensemble
from src.stages.predict import predict
from src.stages.prepare import prepare
from src.tasks.parallel import Options
from src.terminal import console

KINDS = ("masks", "probabilities")  # folders of OUTPUT


def apply(run: Run, options: Options, probabilities: bool = False) -> dict[str, Any]:
    """Predict the new data of a run by `src.modality.open_model`, unless that is done.

    Returns:
        `images`: what is said of each well or photograph, by its name; and `refused`: a line for
        each file that could not be read, which the others do not wait for.
    """
    prepare(run)
    predict(run, options)
    ensemble(run)
    with run.locked():
        inputs = lineage.submission(run) | {"probabilities": str(probabilities)}
        if not submit.is_done(run, inputs):
            _write(run, inputs, probabilities)
        result = sealed.read_json(run.submission(".json"))
    console.tell("\n".join(run.modality.describe_new(result["images"])))
    for line in result["refused"]:
        console.say(f"not predicted: {line}")
    return result


def _write(run: Run, inputs: sealed.Inputs, probabilities: bool) -> None:
    submit.write_masks(run)
    submit.write_codes(run)
    for kind in KINDS:  # of an earlier run, perhaps of other data
        shutil.rmtree(run.submissions / kind, ignore_errors=True)
    kinds = KINDS if probabilities else KINDS[:1]
    with ExitStack() as stack:
        places = {k: stack.enter_context(replacing_folder(run.submissions / k)) for k in kinds}
        run.modality.write_new(run, places)
    lines, page = run.modality.report_new(run)
    write_text(run.submission(".html"), page)
    about = hdf5.metadata(run.prepared("test"))
    result = {"recipe": run.recipe.name, "refused": about["refused"], "images": lines}
    files = sealed.listed(run.submission(end) for end in (".csv", "_official.csv", ".html"))
    for kind in kinds:
        own = sealed.listed(sorted((run.submissions / kind).iterdir()))
        files |= {f"{kind}/{name}": digest for name, digest in own.items()}
    sealed.write_json(run.submission(".json"), {**result, "files": files}, inputs)
