"""Tables of run-length codes as Kaggle writes them, and other CSVs that come with photographs."""

import csv
from collections.abc import Sequence
from pathlib import Path

from src.terminal.errors import UserError

LARGEST_CSV = 1 << 27  # bytes
MOST_LINES = 1_000_000  # of a CSV
BY_CLASS = ("ImageId", "ClassId", "EncodedPixels")


def write_codes(
    path: Path, images: list[Path], names: Sequence[str], codes: Sequence[Sequence[str]]
) -> None:
    """As `write_submission`, for the test images at these paths."""
    expected = {image.name for image in images}
    if (
        len(names) != len(expected)
        or set(names) != expected
        or len({len(own) for own in codes}) != 1
    ):
        raise UserError(
            f"{path}: not every one of the {len(expected)} test images is predicted "
            "once; nothing was written"
        )
    write_table(path, names, codes)


def write_table(path: Path, names: Sequence[str], codes: Sequence[Sequence[str]]) -> None:
    """A row for each class of each image, and read back.

    Raises:
        UserError: it does not read back as it was written.
    """
    rows = [
        [name, str(k + 1), code]
        for name, own in zip(names, codes, strict=True)
        for k, code in enumerate(own)
    ]
    with open(path, "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows([BY_CLASS, *rows])
    if read_csv(path, [BY_CLASS]) != (BY_CLASS, rows):
        raise UserError(
            f"{path}: the submission does not read back as it was written: see "
            "whether the disk is full"
        )


def read_csv(path: Path, headers: list[tuple[str, ...]]) -> tuple[tuple[str, ...], list[list[str]]]:
    """The header of a CSV, one of `headers`, and the rows below it, each as long as the header.

    Raises:
        UserError: the file cannot be read, is larger than `LARGEST_CSV`, or has another header or a
            row of another length.
    """
    # the code of one large mask may be longer than the default of 128 KiB
    csv.field_size_limit(LARGEST_CSV)
    rows = []
    try:
        if path.stat().st_size > LARGEST_CSV:
            raise UserError(
                f"{path} is larger than {LARGEST_CSV >> 20} MiB: put PNG masks into "
                "train/masks/ instead"
            )
        with open(path, encoding="utf-8-sig", newline="") as stream:
            lines = csv.reader(stream, strict=True)
            columns = tuple(word.strip() for word in next(lines, []))
            if columns not in headers:
                raise UserError(
                    f"{path}: the first line must be "
                    f"{' or '.join(','.join(wanted) for wanted in headers)}"
                )
            for number, row in enumerate(lines, start=2):
                if number > MOST_LINES:
                    raise UserError(
                        f"{path} has more than {MOST_LINES:,} lines: put PNG masks "
                        "into train/masks/ instead"
                    )
                if row and len(row) != len(columns):
                    raise UserError(
                        f"{path}: line {number} has {len(row)} values instead of "
                        f"{len(columns)}: mend that line"
                    )
                if row:
                    rows.append(row)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{path}: cannot be read ({error}): save it again as CSV in UTF-8"
        ) from None
    return columns, rows
