"""What the prepared files of photographs hold, for the data report."""

from dataclasses import dataclass

import numpy as np

from src.artifacts.run import Run
from src.artifacts.sealed import Arrays
from src.photographs import duplicates
from src.photographs.dataset import PhotoDataset
from src.report import pictures
from src.report.data import DataReport, Finding, Row, Shown, Table, finding, shortened

BRIGHT = 0.1  # of a photograph that is white: more is told
GROUPS = 20  # that are told of
LONGEST = 320  # pixels of a side that is shown


@dataclass(frozen=True)
class Counted:
    """A split with what is counted on each photograph (N,): its `thumbnail`, whether all of it has
    one value, `flat`, the share of its pixels that is `white`, and in training how many are of each
    class, `area` (N, K).
    """

    split: str
    photos: PhotoDataset
    known: Arrays

    @staticmethod
    def of(run: Run, split: str) -> "Counted":
        """Read a photograph at a time."""
        photos = PhotoDataset.open(run, split)
        number = len(photos.name)
        known = {
            "thumbnail": np.zeros((number, np.prod(duplicates.SIZE)), np.float32),
            "flat": np.zeros(number, bool),
            "white": np.zeros(number),
        }
        known |= {"area": np.zeros((number, len(photos.classes)), int)} if split == "train" else {}
        for row in range(number):
            image = photos.image(row)
            known["thumbnail"][row] = duplicates.thumbnail(image)
            known["flat"][row] = image.min() == image.max()
            known["white"][row] = (image >= photos.white).any(2).mean()
            if split == "train":
                known["area"][row] = photos.mask(row).sum((1, 2), dtype=int)
        return Counted(split, photos, known)

    @property
    def pixels(self) -> np.ndarray:
        return self.photos.size.prod(1)

    def shown(self, row: int) -> Shown:
        return Shown(f"{self.photos.name[row]} ({self.split})", self.drawn(row), small=False)

    def drawn(self, row: int) -> list[str]:
        """The photograph and, in training, its masks."""
        image = self.photos.image(row) / self.photos.white
        step = -(-max(image.shape[:2]) // LONGEST)
        result = [pictures.photograph(image, step)]
        if self.split == "train":
            result.append(pictures.classes(_shrunk(self.photos.mask(row), step)))
        return result


def _shrunk(masks: np.ndarray, step: int) -> np.ndarray:
    """Masks (K, H, W) at a step-th of their size, where a single pixel still shows."""
    rows, columns = (np.arange(0, size, step) for size in masks.shape[1:])
    return np.maximum.reduceat(np.maximum.reduceat(masks, rows, axis=1), columns, axis=2)


def report(run: Run) -> DataReport:
    """The tables and findings; the files are read a photograph at a time."""
    train, test = (Counted.of(run, split) for split in run.splits)
    return DataReport(
        [_splits(train, test), _classes(train), _folds(train), _groups(train)],
        [*_twins(train, test), *_masks(train), *_values(train, test)],
    )


def _splits(*splits: Counted) -> Table:
    rows: list[Row] = []
    for own in splits:
        size, channels = own.photos.size, own.photos.channels
        if not len(size):
            rows.append([own.split, 0, *["\u2013"] * 6])
            continue
        low, high = (f"{h}\u2009\u00d7\u2009{w}" for h, w in (size.min(0), size.max(0)))
        rows.append([own.split, len(size), low, high, len(np.unique(size, axis=0)), channels])
        rows[-1] += [float(own.photos.moments[:, 0].mean()), float(own.known["white"].mean())]
    head = ["File", "Photographs", "Smallest", "Largest", "Sizes", "Channels"]
    return Table("Files", [*head, "Mean brightness", "White pixels"], rows)


def _classes(train: Counted) -> Table:
    area, all_pixels = train.known["area"], train.pixels.sum()
    rows: list[Row] = [
        [
            name,
            int((own > 0).sum()),
            float((own > 0).mean()),
            float(own.sum() / all_pixels),
            int(np.median(own[own > 0])) if own.any() else "\u2013",
        ]
        for name, own in zip(train.photos.classes, area.T, strict=True)
    ]
    clean = (area == 0).all(1)
    rows.append(["without defects", int(clean.sum()), float(clean.mean()), 0.0, "\u2013"])
    head = ["Class", "Photographs", "Of them", "Of the pixels", "Pixels, median where shown"]
    return Table("Classes in training", head, rows)


def _shares(train: Counted, own: np.ndarray) -> Row:
    """The cells that follow "Photographs" for some of them, as `_head` names them."""
    area = train.known["area"][own] > 0
    return [float((~area.any(1)).mean()), *area.mean(0).tolist()]


def _head(train: Counted) -> list[str]:
    return ["Photographs", "Without defects", *(f"Class {name}" for name in train.photos.classes)]


def _folds(train: Counted) -> Table:
    fold, rows = train.photos.fold, []
    for number in np.unique(fold).tolist():
        own = fold == number
        groups = len(np.unique(train.photos.group[own]))
        title = f"{number}" if number >= 0 else "in none"
        rows.append([title, groups, int(own.sum()), *_shares(train, own)])
    return Table("Folds, with the shares of photographs", ["Fold", "Groups", *_head(train)], rows)


def _groups(train: Counted) -> Table:
    names, counts = np.unique(train.photos.group, return_counts=True)

    def row(group: int) -> Row:
        own = train.photos.group == group
        first = train.photos.name[np.flatnonzero(own)[0]]
        folds = ", ".join(str(f) for f in np.unique(train.photos.fold[own]) if f >= 0)
        return [str(first), folds or "in none", int(own.sum()), *_shares(train, own)]

    groups = names[np.argsort(-counts, kind="stable")].tolist()
    caption = "Groups, which no fold parts, by their first photograph; the largest first"
    return shortened(caption, ["Group", "Fold", *_head(train)], groups, row, GROUPS)


def _twins(train: Counted, test: Counted) -> list[Finding]:
    """Photographs that look alike, where that lets a score know what it should not."""
    small, fold = train.known["thumbnail"], train.photos.fold
    known = duplicates.nearest(test.known["thumbnail"], small)
    apart, empty = np.full(len(small), -1), np.full(len(small), -1)
    for number in np.unique(fold[fold >= 0]):
        own, others = np.flatnonzero(fold == number), np.flatnonzero((fold >= 0) & (fold != number))
        apart[own] = _rows(duplicates.nearest(small[own], small[others]), others)
    shows = train.known["area"].any(1)
    clean, others = np.flatnonzero(~shows), np.flatnonzero(shows)
    empty[clean] = _rows(duplicates.nearest(small[clean], small[others]), others)
    limit = f"their thumbnails correlate above {duplicates.ALIKE}"
    return [
        finding(
            what,
            twin >= 0,
            means,
            lambda row, own=own, twin=twin: _pair(own, row, train, twin[row]),
        )
        for what, own, twin, means in (
            (
                "test photographs that look like a training photograph",
                test,
                known,
                f"Near-duplicates ({limit}): the networks have seen the answer, and the score on "
                "the test set is flattered.",
            ),
            (
                "training photographs that look like one in another fold",
                train,
                apart,
                f"Near-duplicates ({limit}) on both sides of a fold: the out-of-fold score is "
                "flattered. Give both one group.",
            ),
            (
                "empty masks where a photograph that looks alike shows a defect",
                train,
                empty,
                f"Near-duplicates ({limit}) with different labels: overlooked?",
            ),
        )
    ]


def _rows(place: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Places in some rows as rows; -1 stays."""
    return np.where(place < 0, -1, np.append(rows, -1)[place])


def _pair(own: Counted, row: int, other: Counted, twin: int) -> Shown:
    both = own.shown(row), other.shown(int(twin))
    names = " and ".join(shown.name for shown in both)
    return Shown(names, [*both[0].pictures, *both[1].pictures], small=False)


def _masks(train: Counted) -> list[Finding]:
    area = train.known["area"]
    full, one = (area == train.pixels[:, None]).any(1), (area == 1).any(1)
    return [
        finding(
            "masks that are full",
            full,
            "A class covers every pixel: an inverted or a forgotten mask?",
            train.shown,
        ),
        finding(
            "masks of a single pixel",
            one,
            "A class has one pixel alone: a slip of the pen, or the rest of a cut?",
            train.shown,
        ),
    ]


def _values(train: Counted, test: Counted) -> list[Finding]:
    number = len(train.photos.name)
    flat, white = (
        np.concatenate([own.known[name] for own in (train, test)]) for name in ("flat", "white")
    )

    def picture(row: int) -> Shown:
        return train.shown(row) if row < number else test.shown(row - number)

    return [
        finding(
            "photographs of one value",
            flat,
            "Nothing is to be seen: a camera that failed, or a file that was damaged.",
            picture,
        ),
        finding(
            f"photographs of which more than {BRIGHT:.0%} is saturated",
            (white > BRIGHT) & ~flat,
            "White in some channel: what lies there is lost.",
            picture,
        ),
    ]
