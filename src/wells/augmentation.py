"""What is drawn for each window of a batch and applied on its device: the symmetries of an unrolled
pipe, other intensities, CutMix.
"""

from dataclasses import dataclass, fields

import torch
from torch.nn.functional import pad

from src.recipe import Augment, Copy
from src.terminal.errors import UserError
from src.training.data import Batch
from src.wells.windows import Windows


def augment(
    batch: Batch,
    settings: Augment,
    windows: Windows,
    defect_free: torch.Tensor,
    generator: torch.Generator,
) -> Batch:
    """A batch of windows after everything that is drawn batch by batch, in the order in which the
    numbers are drawn; what is off draws none.

    Args:
        defect_free: see `draw_intensities`.
    """
    image, mask, weight = batch
    if settings.gain or settings.texture:
        drawn = draw_intensities(settings, len(image), windows, defect_free, generator)
        image = drawn.apply(image, windows)
    if settings.cutmix:
        size = image.shape[2:]
        cuts = draw_cuts(settings.cutmix, len(image), *size, generator).to(image.device)
        image, mask, weight = (cuts.apply(tensor) for tensor in (image, mask, weight))
    if settings.drop_averages:
        image = drop_averages(image, settings.drop_averages, generator)
    return image, mask, weight


@dataclass(frozen=True)
class Symmetries:
    """One symmetry a window, (B,) each: mirrored along depth and along azimuth, then rolled by
    `roll` columns and `roll_depth` rows.

    With a `lean` other than 0 each row is rolled by so many columns more than the row above it, as
    if the tool had turned.
    """

    flip_depth: torch.Tensor
    flip_azimuth: torch.Tensor
    roll: torch.Tensor
    roll_depth: torch.Tensor
    lean: torch.Tensor

    def to(self, device: torch.device) -> "Symmetries":
        return Symmetries(*(getattr(self, field.name).to(device) for field in fields(self)))

    def __getitem__(self, which: slice | torch.Tensor) -> "Symmetries":
        return Symmetries(*(getattr(self, field.name)[which] for field in fields(self)))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The windows (B, C, H, W) transformed, each by its own symmetry."""
        height, width = x.shape[2:]
        rows = (torch.arange(height, device=x.device) - self.roll_depth[:, None]) % height
        rows = torch.where(self.flip_depth[:, None] == 1, height - 1 - rows, rows)
        leaning = (
            (self.lean[:, None] * (torch.arange(height, device=x.device) - height // 2))
            .round()
            .long()
        )
        columns = (
            torch.arange(width, device=x.device) - self.roll[:, None, None] - leaning[:, :, None]
        ) % width
        columns = torch.where(self.flip_azimuth[:, None, None] == 1, width - 1 - columns, columns)
        which = torch.arange(len(x), device=x.device)[:, None, None]
        return x[which, :, rows[:, :, None], columns].permute(0, 3, 1, 2)


def draw(
    settings: Augment, count: int, height: int, width: int, generator: torch.Generator
) -> Symmetries:
    """Symmetries for `count` windows, drawn on the CPU so that every device sees the same.

    A window is never rolled along depth, where a pipe has ends. Half of the windows lean, by a
    normal deviation of `settings.lean`.
    """
    flips = torch.randint(2, (2, count), generator=generator)
    roll = torch.randint(width, (count,), generator=generator)
    none = torch.zeros(count, dtype=torch.int64)
    lean = torch.zeros(count)
    if settings.lean:
        lean = (
            settings.lean
            * torch.randn(count, generator=generator)
            * (torch.rand(count, generator=generator) < 0.5)
        )
    return Symmetries(
        flips[0] * settings.flip_depth,
        flips[1] * settings.flip_azimuth,
        roll * settings.roll,
        none,
        lean,
    )


def materialised(
    names: list[Copy], count: int, height: int, width: int, generator: torch.Generator
) -> Symmetries:
    """Symmetries for a full copy of `count` windows for each name, copy after copy (CorroSeg paper,
    section 5.1).

    Its "roll" shifts both azimuth and depth at random; what leaves at one border comes back at the
    other.
    """
    parts = []
    for name in names:
        one, none = torch.ones(count, dtype=torch.int64), torch.zeros(count, dtype=torch.int64)
        rolled = name == "roll"
        parts.append(
            (
                one if name in ("flip_depth", "both_flips") else none,
                one if name in ("flip_azimuth", "both_flips") else none,
                torch.randint(width, (count,), generator=generator) if rolled else none,
                torch.randint(height, (count,), generator=generator) if rolled else none,
                torch.zeros(count),
            )
        )
    return Symmetries(*(torch.cat(column) for column in zip(*parts, strict=True)))


@dataclass(frozen=True)
class Intensities:
    """For each window (B,) a factor, and how much of the texture of defect-free pipe is laid over
    it, from the row `source` downwards.
    """

    gain: torch.Tensor
    strength: torch.Tensor
    source: torch.Tensor
    symmetries: Symmetries

    def apply(self, image: torch.Tensor, windows: Windows) -> torch.Tensor:
        """The images (B, C, H, W); texture makes a defect fainter against the rest, and what is
        corroded stays what it was.

        Averages along depth, all channels but the first, get none: texture averages out.
        """
        texture = self.symmetries.apply(windows.take(windows.image, self.source))
        texture = pad(texture, (0, 0, 0, 0, 0, image.shape[1] - 1))
        gain, strength = self.gain[:, None, None, None], self.strength[:, None, None, None]
        return gain * (image + strength * texture) / (1 + strength**2).sqrt()


def draw_intensities(
    settings: Augment,
    count: int,
    windows: Windows,
    defect_free: torch.Tensor,
    generator: torch.Generator,
) -> Intensities:
    """Intensities for a batch of `count` windows, drawn on the CPU.

    The logarithm of the gain is normal with deviation `settings.gain`; half of the windows get
    texture, of a uniform strength up to `settings.texture`.

    Args:
        defect_free: first rows of windows without corrosion (`Windows.defect_free`); needed for
            texture only.

    Raises:
        UserError: texture is asked for, and there is no defect-free window to take it from.
    """
    if settings.texture and not len(defect_free):
        raise UserError(
            f"augment.texture: the training wells have no {windows.height} rows free of "
            "corrosion: lower member.height or set it to 0"
        )
    gain = (settings.gain * torch.randn(count, generator=generator)).exp()
    strength = (
        settings.texture
        * torch.rand(count, generator=generator)
        * (torch.rand(count, generator=generator) < 0.5)
    )
    if not len(defect_free):
        defect_free = torch.zeros(1, dtype=torch.int64)  # of strength 0
    source = defect_free[torch.randint(len(defect_free), (count,), generator=generator)]
    symmetries = draw(settings, count, windows.height, windows.image.shape[1], generator)
    device = windows.image.device
    return Intensities(
        gain.to(device), strength.to(device), source.to(device), symmetries.to(device)
    )


@dataclass(frozen=True)
class Cuts:
    """One rectangle a window, (B,) each: `height` rows from `top` and `width` columns from `left`,
    onwards around the ring, of window `source` of the batch. A height of 0 leaves a window as it
    is.
    """

    source: torch.Tensor
    top: torch.Tensor
    left: torch.Tensor
    height: torch.Tensor
    width: torch.Tensor

    def to(self, device: torch.device) -> "Cuts":
        return Cuts(*(getattr(self, field.name).to(device) for field in fields(self)))

    def apply(self, x: torch.Tensor) -> torch.Tensor:
        """The windows (B, C, H, W), each with its rectangle as it was in the source window
        before any mixing.
        """
        height, width = x.shape[2:]
        rows = torch.arange(height, device=x.device) - self.top[:, None]
        columns = (torch.arange(width, device=x.device) - self.left[:, None]) % width
        inside = ((rows >= 0) & (rows < self.height[:, None]))[:, :, None] & (
            columns < self.width[:, None]
        )[:, None, :]
        return torch.where(inside[:, None], x[self.source], x)


def draw_cuts(
    probability: float, count: int, height: int, width: int, generator: torch.Generator
) -> Cuts:
    """CutMix (Yun et al. 2019, section 3.1) for a batch of `count` windows, each mixed with this
    probability; drawn on the CPU.

    The share of the area is uniform, the rectangle has the window's proportions, its centre is
    uniform; it is cut off at the ends of the window in depth, as in the paper, but in azimuth it
    goes on around the ring. The source is any other window of the batch, all alike; a batch of one
    stays as it is.
    """
    chance, area, at = torch.rand(3, count, generator=generator)
    source = (
        torch.arange(count) + 1 + torch.randint(max(count - 1, 1), (count,), generator=generator)
    ) % count
    side = area.sqrt() * (chance < probability)
    rows, columns = (side * height).round().long(), (side * width).round().long()
    centre = (at * height).long()
    top = (centre - rows // 2).clamp(min=0)
    bottom = (centre - rows // 2 + rows).clamp(max=height)
    left = torch.randint(width, (count,), generator=generator)
    return Cuts(source, top, left, bottom - top, columns)


def drop_averages(
    image: torch.Tensor, probability: float, generator: torch.Generator
) -> torch.Tensor:
    """The images (B, C, H, W), in some of which, with this probability, all channels but the
    first are zeros; drawn on the CPU.
    """
    kept = (torch.rand(len(image), generator=generator) >= probability).to(image.device)
    return torch.cat([image[:, :1], image[:, 1:] * kept[:, None, None, None]], dim=1)
