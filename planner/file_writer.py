"""Write several files so that all of them appear, or none."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from search_spaces.errors import BadInput

SCRIPT_SUFFIX = ".sh"


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
