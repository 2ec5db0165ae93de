"""The typed recipe: every choice of a run, in one TOML file.

Every option of every stage stands here and in `training`, once, with what it may be and how it may
be combined: the reference of recipes.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from src.recipe.section import Count, Fraction, Name, Section, Seed, only
from src.recipe.training import Member


class Generate(Section):
    """Size and seed of the wells that the demo competition generates."""

    seed: Seed = 0
    """Seed of the generated wells."""
    train_patches: Annotated[int, Field(ge=1, le=40_000)] = 900
    """About so many training patches."""
    test_patches: Annotated[int, Field(ge=1, le=40_000)] = 300
    """About so many test patches."""


class Data(Section):
    """How raw images are read and scaled."""

    scaling: Literal["global", "per_pixel"] = only("wells", "global")
    """Median and interquartile range of all training pixels, or of each pixel's place."""
    corrupt: Literal["repair", "drop"] = only("wells", "repair")
    """Repair pixels that are no measurements, or count every patch with a placeholder as wholly
    corrupt: not trained on, not scored, its test mask empty."""
    patches: Count | None = None
    """About so many training images, of every well its share; without it all."""
    folder: Name | None = only("photographs", None)
    """The folder in data/raw that the competition "folder" reads."""
    missing_test: Literal["error", "empty"] = only("photographs", "error")
    """What becomes of listed test photographs that are not at hand: an error or empty masks."""


class Folds(Section):
    """How training images are held out (`src.scoring.folds`).

    A random split is a warning of what leaks, not a score (CorroSeg paper). Blocks are stretches of
    a video; frames near a border between them are neither trained on nor scored.
    """

    scheme: Literal["group", "random", "blocks"] = Field(
        "group", json_schema_extra={"values": {"blocks": "photographs"}}
    )
    """Whole groups, a random split of images (which leaks), or stretches of a video."""
    count: Annotated[int, Field(ge=2, le=100)] | None = None
    """Number of folds; 5 without it and without `groups`."""
    run: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    """Train only these folds, counted from 0."""
    groups: list[list[int]] | None = Field(default=None, min_length=2, max_length=100)
    """The wells of each held-out fold; without it folds are balanced."""
    gap: Annotated[int, Field(ge=0, le=1_000_000)] = only("photographs", 0)
    """Frames at most so near to a border between blocks are left out."""
    evaluation: Annotated[int, Field(ge=0)] | None = only("photographs", None)
    """A fold that no network is trained or scored on, but by `member.eval_every`."""

    @model_validator(mode="after")
    def check(self) -> "Folds":
        if self.groups and self.count:
            raise ValueError("folds.count and folds.groups exclude each other")
        if self.groups and self.scheme != "group":
            raise ValueError(f'folds.groups has no meaning with scheme = "{self.scheme}"')
        if self.gap and self.scheme != "blocks":
            raise ValueError(
                f'folds.gap has no meaning with scheme = "{self.scheme}": it is for '
                'scheme = "blocks"'
            )
        if self.run and max(self.run) >= self.number:
            raise ValueError(f"folds.run names fold {max(self.run)}, but there are {self.number}")
        if self.evaluation is not None and self.evaluation not in self._spare:
            raise ValueError(
                f"folds.evaluation = {self.evaluation} is no fold that folds.run leaves: with "
                "count = 10, run = [0] and evaluation = 1 fold 0 is the test and 2 to 9 train"
            )
        return self

    @property
    def _spare(self) -> set[int]:
        """The folds that `run` leaves, where it is given."""
        return set(range(self.number)) - set(self.run) if self.run else set()

    @property
    def number(self) -> int:
        return len(self.groups) if self.groups else self.count or 5


class Inference(Section):
    """How trained networks predict: test-time augmentation, and AdaBN (Li et al. 2018)."""

    adabn: Annotated[float, Field(ge=0, le=1)] = only("wells", 0.0)
    """Weight of a second prediction, with batch norm on the well's own statistics (AdaBN)."""
    flips: bool = True
    """Average the predictions of all flips."""
    average_neighbours: bool = only("wells", True)
    """Average the predictions of half-pixel neighbours."""


class HMM(Section):
    """A hidden Markov model of a groove's azimuth along depth (`src.wells.postprocess.hmm`)."""

    rows: Count = 12
    """Rows of a step."""
    drift: Annotated[float, Field(gt=0)] = 0.7
    """Deviation of a groove's azimuth, in columns a step."""
    change: Fraction = 0.02
    """Probability that a groove ends, and another begins, at a step."""
    floor: float = -3.0
    """Mean logit at which a groove is as likely as none."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """Weight of the network's logits in the model."""
    width: Annotated[int, Field(ge=0)] = 1
    """Columns to each side of the centre that belong to a groove."""
    strength: Annotated[float, Field(gt=0)] = 0.5
    """Weight of the model's log-odds that are added to the network's logits."""


class Postprocess(Section):
    """Candidates for the refinement; 04_postprocess.py selects among them out of fold.

    Emptying a patch pays where its truth is empty too: it then scores 1 and not 0.
    """

    threshold: Literal["selected", "one_half"] = only("wells", "selected")
    """The threshold that scores best out of fold, or one half."""
    random_walker: bool = only("wells", True)
    """Try a random walker."""
    walk_on: Literal["strips", "patches"] = only("wells", "strips")
    """Walk on whole strips, or on each patch with an open seam as the CorroSeg paper does."""
    apply: Literal["if_better", "always"] = only("wells", "if_better")
    """Refine only where that raises the out-of-fold score, or always."""
    seed_above: Fraction = only("wells", 0.9)
    """Probabilities above are seeds of corrosion for the random walker."""
    seed_below: Fraction = only("wells", 0.1)
    """Probabilities below are seeds of clean pipe."""
    betas: list[Annotated[float, Field(ge=0)]] = only("wells", [0.1, 1.0, 10.0])
    """How strongly steps of intensity stop the walker: a candidate each."""
    min_sizes: list[Annotated[int, Field(ge=0)]] = Field([0, 4, 8, 16])
    """Remove components of fewer pixels: a candidate each."""
    min_in_patch: list[Annotated[int, Field(ge=0)]] = only("wells", [0])
    """Empty patches with fewer marked pixels: a candidate each."""
    expected_dice: bool = only("photographs", False)
    """Try the mask of the highest expected Dice too, where a pixel exceeds the threshold (RankSEG,
    Dai and Li 2023)."""
    hmms: list[HMM] = only("wells", [], alias="hmm")
    by_scan: bool = only("wells", False)
    """Select for interleaved wells by themselves, whose defects are mostly narrower."""

    @model_validator(mode="after")
    def check(self) -> "Postprocess":
        if self.seed_below >= self.seed_above:
            raise ValueError("seed_below must be smaller than seed_above")
        sizes = max([*self.min_sizes, *self.min_in_patch], default=0)
        if self.apply == "always" and not (
            self.hmms or (self.random_walker and self.betas) or sizes > 1
        ):
            raise ValueError(
                'apply = "always" needs an hmm, a random walker or a min_size to apply'
            )
        return self


@dataclass(frozen=True, order=True)
class Task:
    """One independent training: a member of the recipe, its held-out fold, its seed."""

    member: str
    fold: int
    seed: int


class Recipe(Section):
    """A whole run."""

    name: Name
    """Names the run's folders and files; the name of the TOML file unless given."""
    competition: str
    """A file of src/competitions/."""
    prepared: Name | None = None
    """Names the prepared files where folds or patches differ from other recipes'."""
    seeds: list[Seed] = Field(default=[0], min_length=1)
    """Every member is trained once for each of these on every fold."""
    generate: Generate = only("wells", Generate())
    data: Data = Data()
    folds: Folds = Folds()
    members: list[Member] = Field(alias="member", min_length=1)
    inference: Inference = Inference()
    postprocess: Postprocess = Postprocess()

    @model_validator(mode="after")
    def check(self) -> "Recipe":
        for what, values in (
            ("seeds", self.seeds),
            ("member names", [member.name for member in self.members]),
        ):
            if len(set(values)) < len(values):
                raise ValueError(f"{what} must differ from each other: {values}")
        return self

    def member(self, name: str) -> Member:
        return next(member for member in self.members if member.name == name)

    def tasks(self) -> list[Task]:
        """The task table: members x seeds x folds, one whole seed after the other."""
        return [
            Task(member.name, fold, seed)
            for member in self.members
            for seed in self.seeds
            for fold in self.folds.run or range(self.folds.number)
        ]

    def rounds(self) -> list[list[Task]]:
        """The task table in the order of prediction: image classifiers, if there are any, then
        what they decide about.
        """
        first = [task for task in self.tasks() if self.member(task.member).role == "classify"]
        then = [task for task in self.tasks() if task not in first]
        return [table for table in (first, then) if table]
