"""Bring the web page's libraries from the npm registry into the repository.

    python scripts/vendor_web.py [--check]

Only built files are taken, with their licences. They are changed in two ways: a bare import becomes
a relative one (a page without a build step needs no import map then), and the comment that names a
source map goes. `--check` compares and changes nothing.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).parents[1] / "api" / "web" / "static" / "vendor"

# package -> (version, licence's file, {file in the package: name here})
PACKAGES = {
    "preact": (
        "11.2.0",
        "LICENSE",
        {"dist/preact.mjs": "preact.js", "hooks/dist/hooks.mjs": "preact-hooks.js"},
    ),
    "htm": ("3.1.1", "LICENSE", {"dist/htm.mjs": "htm.js"}),
    "marked": ("18.2.1", "LICENSE", {"lib/marked.esm.js": "marked.js"}),
    "dompurify": ("3.4.18", "LICENSE", {"dist/purify.es.mjs": "dompurify.js"}),
    "@highlightjs/cdn-assets": (
        "11.12.0",
        "LICENSE",
        {"es/highlight.min.js": "highlight.js"},
    ),
    "swagger-ui-dist": (
        "5.35.0",
        "LICENSE",
        {
            "swagger-ui-bundle.js": "swagger-ui.js",
            "swagger-ui-bundle.js.LICENSE.txt": "swagger-ui.LICENSES.txt",
            "swagger-ui.css": "swagger-ui.css",
        },
    ),
    "uplot": (
        "1.6.32",
        "LICENSE",
        {"dist/uPlot.esm.js": "uplot.js", "dist/uPlot.min.css": "uplot.css"},
    ),
}


def adapted(text: str) -> str:
    text = text.replace('from"preact"', 'from"./preact.js"')
    return re.sub(r"\n?/[/*][#@] sourceMappingURL=\S*(\s*\*/)?\s*$", "\n", text)


def unpack(package: str, version: str, folder: Path) -> Path:
    packed = subprocess.run(
        ["npm", "pack", "--silent", f"{package}@{version}"],
        cwd=folder, check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    with tarfile.open(folder / packed) as archive:
        archive.extractall(folder / "unpacked" / package, filter="data")
    return folder / "unpacked" / package / "package"


def files() -> dict[str, str]:
    """Return every vendored file's text by its name."""
    made: dict[str, str] = {}
    versions: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for package, (version, licence, wanted) in PACKAGES.items():
            source = unpack(package, version, Path(folder))
            short = package.split("/")[0].removeprefix("@")
            made[f"LICENSE.{short}"] = (source / licence).read_text()
            versions.append(f"{package} {version}: {', '.join(wanted.values())}")
            for origin, name in wanted.items():
                made[name] = adapted((source / origin).read_text())
    made["VERSIONS"] = "\n".join(versions) + "\n"
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    TARGET.mkdir(parents=True, exist_ok=True)
    made = files()
    different = [
        name
        for name, text in made.items()
        if not (TARGET / name).is_file() or (TARGET / name).read_text() != text
    ]
    different += [path.name for path in TARGET.iterdir() if path.name not in made]
    print("\n".join(different) or "all as it is in the registry")
    if check:
        return bool(different)
    for path in TARGET.iterdir():
        path.unlink()
    for name, text in made.items():
        (TARGET / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
