"""Folders that get new files together, or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path


def replace_together(new: Mapping[Path, Mapping[str, Path]]) -> None:
    """Lay new files and folders over each folder, by their names in it; "" is the folder itself.

    Each folder is copied, changed and then put in the place of the old one. Where anything fails,
    all of them are as they were. A folder in a folder is replaced, not merged.
    """
    changed = {target: target.with_name(f".{target.name}.new") for target in new}
    kept = {target: target.with_name(f".{target.name}.old") for target in new}
    for folder in kept.values():
        shutil.rmtree(folder, ignore_errors=True)
    try:
        for target, files in new.items():
            _change_copy(target, changed[target], files)
        _swap(changed, kept)
    finally:
        for folder in (*changed.values(), *kept.values()):
            shutil.rmtree(folder, ignore_errors=True)


def _change_copy(target: Path, copy: Path, files: Mapping[str, Path]) -> None:
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir(parents=True)
    if target.exists():
        shutil.copytree(target, copy, dirs_exist_ok=True)
    for name, source in files.items():
        if source.is_file():
            shutil.copy(source, copy / name)
            continue
        if name:
            shutil.rmtree(copy / name, ignore_errors=True)
        shutil.copytree(source, copy / name, dirs_exist_ok=True)


def _swap(changed: Mapping[Path, Path], kept: Mapping[Path, Path]) -> None:
    """Rename the changed copies; undo what was done where a name cannot be changed."""
    moved = []
    try:
        for target, copy in changed.items():
            if target.exists():
                target.rename(kept[target])
            moved.append(target)
            copy.rename(target)
    except OSError:
        for target in moved:
            shutil.rmtree(target, ignore_errors=True)
            if kept[target].exists():
                kept[target].rename(target)
        raise
