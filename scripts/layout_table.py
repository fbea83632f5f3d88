"""Prints the layout of the code at several commits: files a folder, lines a file.

    python scripts/layout_table.py v0.1.0 HEAD

One row for each tree: folders, files, the most files on one level; lines a file: median, maximum, and
the number of files over 300. Read from git, so uncommitted changes do not count.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
from collections import Counter
from pathlib import PurePosixPath

TREES = ("src", "api", "workers", "tests", "benchmarks", "scripts", "demo_model")
CODE = frozenset({".py", ".lua", ".cpp", ".h"})
LONG = 300


def lines_of(commit: str, tree: str) -> dict[PurePosixPath, int]:
    """Return the lines of each code file below a tree at a commit."""
    listed = _git("ls-tree", "-r", "-z", commit, "--", tree).split(b"\0")
    blobs: dict[PurePosixPath, str] = {}
    for entry in filter(None, listed):
        head, _, name = entry.partition(b"\t")
        path = PurePosixPath(name.decode())
        if path.suffix in CODE and path.name != "__init__.py":
            blobs[path] = head.split()[2].decode()
    contents = _git("cat-file", "--batch", given="\n".join(blobs.values()).encode())
    lines: dict[PurePosixPath, int] = {}
    for path in blobs:
        head, _, contents = contents.partition(b"\n")
        size = int(head.split()[2])
        lines[path] = contents[:size].count(b"\n")
        contents = contents[size + 1 :]
    return lines


def _git(*arguments: str, given: bytes | None = None) -> bytes:
    done = subprocess.run(["git", *arguments], input=given, capture_output=True, check=True)
    return done.stdout


def row(lines: dict[PurePosixPath, int]) -> str:
    """Return the cells of a tree, or dashes for none."""
    if not lines:
        return "| - | - | - | - | - | - "
    levels = Counter(path.parent for path in lines)
    counts = sorted(lines.values())
    fullest, most = levels.most_common(1)[0]
    long = sum(count > LONG for count in counts)
    return (
        f"| {len(levels)} | {len(counts)} | {most} ({fullest}) "
        f"| {statistics.median(counts):.0f} | {counts[-1]} | {long} "
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="files a folder and lines a file")
    parser.add_argument("commits", nargs="+")
    chosen = parser.parse_args()
    print("| tree | commit | folders | files | most on one level | median | most | over 300 |")
    print("|---|---|---|---|---|---|---|---|")
    for tree in TREES:
        for commit in chosen.commits:
            print(f"| {tree} | {commit} {row(lines_of(commit, tree))}|")


if __name__ == "__main__":
    main()
