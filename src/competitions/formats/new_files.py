"""Files of new data, as they lie in anyone's folder."""

from pathlib import Path

from src.competitions.formats.image_pairs import natural
from src.terminal.errors import UserError


def sorted_out(path: Path, endings: tuple[str, ...]) -> tuple[list[Path], list[str]]:
    """The files with these endings, a single one or those of a folder and its subfolders in natural
    order; and a line for each that is no plain file or has an unprintable name.

    Hidden files and folders do not count.

    Raises:
        UserError: there is none.
    """
    if not path.exists():
        raise UserError(f"{path} is missing: name a file, or a folder of files")
    inside = [path] if path.is_file() else path.rglob("*")
    found = sorted(inside, key=lambda own: (natural(own), str(own)))
    found = [own for own in found if own.name.lower().endswith(endings) and not _hidden(own, path)]
    plain, odd = [], []
    for own in found:
        if not str(own).isprintable():
            odd.append(f"{str(own)!a}: its name cannot be printed: give it another")
        elif not own.is_file():
            odd.append(f"{own} is no plain file: put the file itself there")
        else:
            plain.append(own)
    if not plain:
        ending = ", ".join(endings)
        raise UserError(f"{path} holds nothing to predict: put files there that end in {ending}")
    return plain, odd


def _hidden(own: Path, folder: Path) -> bool:
    return own != folder and any(part.startswith(".") for part in own.relative_to(folder).parts)
