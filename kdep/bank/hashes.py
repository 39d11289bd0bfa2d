"""Hash the files of a bank when they are written, and check them when they are first read.

The hash of a new file lies beside it as NAME.sha256 until the bank is complete; then all stand in bank.json.
"""

import hashlib
import json
from pathlib import Path

import torch

from kdep.bank.file import read_bank_file
from kdep.files import digest_of, write_text

SUFFIX = ".sha256"


def hash_file(path: Path) -> str:
    """Return the sha256 of a file, hex."""
    with path.open("rb", buffering=0) as file:
        return digest_of(file, hashlib.sha256()).hex()


def note_hash(part: Path, file: Path) -> None:
    """Write the hash of a file beside it, before the file itself appears.

    Args:
        part: its content.
        file: its place.
    """
    write_text(beside(file), hash_file(part))


def beside(file: Path) -> Path:
    """Return where the hash of a new file lies."""
    return file.with_name(file.name + SUFFIX)


def name_of(file: Path) -> str:
    """Name a file in bank.json: view000/00000.npy."""
    return f"{file.parent.name}/{file.name}"


def known_hashes(bank: Path) -> dict[str, str]:
    """Read the hashes in bank.json; none before the bank is complete."""
    return read_bank_file(bank / "bank.json").hashes


def is_known(file: Path, hashes: dict[str, str]) -> bool:
    """Whether a file is there with its hash."""
    return file.exists() and (name_of(file) in hashes or beside(file).exists())


def seal(bank: Path) -> None:
    """Move the hashes of all new files into bank.json."""
    notes = sorted(bank.glob(f"view*/*{SUFFIX}"))
    content = dict(read_bank_file(bank / "bank.json"))
    own = {"bank.pt": hash_file(bank / "bank.pt")} if "bank.pt" not in content.get("hashes", {}) else {}
    if notes or own:
        new = {name_of(note.with_suffix("")): note.read_text() for note in notes}
        content["hashes"] = dict(sorted({**content.get("hashes", {}), **own, **new}.items()))
        text = json.dumps(content, indent=1) + "\n"
        write_text(bank / "bank.json", text)
    for note in notes:
        note.unlink()


class Checked:
    """The files of a bank that were checked already, by this process or by one that shares its memory."""

    def __init__(self, bank: Path, hashes: dict[str, str]) -> None:
        self._bank, self._hashes = bank, hashes
        self._index = {name: index for index, name in enumerate(hashes)}
        # Shared, so that the processes that load images check each file once together.
        self._done = torch.zeros(len(hashes), dtype=torch.uint8).share_memory_()

    def check(self, name: str) -> None:
        """Compare a file with its hash when it is first asked for.

        Raises:
            ValueError: the bank was written with another file of this name, or with none.
        """
        index = self._index.get(name)
        if index is not None and self._done[index]:
            return
        if index is None or hash_file(self._bank / name) != self._hashes[name]:
            raise ValueError(
                f"{self._bank / name}: not the file that the bank was written with; it was changed, or belongs to "
                f"another bank. Remove it, and its targets are computed again; or remove {self._bank}"
            )
        self._done[index] = 1
