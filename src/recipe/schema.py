"""The typed recipe: every choice of a run, in one TOML file.

An unknown key, a wrong type or an impossible value is a `UserError` that names the file, the key
and the nearest known key. The file is long because every option of every stage stands here, once,
with what it may be and how it may be combined: it is the reference of recipes.
"""

import json
import tomllib
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from src.recipe.overrides import apply
from src.terminal.errors import UserError, did_you_mean

RECIPES = Path(__file__).parents[2] / "recipes"

Count = Annotated[int, Field(ge=1)]
Seed = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(gt=0, lt=1)]
Value = bool | int | float | str
LossName = Literal[
    "smooth_iou",
    "smooth_iou_per_patch",
    "bce",
    "focal",
    "dice",
    "tversky",
    "cross_entropy",
    "lovasz",
]
Copy = Literal["none", "flip_azimuth", "flip_depth", "both_flips", "roll"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Generate(Section):
    """Size and seed of the wells that the demo competition generates."""

    seed: Seed = 0
    train_patches: Annotated[int, Field(ge=1, le=40_000)] = 900
    test_patches: Annotated[int, Field(ge=1, le=40_000)] = 300


class Data(Section):
    """`patches` keeps only about so many training patches, from every well its share
    (`src.wells.preparation`).

    "per_well" scales each well, of training or test, by the median and interquartile range of its
    own pixels.

    For photographs: `folder` is the one in data/raw that competition "folder" reads; `missing_test`
    says what becomes of test photographs that the organisers list and that are not at hand: an
    error, or empty masks.
    """

    scaling: Literal["global", "per_pixel", "per_well"] = "global"
    patches: Count | None = None
    folder: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    missing_test: Literal["error", "empty"] = "error"


class Folds(Section):
    """`groups` lists the wells of each held-out fold; without it, `count` folds (5) are balanced by
    `src.scoring.folds.balance`.

    `scheme = "random"` splits by patch instead, as the CorroSeg paper does: a warning of what
    leaks, not a score. `scheme = "blocks"` is for frames of a video: each fold is a stretch of it,
    and what is at most `gap` frames from a border is neither trained on nor scored
    (`src.scoring.folds.blocks`). `run` trains only these folds.
    """

    scheme: Literal["group", "random", "blocks"] = "group"
    count: Annotated[int, Field(ge=2, le=100)] | None = None
    run: list[Annotated[int, Field(ge=0)]] | None = Field(default=None, min_length=1)
    groups: list[list[int]] | None = Field(default=None, min_length=2, max_length=100)
    gap: Annotated[int, Field(ge=0, le=1_000_000)] = 0

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
        return self

    @property
    def number(self) -> int:
        return len(self.groups) if self.groups else self.count or 5


class Augment(Section):
    """Symmetries drawn anew for every window of every batch (`src.wells.augmentation`).

    With `copies` nothing is drawn: each epoch holds one full copy of the data for each name, as in
    the CorroSeg paper, section 5.1. `lean` is the deviation, in columns a row, by which half of the
    windows lean; `gain` that of the logarithm of a factor on a window's intensities; `texture` the
    most by which the texture of sound pipe, of any training well, is laid over half of the windows;
    `cutmix` the probability that a window gets a rectangle of another window of its batch, after
    all else; `grooves` that with which a window gives way to sound pipe with a simulated groove;
    `drop_averages` that with which its `depth_averages` are zeros.
    """

    flip_azimuth: bool = True
    flip_depth: bool = True
    roll: bool = True
    depth_shift: bool = True
    copies: list[Copy] | None = Field(default=None, min_length=1)
    lean: Annotated[float, Field(ge=0)] = 0.0
    gain: Annotated[float, Field(ge=0)] = 0.0
    texture: Annotated[float, Field(ge=0)] = 0.0
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    grooves: Annotated[float, Field(ge=0, le=1)] = 0.0
    drop_averages: Annotated[float, Field(ge=0, le=1)] = 0.0


class Photograph(Section):
    """How a photograph reaches a network; pipes have windows instead.

    Training takes `crops` (rows, columns), another size each epoch in turn, or whole photographs;
    both are scaled to `resize`. With `balanced` every class, and photographs without defects, are
    drawn equally often, and crops are sought that show the class and are not dark. Then flips, a
    rotation up to `rotate` degrees, a shift up to a share of the size, and factors on brightness
    and contrast up to 1 +- these. `weighted` draws one of its kinds by their weights instead, and
    for a photograph of class c only with probability 1 - P(c), where P(c) is the class's share of
    all defects (Severstal DeepLabV3+ report, section 3.3).
    """

    crops: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = []
    resize: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    balanced: bool = False
    flips: bool = True
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    weighted: dict[Literal["crop", "vertical_flip", "rotation"], Annotated[float, Field(ge=0)]] = {}


class Pruning(Section):
    """How a phase prunes (`src.training.pruning`): in `steps` steps evenly spread over it, until a
    share `sparsity` of every layer is gone.

    "linear" removes as much at every step, "agp" and "movement" more at the first; the first two by
    Taylor importance, "movement" by how far weights moved towards zero. Nothing is pruned in the
    phase's first `warm_up` and last `cool_down` share. `channels` removes whole channels instead of
    single weights, and so makes the network smaller and faster. The layer that gives the logits
    stays whole unless `head` says otherwise. What is pruned stays so in later phases.
    """

    method: Literal["linear", "agp", "movement"]
    sparsity: Fraction
    steps: Count = 5
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.0
    cool_down: Annotated[float, Field(ge=0, lt=1)] = 0.0
    channels: bool = False
    head: bool = False

    @model_validator(mode="after")
    def check(self) -> "Pruning":
        if self.warm_up + self.cool_down >= 1:
            raise ValueError("pruning: warm_up and cool_down leave nothing of the phase")
        if self.channels and (self.method == "movement" or self.head):
            raise ValueError(
                'pruning: channels are removed by method "linear" or "agp", and '
                "never those of the head: they are the classes"
            )
        return self


class Phase(Section):
    """A stretch of training with one loss (a weighted sum), one optimiser and one learning-rate
    schedule.

    "plateau" halves the rate whenever the training loss has not fallen for `patience` epochs; the
    held-out fold has no say in it. "cyclic" climbs from `lowest_rate` to the learning rate and
    back, `cycles` times in the phase, of which the last may stay a part. `tversky_alpha` is the
    weight of missed pixels, one minus it that of false ones. `frozen` lists parts of the network,
    by the beginnings of their names, that stay as they are: weights and batch statistics.
    """

    epochs: Count
    loss: dict[LossName, Annotated[float, Field(gt=0)]] = Field(
        default={"smooth_iou": 1.0}, min_length=1
    )
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    schedule: Literal["constant", "cosine", "plateau", "cyclic"] = "cosine"
    lowest_rate: Annotated[float, Field(ge=0)] = 0.0
    cycles: Annotated[float, Field(gt=0)] = 1.0
    patience: Count = 3
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    focal_alpha: Fraction = 0.25
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    tversky_alpha: Fraction = 0.5
    frozen: list[str] = []
    pruning: Pruning | None = None

    @model_validator(mode="after")
    def check(self) -> "Phase":
        if self.schedule == "cyclic" and self.lowest_rate >= self.learning_rate:
            raise ValueError("lowest_rate must be smaller than learning_rate")
        if self.frozen and self.pruning and self.pruning.channels:
            raise ValueError(
                "a phase that removes channels cannot freeze parts: their inputs change"
            )
        return self


class Member(Section):
    """One network of the ensemble and how it is trained.

    On a pipe the network sees windows of `height` rows of a strip; at prediction the outer `margin`
    rows at both ends are context only. A photograph reaches it as `photograph` says. The role
    "gate" is that of a classifier: it tells which photographs show any defect. "softmax" adds a
    background class, and every pixel belongs to one class; with "sigmoid" classes may overlap.

    `depth_averages` gives the network one more channel for each of these odd numbers of rows: the
    pipe averaged over so many (`src.wells.windows`). `beside` gives it one for the pipe between its
    columns, which interleaved wells have measured (`src.wells.geometry`). With `ema` other than 0
    what is kept is a running average of the weights, in which each step weighs 1 - `ema`. Every
    `watch` epochs the history records the held-out fold's scores, for a figure: they decide
    nothing.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    role: Literal["segment", "gate"] = "segment"
    network: dict[str, Value | list[Value]]
    activation: Literal["sigmoid", "softmax"] = "sigmoid"
    photograph: Photograph = Photograph()
    height: Count = 36
    margin: Annotated[int, Field(ge=0)] = 0
    depth_averages: list[Count] = []
    beside: bool = False
    batch_size: Count = 128
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    augment: Augment = Augment()
    phases: list[Phase] = Field(alias="phase", min_length=1)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    selection: Literal["last", "best_on_held_out"] = "last"
    patience: Count | None = None
    watch: Count | None = None

    @model_validator(mode="after")
    def check(self) -> "Member":
        if "name" not in self.network:
            raise ValueError('network needs a name, as in network = { name = "ring_unet" }')
        if 2 * self.margin >= self.height:
            raise ValueError(
                f"two margins of {self.margin} rows leave nothing of a window of {self.height} rows"
            )
        if any(rows % 2 == 0 for rows in self.depth_averages):
            raise ValueError(
                "depth_averages must be odd, so that a row is the middle of its "
                f"average: {self.depth_averages}"
            )
        if self.network.get("inputs", 1) != self.inputs:
            raise ValueError(
                f"the pipe itself, depth_averages and beside are {self.inputs} "
                f"channels: network needs inputs = {self.inputs}"
            )
        if self.augment.drop_averages and not self.depth_averages:
            raise ValueError("augment.drop_averages drops depth_averages, and there are none")
        if self.augment.grooves and self.inputs > 1:
            raise ValueError(
                "augment.grooves simulates the pipe alone: it excludes depth_averages and beside"
            )
        if self.beside and (self.augment.texture or self.augment.drop_averages):
            raise ValueError(
                "beside: augment.texture and augment.drop_averages would treat it as "
                "an average along depth: leave them out"
            )
        if self.patience and self.selection == "last":
            raise ValueError(
                'patience stops on the held-out score and so needs selection = "best_on_held_out"'
            )
        if self.prunings and self.selection != "last":
            raise ValueError(
                'pruning needs selection = "last": the best epoch could be one before it'
            )
        if self.prunings and self.ema:
            raise ValueError(
                "pruning and ema exclude each other: an average of weights before "
                "and after pruning is not pruned"
            )
        if len({pruning.channels for pruning in self.prunings}) > 1:
            raise ValueError("a member prunes either channels or single weights")
        return self

    @property
    def inputs(self) -> int:
        """Channels of a window of pipe."""
        return 1 + len(self.depth_averages) + self.beside

    @property
    def epochs(self) -> int:
        return sum(phase.epochs for phase in self.phases)

    @property
    def prunings(self) -> list[Pruning]:
        return [phase.pruning for phase in self.phases if phase.pruning]

    @property
    def dense_phases(self) -> list[Phase]:
        """The phases before anything is pruned."""
        return list(takewhile(lambda phase: phase.pruning is None, self.phases))


class Inference(Section):
    """Test-time augmentation: probabilities are averaged over the flips and over rolls by these
    many columns.

    `adapt` is the weight of a second prediction, by a network whose batch norm holds the statistics
    of the well's own images.
    """

    adapt: Annotated[float, Field(ge=0, le=1)] = 0.0
    flips: bool = True
    rolls: list[int] = Field(default=[0], min_length=1)
    average_twins: bool = True


class Track(Section):
    """How a groove is followed along depth (`src.wells.hmm`): `drift` in columns a step of
    `rows` rows, `floor` a logit.
    """

    rows: Count = 12
    drift: Annotated[float, Field(gt=0)] = 0.7
    change: Fraction = 0.02
    floor: float = -3.0
    weight: Annotated[float, Field(gt=0)] = 1.0
    width: Annotated[int, Field(ge=0)] = 1
    strength: Annotated[float, Field(gt=0)] = 0.5


class Postprocess(Section):
    """Candidates for the refinement; 04_postprocess.py chooses among them out of fold.

    Each of `tracks` follows grooves along depth before the threshold. `by_scan` chooses for
    interleaved wells, whose defects are mostly fewer columns wide, by themselves. Each of
    `min_in_patch` empties patches with fewer marked pixels: if the truth of such a patch is empty
    too, it scores 1 and not 0. `apply = "always"` refines by the best candidate also where that
    does not raise the out-of-fold score. `walk_on = "patches"` walks each patch by itself, with an
    open seam, on intensities stretched to 0..255, as the CorroSeg paper does in its section 6.
    """

    random_walker: bool = True
    walk_on: Literal["strips", "patches"] = "strips"
    apply: Literal["if_better", "always"] = "if_better"
    seed_above: Fraction = 0.9
    seed_below: Fraction = 0.1
    betas: list[Annotated[float, Field(ge=0)]] = [0.1, 1.0, 10.0]
    min_sizes: list[Annotated[int, Field(ge=0)]] = [0, 4, 8, 16]
    min_in_patch: list[Annotated[int, Field(ge=0)]] = [0]
    tracks: list[Track] = Field(alias="track", default=[])
    by_scan: bool = False

    @model_validator(mode="after")
    def check(self) -> "Postprocess":
        if self.seed_below >= self.seed_above:
            raise ValueError("seed_below must be smaller than seed_above")
        sizes = max([*self.min_sizes, *self.min_in_patch], default=0)
        if self.apply == "always" and not (
            self.tracks or (self.random_walker and self.betas) or sizes > 1
        ):
            raise ValueError(
                'apply = "always" needs a track, a random walker or a min_size to apply'
            )
        return self


@dataclass(frozen=True, order=True)
class Task:
    """One independent training: a member of the recipe, its held-out fold, its seed."""

    member: str
    fold: int
    seed: int


class Recipe(Section):
    """A whole run. `prepared` names its prepared file where folds or patches differ from the
    competition's other recipes.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9_-]+$")
    competition: str
    prepared: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_-]+$")
    seeds: list[Seed] = Field(default=[0], min_length=1)
    generate: Generate = Generate()
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
        """The task table in the order of prediction: gates, if there are any, then what they
        decide about.
        """
        gates = [task for task in self.tasks() if self.member(task.member).role == "gate"]
        return [
            table
            for table in (gates, [task for task in self.tasks() if task not in gates])
            if table
        ]


def load(name: str, overrides: list[str] | None = None) -> Recipe:
    """The recipe called `name` in recipes/ (or the file at that path), with `key.path=value`
    overrides applied.

    Raises:
        UserError: no such recipe, unreadable TOML, an unknown key, or a value that does not fit.
    """
    path = _find(name)
    try:
        tree = tomllib.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        # no TOML, no UTF-8, a number of thousands of digits, brackets within brackets
        raise UserError(f"{path}: not readable as TOML: {error}: mend that line") from None
    for override in overrides or []:
        apply(tree, override)
    _check_integers(tree, str(path))
    return parse({"name": path.stem, **tree}, str(path))


def parse(tree: dict[str, Any], where: str) -> Recipe:
    """Validate a recipe given as nested dictionaries; `where` names its source in error
    messages.
    """
    try:
        return Recipe.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error)}") from None


def dump(section: BaseModel) -> str:
    """A section as canonical JSON: what digests are made of, and what `parse` reads back.

    What is as usual is left out, so that an option of a later version does not make earlier
    networks look like others.
    """
    return json.dumps(section.model_dump(by_alias=True, exclude_defaults=True), sort_keys=True)


def to_toml(recipe: Recipe) -> str:
    """The whole recipe, defaults and overrides included, as a TOML file that `load` reads back
    to an equal recipe.
    """
    tree = recipe.model_dump(by_alias=True, exclude_none=True)
    members = tree.pop("member")
    lines = [
        f"{key} = {_inline(value)}" for key, value in tree.items() if not isinstance(value, dict)
    ]
    for key, section in tree.items():
        if isinstance(section, dict):
            lines += [
                "",
                f"[{key}]",
                *(f"{name} = {_inline(value)}" for name, value in section.items()),
            ]
    for member in members:
        phases = member.pop("phase")
        lines += [
            "",
            "[[member]]",
            *(f"{name} = {_inline(value)}" for name, value in member.items()),
        ]
        for phase in phases:
            lines += [
                "",
                "[[member.phase]]",
                *(f"{name} = {_inline(value)}" for name, value in phase.items()),
            ]
    return "\n".join(lines) + "\n"


def _inline(value: Any) -> str:
    """A value on one line; numbers, texts and truth values are written in TOML as in JSON."""
    if isinstance(value, dict):
        return (
            "{ "
            + ", ".join(f"{_inline(key)} = {_inline(item)}" for key, item in value.items())
            + " }"
        )
    if isinstance(value, list):
        return "[" + ", ".join(map(_inline, value)) + "]"
    # which TOML, unlike JSON, wants escaped
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _find(name: str) -> Path:
    path = Path(name) if name.endswith(".toml") else RECIPES / f"{name}.toml"
    if not path.is_file():
        known = [file.stem for file in RECIPES.glob("*.toml")]
        raise UserError(f"no recipe at {path}: {did_you_mean(Path(name).stem, known)}")
    return path


def _check_integers(tree: dict[str, Any], where: str) -> None:
    """Refuse integers beyond 64 bits, which TOML does not have, though tomllib reads them and
    numpy and JSON stumble over them.
    """
    nodes: list[Any] = [tree]
    while nodes:
        node = nodes.pop()
        nodes += node.values() if isinstance(node, dict) else node if isinstance(node, list) else []
        if isinstance(node, int) and not -(1 << 63) <= node < 1 << 63:
            raise UserError(
                f"{where}: holds, or is given, an integer of more than 64 bits: no "
                "key of a recipe takes one"
            )


def _explain(error: ValidationError) -> str:
    """The first problem that pydantic found, as one line in the user's terms."""
    problem = error.errors(include_url=False)[0]
    *parents, key = problem["loc"] or ("recipe",)
    place = ".".join(str(step) for step in problem["loc"] if step != "[key]")
    if problem["type"] == "extra_forbidden":
        return f"unknown key '{place}': {did_you_mean(str(key), _known_keys(Recipe, parents))}"
    if problem["type"] == "missing":
        return f"the key '{place}' is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{place}: {message}" if place else message


def _known_keys(model: type[BaseModel], path: list[str | int]) -> list[str]:
    """The keys that the section at `path` accepts."""
    for step in path:
        if isinstance(step, int):
            continue
        field = next(
            field for name, field in model.model_fields.items() if step in (name, field.alias)
        )
        inner = [field.annotation, *get_args(field.annotation)]
        model = next(
            kind for kind in inner if isinstance(kind, type) and issubclass(kind, BaseModel)
        )
    return [field.alias or name for name, field in model.model_fields.items()]
