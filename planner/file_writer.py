"""Write files so that all of them appear, or none, and none in part."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from search_spaces.errors import BadInput

SCRIPT_SUFFIX = ".sh"


def check_file(file: Path, option: str) -> None:
    """Refuse early what `write_file` could not write; `option` names the file in the message.

    Raises:
        BadInput: the path is a folder, or nothing may be written where it would be.
    """
    if file.is_dir():
        raise BadInput(f"{option}={str(file)!r} is a folder; name a file in it")
    present = next(folder for folder in file.absolute().parents if folder.exists())
    if not present.is_dir() or not os.access(present, os.W_OK):
        raise BadInput(f"{option}={str(file)!r}: {str(present)!r} is no writable folder; choose another")


def write_file(text: str, file: Path, option: str) -> None:
    """Write one file, in place of one that may be there; a failure leaves what was there.

    Raises:
        BadInput: the file cannot be written.
    """
    check_file(file, option)
    staged = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        staged.write_bytes(text.encode())
        os.replace(staged, file)
    except OSError as error:
        raise BadInput(f"{option}={str(file)!r}: {error.strerror}; choose a writable folder") from None
    finally:
        staged.unlink(missing_ok=True)


def write_files(files: Mapping[str, str | bytes], out: Path, force: bool = False) -> list[Path]:
    """Write relative names to texts under `out`, which is made where absent.

    Everything is written to a folder beside `out` first and then renamed, so that a failure leaves
    what was there. Scripts become executable.

    Args:
        files: path relative to `out`, with forward slashes, to its text.
        out: the folder.
        force: replace files that exist; other files of the folder stay.

    Raises:
        BadInput: a file exists and `force` is false, or the folder cannot be written.
    """
    if out.exists() and not out.is_dir():
        raise BadInput(f"out={str(out)!r} is a file; name a folder")
    present = sorted(name for name in files if (out / name).exists())
    if present and not force:
        raise BadInput(f"out={str(out)!r} already holds {present[0]}; choose another folder or pass --force")
    folders = [name for name in present if (out / name).is_dir()]
    if folders:
        raise BadInput(f"out={str(out)!r} holds a folder {folders[0]}; choose another folder")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise BadInput(f"out={str(out)!r}: {error.strerror}; choose a writable folder") from None
    try:
        _stage(files, staging / "files")
        _publish(files, staging / "files", out)
    except OSError as error:
        raise BadInput(f"out={str(out)!r}: {error.strerror}; choose a writable folder") from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return [out / name for name in files]


def _stage(files: Mapping[str, str | bytes], folder: Path) -> None:
    folder.mkdir()
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text.encode() if isinstance(text, str) else text)
        if file.suffix == SCRIPT_SUFFIX:
            file.chmod(file.stat().st_mode | (file.stat().st_mode & 0o444) >> 2)


def _publish(files: Mapping[str, str | bytes], staged: Path, out: Path) -> None:
    """One rename of the folder where it is new, else one rename per file."""
    if not out.exists():
        os.rename(staged, out)
        return
    for name in files:
        (out / name).parent.mkdir(parents=True, exist_ok=True)
    for name in files:
        os.replace(staged / name, out / name)
