"""What each artifact is made from: the whole graph, one function an artifact.

artifact                    made from
train.h5                    the raw training files, [data] and [folds]
test.h5                     the raw test files, [data], and train.h5 for its scaling
weights.safetensors         train.h5, the member's section, the task's name, fold and seed
oof.h5                      train.h5, the weights, [inference]
test.h5 of a task           test.h5, the weights, [inference], and where an image classifier rejects
                            images first, the selection and the classifier's own predictions
<recipe>_selection.h5       every task's oof.h5, [postprocess]
<recipe>.h5                 every task's oof.h5 and test.h5
<recipe>.json, .csv, ...    the ensemble's inputs and the selection

Where a trained model predicts new data, its folder stands for train.h5, weights and selection.

Nothing here writes or computes: an artifact is named by the checksum that it carries.
"""

from pathlib import Path

from src.artifacts.digests import digest, digest_files
from src.artifacts.hdf5 import legible
from src.artifacts.run import Run
from src.artifacts.sealed import Inputs, fingerprint, inputs_of, up_to_date
from src.recipe import Member, Task
from src.terminal.errors import UserError

# Raise it when the meaning of a stored array or the default of a recipe's key changes: every
# artifact made before is then made anew.
FORMAT = 3
STAGES = (
    "00_prepare_data.py",
    "01_train_folds.py",
    "02_predict.py",
    "03_ensemble.py",
    "04_postprocess.py",
)


def prepared(run: Run, split: str) -> Inputs:
    """Inputs of train.h5 or test.h5."""
    files = run.competition.files(run.raw, run.recipe.data)[split]
    inputs = {"raw": digest_files(files), **_settings(run, split)}
    if split == "train":
        return inputs
    trained = run.model.decisions if run.model else run.prepared("train")
    return inputs | {"train": fingerprint(trained)}


def _settings(run: Run, split: str) -> Inputs:
    """The sections of a recipe that its prepared files depend on."""
    recipe, data = run.recipe, run.recipe.data
    if split == "train":
        data = data.model_copy(update={"missing_test": "error"})  # a matter of the test set
    sections = {"format": str(FORMAT), "data": digest(data), "generate": digest(recipe.generate)}
    return sections | ({"folds": digest(recipe.folds)} if split == "train" else {})


def check_prepared(run: Run) -> None:
    """
    Raises:
        UserError: a prepared file is missing, or is of other settings than this recipe's.
    """
    for split in run.splits:
        path = run.prepared(split)
        if not path.is_file():
            raise UserError(f"{path} is missing: {_first(0)}")
        fingerprint(path)  # an error where the file carries none
        with legible(path):
            found = inputs_of(path)
        for section, value in _settings(run, split).items():
            if found.get(section) != value:
                raise UserError(f"{path} was prepared with another [{section}]: {_first(0)}")


def weights(run: Run, task: Task) -> Inputs:
    """Inputs of a task's weights: nothing of the test set, and nothing of other tasks."""
    return weights_of(run, task, run.recipe.member(task.member))


def weights_of(run: Run, task: Task, member: Member) -> Inputs:
    """`weights`, were the task's member another one."""
    if run.model:
        return inputs_of(run.weights(task))  # whose digest was compared when it was opened
    if member.selection == "last":  # then training knows nothing of the margin
        member = member.model_copy(update={"margin": 0})
    return {
        "format": str(FORMAT),
        "task": f"{task.member}, fold {task.fold}, seed {task.seed}",
        "train": fingerprint(run.prepared("train")),
        "member": digest(member),
    }


def oof(run: Run, task: Task) -> Inputs:
    """Inputs of a task's out-of-fold predictions."""
    return _predictions(run, task, "train")


def test(run: Run, task: Task) -> Inputs:
    """Inputs of a task's test predictions."""
    inputs = _predictions(run, task, "test")
    classifiers = run.tasks("classify")
    if classifiers and task not in classifiers:
        need(run.selection, selection(run), 2)
        own = digest(*(fingerprint(run.test(other)) for other in classifiers))
        inputs |= {"selection": fingerprint(run.selection), "classifiers": own}
    return inputs


def _predictions(run: Run, task: Task, split: str) -> Inputs:
    need(run.weights(task), weights(run, task), 1)
    margin = run.recipe.member(task.member).margin
    return {
        split: fingerprint(run.prepared(split)),
        "weights": fingerprint(run.weights(task)),
        "inference": digest(run.recipe.inference, str(margin)),
    }


def selection(run: Run) -> Inputs:
    """Inputs of what is selected out of fold."""
    if run.model:
        return inputs_of(run.selection)
    roles = ",".join(f"{member.name}:{member.role}" for member in run.recipe.members)
    return {
        "oof": _all_oof(run),
        "postprocess": digest(run.recipe.postprocess),
        "roles": roles,
        "metric": run.competition.metric.name,
        "holds": "tallies",  # which selections of earlier code lack
    }


def ensemble(run: Run) -> Inputs:
    """Inputs of the averages of all tasks; the masks that stage 04 adds are the submission's."""
    for task in run.tasks():
        need(run.test(task), test(run, task), 2)
    own = {"test": digest(*(fingerprint(run.test(task)) for task in run.tasks()))}
    return own if run.model else {"oof": _all_oof(run), **own}


def submission(run: Run) -> Inputs:
    """Inputs of the submission, its scores and its report."""
    inputs = ensemble(run)
    need(run.ensemble, inputs, 3)
    need(run.selection, selection(run), 3)
    return {**inputs, "selection": fingerprint(run.selection)}


def _all_oof(run: Run) -> str:
    for task in run.tasks():
        need(run.oof(task), oof(run, task), 1)
    return oof_as_found(run)


def oof_as_found(run: Run) -> str:
    """The digest of all tasks' oof.h5 as they lie there, whatever they are made from."""
    return digest(*(fingerprint(run.oof(task)) for task in run.tasks()))


def need(path: Path, inputs: Inputs, stage: int) -> None:
    """
    Raises:
        UserError: an artifact is not there, undamaged and up to date; the stage to run is named.
    """
    if not up_to_date(path, inputs, quiet=True):
        raise UserError(f"{path} is missing, damaged or of other data or settings: {_first(stage)}")


def _first(stage: int) -> str:
    return f"run {STAGES[stage]} with the same arguments first"


def is_trained(run: Run, task: Task) -> bool:
    """Whether a task's weights and out-of-fold predictions are up to date."""
    return up_to_date(run.weights(task), weights(run, task)) and up_to_date(
        run.oof(task), oof(run, task)
    )
