"""The sections of a recipe that say how a network is trained."""

from itertools import takewhile
from typing import Annotated, Literal

from pydantic import Field, model_validator

from src.recipe.section import Count, Fraction, Name, Section, Value, only

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


class Augment(Section):
    """What is drawn anew for every window of every batch (`src.wells.augmentation`).

    The CorroSeg paper, section 5.1, has materialised augmentation instead.
    """

    flip_azimuth: bool = True
    """Mirror half of the windows around the ring."""
    flip_depth: bool = True
    """Mirror half of the windows along depth."""
    roll: bool = True
    """Roll every window around the ring by a random number of columns."""
    depth_shift: bool = True
    """Begin every window at a random row of its strip."""
    materialised: list[Copy] | None = Field(default=None, min_length=1)
    """Draw nothing: an epoch holds one transformed copy of the data for each name."""
    lean: Annotated[float, Field(ge=0)] = 0.0
    """Deviation, in columns a row, by which half of the windows lean."""
    gain: Annotated[float, Field(ge=0)] = 0.0
    """Deviation of the logarithm of a factor on a window's intensities."""
    texture: Annotated[float, Field(ge=0)] = 0.0
    """The most by which texture of defect-free pipe is laid over half of the windows."""
    cutmix: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a window gets a rectangle of another one of its batch."""
    drop_averages: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Probability that a window's `depth_averages` are zeros."""


class Photograph(Section):
    """How a photograph reaches a network (`src.photographs.batches`).

    First a crop or the whole photograph, scaled to `resize`; with `balanced` crops are sought that
    show the class and are not dark. Then flips, rotation, shift and intensities. `weighted` does
    one of its kinds instead, to a photograph of class c with probability 1 - P(c), where P(c) is
    the class's share of all defects (Severstal DeepLabV3+ report, section 3.3).
    """

    crops: list[Annotated[list[Count], Field(min_length=2, max_length=2)]] = Field([])
    """Rows and columns of crops, another size each epoch; without any the whole photograph."""
    resize: Annotated[list[Count], Field(min_length=2, max_length=2)] | None = None
    """Rows and columns that crops and whole photographs are scaled to."""
    balanced: bool = False
    """Draw every class, and photographs without defects, equally often."""
    flips: bool = True
    """Mirror each photograph left to right, and top to bottom, with probability one half."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Rotate by up to so many degrees."""
    shift: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Shift by up to this share of the size."""
    scale: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Enlarge or shrink by a factor, 1 plus or minus up to this."""
    brightness: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Factor on the brightness, 1 plus or minus up to this."""
    contrast: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Factor on the contrast, 1 plus or minus up to this."""
    weighted: dict[Literal["crop", "vertical_flip", "rotation"], Annotated[float, Field(ge=0)]] = (
        Field({})
    )
    """Draw one kind by its weight instead, more rarely for frequent classes."""


class Pruning(Section):
    """How a phase prunes (`src.training.pruning`): what its end leaves masked or removed stays so
    in later phases.

    "linear" removes as much at every step, "agp" and "movement" more at the first.
    """

    method: Literal["linear", "agp", "movement"]
    """Which weights go: by Taylor importance (linear, AGP) or movement towards zero."""
    sparsity: Fraction
    """Share of every layer that is gone at the end."""
    steps: Count = 5
    """Pruning steps, evenly spread over the phase."""
    warm_up: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the phase before the first step."""
    cool_down: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the phase after the last step."""
    channels: bool = False
    """Remove whole channels, so that the network is smaller and faster, not single weights."""
    head: bool = False
    """Prune the layer that gives the logits too."""
    granularity: Literal["weight", "channel"] = "weight"
    """Mask single weights, or whole output channels of convolutions by the sum of their scores."""
    together: bool = False
    """Rank the weights of all layers together: `sparsity` is then the share of all of them."""
    regrow: bool = False
    """Movement: score masked weights too and mask anew every iteration, so that they may return."""

    @model_validator(mode="after")
    def check(self) -> "Pruning":
        if self.warm_up + self.cool_down >= 1:
            raise ValueError("pruning: warm_up and cool_down leave nothing of the phase")
        if self.channels and (self.method == "movement" or self.head):
            raise ValueError(
                'pruning: channels are removed by method "linear" or "agp", and '
                "never those of the head: they are the classes"
            )
        if self.channels and self.granularity == "channel":
            raise ValueError('pruning: channels are removed, or masked by granularity = "channel"')
        if self.together and (self.channels or self.granularity == "channel"):
            raise ValueError("pruning: together is for single weights")
        if self.regrow and self.method != "movement":
            raise ValueError('pruning: regrow is for method "movement"')
        return self


class Phase(Section):
    """A stretch of training with one loss, one optimiser and one schedule of the learning rate.

    A member has one phase or several, one after the other. The held-out fold has no say in the
    schedule.
    """

    epochs: Count
    """Passes over the training data."""
    loss: dict[LossName, Annotated[float, Field(gt=0)]] = Field(
        default={"smooth_iou": 1.0}, min_length=1
    )
    """Losses and their weights in the sum."""
    optimiser: Literal["adam", "adamw", "sgd"] = "adamw"
    """torch's Adam, AdamW or SGD."""
    momentum: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Momentum of SGD."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """The highest learning rate of the phase."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Weight decay of the optimiser; Adam's is L2."""
    schedule: Literal["constant", "cosine", "plateau", "cyclic"] = "cosine"
    """Cosine to zero, constant, halved on a plateau of the training loss, or up and down."""
    lowest_rate: Annotated[float, Field(ge=0)] = 0.0
    """Where a cycle of "cyclic" begins and ends."""
    cycles: Annotated[float, Field(gt=0)] = 1.0
    """Cycles of "cyclic" in the phase; the last may stay a part."""
    half_cycle: Count | None = None
    """Steps from the lowest rate of "cyclic" to the highest, instead of `cycles`."""
    plateau_patience: Count = 3
    """Epochs without a lower training loss before "plateau" halves the rate."""
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the phase in which the rate rises from zero (constant, cosine)."""
    focal_alpha: Annotated[float, Field(gt=0)] = 0.25
    """Weight of defect pixels in the focal loss, the others having the rest of 1; above 1 that is
    negative, and errors are rewarded."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """Exponent of the focal loss."""
    tversky_alpha: Fraction = 0.5
    """Weight of missed pixels in the Tversky loss; false ones have `tversky_beta`."""
    tversky_beta: Annotated[float, Field(gt=0)] | None = None
    """Weight of false pixels in the Tversky loss; without it 1 - `tversky_alpha`."""
    tversky_background: bool = False
    """Count the background of "softmax" as a class of the Tversky loss."""
    tversky_absent: bool = True
    """Whether a class that a batch does not show has a say in the Tversky loss."""
    tversky_smooth: Annotated[float, Field(ge=0)] = 1.0
    """Pixels added to numerator and denominator of the Tversky loss."""
    frozen: list[str] = Field([])
    """Parts of the network, by the beginnings of their names, that stay as they are."""
    pruning: Pruning | None = None

    @model_validator(mode="after")
    def check(self) -> "Phase":
        if self.schedule == "cyclic" and self.lowest_rate >= self.learning_rate:
            raise ValueError("lowest_rate must be smaller than learning_rate")
        if self.half_cycle and self.schedule != "cyclic":
            raise ValueError('half_cycle is for schedule = "cyclic"')
        if self.frozen and self.pruning and self.pruning.channels:
            raise ValueError(
                "a phase that removes channels cannot freeze parts: their inputs change"
            )
        return self


class Member(Section):
    """One network of the ensemble and how it is trained.

    Of wells it sees windows of strips, of photographs what `photograph` says.
    """

    name: Name
    """Names its folder among the recipe's runs."""
    role: Literal["segment", "classify"] = only("photographs", "segment")
    """Segment pixels, or classify whole photographs: those it rejects are not segmented."""
    network: dict[str, Value | list[Value]]
    """Name and options of the network: `make networks` lists them."""
    activation: Literal["sigmoid", "softmax"] = only("photographs", "sigmoid")
    """"softmax" adds a background class; with "sigmoid" classes may overlap."""
    photograph: Photograph = only("photographs", Photograph())
    height: Annotated[int, Field(ge=1, le=10_000)] = only("wells", 36)
    """Rows of a window of a strip."""
    margin: Annotated[int, Field(ge=0)] = only("wells", 0)
    """Rows at both ends of a window that are context only at prediction."""
    depth_averages: list[Count] = only("wells", [])
    """One more channel for each odd number of rows: the pipe averaged over so many."""
    batch_size: Count = 128
    """Windows or photographs a step."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """"auto" computes in bfloat16 where the device has it."""
    augment: Augment = only("wells", Augment())
    phases: list[Phase] = Field(alias="phase", min_length=1)
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Keep a running average of the weights, in which each step weighs 1 minus this; 0 is none."""
    selection: Literal["last", "best_on_held_out"] = "last"
    """Keep the last weights, or those of the epoch that scores best on the held-out fold."""
    early_stopping: Count | None = only("wells", None)
    """Stop after so many epochs without a better held-out score."""
    eval_every: Count | None = None
    """Record held-out scores every so many epochs; they decide nothing."""

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
                f"the pipe itself and depth_averages are {self.inputs} "
                f"channels: network needs inputs = {self.inputs}"
            )
        if self.augment.drop_averages and not self.depth_averages:
            raise ValueError("augment.drop_averages drops depth_averages, and there are none")
        if self.early_stopping and self.selection == "last":
            raise ValueError(
                "early_stopping stops on the held-out score and so needs selection = "
                '"best_on_held_out"'
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
        return 1 + len(self.depth_averages)

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
