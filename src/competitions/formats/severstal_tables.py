"""The CSVs of Kaggle's Severstal competition, train.csv and the sample, in either layout.

Either has the columns ImageId_ClassId and EncodedPixels, four rows an image, or ImageId, ClassId
and EncodedPixels, where train.csv has a row for each class shown and the sample a row an image.
"""

from pathlib import Path
from typing import NamedTuple

from src.competitions.formats import rle
from src.competitions.formats.severstal_jpegs import AGAIN, HEIGHT, NAME, WIDTH
from src.terminal.errors import UserError

CLASSES = ["1", "2", "3", "4"]
LABELS = {label: number for number, label in enumerate(CLASSES, start=1)}
NOTHING = ("",) * len(CLASSES)
FOUR_ROWS = {"ImageId_ClassId", "EncodedPixels"}
SHOWN_CLASSES = {"ImageId", "ClassId", "EncodedPixels"}
TRAIN = "train.csv"
SAMPLE = "sample_submission.csv"
LARGEST_CSV = 1 << 27  # bytes; five times the real masks
MOST_LINES = 1_000_000
Codes = tuple[str, ...]  # the run-length code of each class


class Row(NamedTuple):
    """A row of train.csv or of the sample. `label` is 1 to 4, or 0 where the sample leaves the
    class to the submission.
    """

    image: str
    label: int
    code: str


class Table(NamedTuple):
    columns: list[str]
    rows: list[Row]


def line_of(columns: list[str], row: Row) -> str:
    cells = {
        "ImageId": row.image,
        "ClassId": str(row.label),
        "ImageId_ClassId": f"{row.image}_{row.label}",
        "EncodedPixels": row.code,
    }
    return ",".join(cells[column] for column in columns)


def read_codes(path: Path) -> dict[str, Codes]:
    """The codes of every image that train.csv lists, sure to be codes."""
    found: dict[str, list[str]] = {}
    for image, label, code in read_table(path, LABELS).rows:
        check_code(code, f"{path}: {image}, class {label}")
        found.setdefault(image, list(NOTHING))[label - 1] = code
    return {image: tuple(codes) for image, codes in found.items()}


def read_sample(folder: Path) -> Table:
    """The sample; in the layout of a row an image its placeholders for the class are 0."""
    path = find_csv(folder, SAMPLE)
    columns, rows = read_table(path, {"0": 0} | LABELS)
    if set(columns) == SHOWN_CLASSES:
        rows = [row._replace(label=0) for row in rows]
        _check_single([(row.image,) for row in rows], path)
    elif len(rows) != len(CLASSES) * len({row.image for row in rows}) or any(
        row.label == 0 for row in rows
    ):
        raise UserError(
            f"{path}: not every image has one row for each of the classes 1 to "
            f"{len(CLASSES)}: {AGAIN}"
        )
    return Table(columns, rows)


def read_table(path: Path, labels: dict[str, int]) -> Table:
    """The rows of a csv in either layout; `labels` are the classes that may stand in it."""
    header, *lines = _csv_text(path).split("\n")
    columns = _cells(header)
    if len(set(columns)) < len(columns) or set(columns) not in (FOUR_ROWS, SHOWN_CLASSES):
        wanted = "ImageId_ClassId,EncodedPixels or ImageId,ClassId,EncodedPixels"
        raise UserError(
            f"{path}: the first line must be {wanted}, not '{header.strip()[:80]}': {AGAIN}"
        )
    rows = [
        _row(columns, line, labels, f"{path}, line {number}")
        for number, line in enumerate(lines, start=2)
        if line.strip()
    ]
    if not rows:
        raise UserError(f"{path}: has no rows: {AGAIN}")
    _check_single([(row.image, row.label) for row in rows], path)
    return Table(columns, rows)


def _row(columns: list[str], line: str, labels: dict[str, int], where: str) -> Row:
    cells = _cells(line)
    if len(cells) != len(columns):
        raise UserError(f"{where}: has {len(cells)} values instead of {len(columns)}: {AGAIN}")
    row = dict(zip(columns, cells, strict=True))
    image, label = (
        (row["ImageId"], row["ClassId"])
        if "ImageId" in row
        else row["ImageId_ClassId"].rpartition("_")[::2]
    )
    if not NAME.fullmatch(image):
        raise UserError(
            f"{where}: '{image[:80]}' is not the name of an image, as in 0002cc93b.jpg: {AGAIN}"
        )
    if label not in labels:
        raise UserError(
            f"{where}: '{label[:20]}' is no class; they are {', '.join(labels)}: {AGAIN}"
        )
    return Row(image, labels[label], row["EncodedPixels"])


def _cells(line: str) -> list[str]:
    """Neither names nor codes hold commas: quotes, which some writers put around them, and a
    carriage return at the end say nothing.
    """
    return [cell.strip().strip('"').strip() for cell in line.split(",")]


def _check_single(keys: list[tuple], path: Path) -> None:
    seen = set()
    for key in keys:
        if key in seen:
            raise UserError(f"{path}: {', class '.join(map(str, key))} stands in it twice: {AGAIN}")
        seen.add(key)


def check_code(code: str, where: str) -> None:
    try:
        # the order of pixels does not matter to what a valid code is
        rle.decode([code], 1, HEIGHT * WIDTH, "row")
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None


def pixels_of(code: str) -> int:
    return sum(map(int, code.split()[1::2]))


def _csv_text(path: Path) -> str:
    try:
        with open(path, "rb") as stream:
            content = stream.read(LARGEST_CSV + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}): {AGAIN}") from None
    if len(content) > LARGEST_CSV:
        raise UserError(
            f"{path}: has more than {LARGEST_CSV >> 20} MiB, which no file of this "
            f"competition has: {AGAIN}"
        )
    if content.count(b"\n") > MOST_LINES:
        raise UserError(
            f"{path}: has more than {MOST_LINES:,} lines, which no file of this "
            f"competition has: {AGAIN}"
        )
    return content.decode("utf-8-sig", "replace")


def find_csv(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise UserError(f"{folder / name} is missing: {put('it', folder)}")
    return folder / name


def put(what: str, folder: Path) -> str:
    return f"put {what} into {folder}, as downloaded from Kaggle"
