"""What is drawn for each window of a batch and applied on its device: the symmetries of an unrolled
pipe, simulated grooves, other intensities, CutMix.
"""

from dataclasses import dataclass, fields

import torch
from torch.nn.functional import pad

from src.recipe import Augment, Copy
from src.terminal.errors import UserError
from src.wells.windows import Windows


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


def copies(
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
    """For each window (B,) a factor, and how much of the texture of sound pipe is laid over it,
    from the row `source` downwards.
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
    settings: Augment, count: int, windows: Windows, sound: torch.Tensor, generator: torch.Generator
) -> Intensities:
    """Intensities for a batch of `count` windows, drawn on the CPU.

    The logarithm of the gain is normal with deviation `settings.gain`; half of the windows get
    texture, of a uniform strength up to `settings.texture`.

    Args:
        sound: first rows of windows without corrosion (`Windows.sound`); needed for texture only.

    Raises:
        UserError: texture is asked for, and there is no sound window to take it from.
    """
    if settings.texture and not len(sound):
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
    sound = sound if len(sound) else torch.zeros(1, dtype=torch.int64)  # of strength 0
    source = sound[torch.randint(len(sound), (count,), generator=generator)]
    symmetries = draw(settings, count, windows.height, windows.image.shape[1], generator)
    device = windows.image.device
    return Intensities(
        gain.to(device), strength.to(device), source.to(device), symmetries.to(device)
    )


@dataclass(frozen=True)
class Grooves:
    """For each window (B,) whether it gives way to sound pipe, from the row `source` downwards,
    with a straight groove.

    In the middle of the window the groove is at `column`, in every next row `lean` columns further.
    It is `width` columns wide where half of its `depth` is reached, and goes from row `top` to row
    `bottom`.
    """

    chosen: torch.Tensor
    source: torch.Tensor
    symmetries: Symmetries
    column: torch.Tensor
    lean: torch.Tensor
    width: torch.Tensor
    depth: torch.Tensor
    top: torch.Tensor
    bottom: torch.Tensor

    def apply(
        self, image: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, windows: Windows
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Images, masks and weights (B, 1, H, W); a pixel is corroded where the groove is more
        than half as deep as in its middle.
        """
        height, turn = image.shape[2:]
        pipe = self.symmetries.apply(windows.take(windows.image, self.source))
        rows, columns = (
            torch.arange(height, device=image.device),
            torch.arange(turn, device=image.device),
        )
        middle = self.column[:, None] + self.lean[:, None] * (rows - height // 2)
        away = ((columns - middle[:, :, None] + turn / 2) % turn - turn / 2).abs()
        width, depth = self.width[:, None, None], self.depth[:, None, None]
        inside = ((rows >= self.top[:, None]) & (rows < self.bottom[:, None]))[:, :, None] & (
            away < width
        )
        groove = torch.where(inside, depth / 2 * (1 + torch.cos(torch.pi * away / width)), 0.0)
        chosen = self.chosen[:, None, None, None]
        corroded = (inside & (away < width / 2))[:, None].to(mask.dtype)
        return (
            torch.where(chosen, pipe - groove[:, None], image),
            torch.where(chosen, corroded, mask),
            torch.where(chosen, 1.0, weight),
        )


def draw_grooves(
    settings: Augment, count: int, windows: Windows, sound: torch.Tensor, generator: torch.Generator
) -> Grooves:
    """Grooves for a batch of `count` windows, each with probability `settings.grooves`; drawn on
    the CPU.

    Grooves are 1 to 5 columns wide and .5 to 3 scaled units deep, the logarithm uniform, as most in
    the training wells are; they drift by a normal deviation of .02 columns a row. Half of them go
    through the whole window, the others from one random row to another.

    Args:
        sound: first rows of windows without corrosion (`Windows.sound`).

    Raises:
        UserError: there is no sound window.
    """
    if not len(sound):
        raise UserError(
            f"augment.grooves: the training wells have no {windows.height} rows free of "
            "corrosion: lower member.height or set it to 0"
        )
    height, turn = windows.height, windows.image.shape[1]
    chance, through, column, width, depth, first, second = torch.rand(7, count, generator=generator)
    ends = (torch.stack([first, second]) * (height + 1)).long().sort(0).values
    source = sound[torch.randint(len(sound), (count,), generator=generator)]
    device = windows.image.device
    return Grooves(
        chosen=(chance < settings.grooves).to(device),
        source=source.to(device),
        symmetries=draw(settings, count, height, turn, generator).to(device),
        column=(column * turn).to(device),
        lean=(0.02 * torch.randn(count, generator=generator)).to(device),
        width=(1 + 4 * width).to(device),
        depth=(0.5 * 6**depth).to(device),
        top=torch.where(through < 0.5, 0, ends[0]).to(device),
        bottom=torch.where(through < 0.5, height, ends[1]).to(device),
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
