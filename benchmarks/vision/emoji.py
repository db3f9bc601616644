"""Colour icons in nine unbalanced categories as a folder of images.

npm install --prefix data emoji-datasource-google@16.0.0
python -m benchmarks.vision.emoji data/node_modules/emoji-datasource-google data/emoji
era-vision train --recipe benchmarks/vision/emoji.yaml
"""

import json
import zlib
from pathlib import Path

from PIL import Image

from era_rl.runs.command import Parser


def write(package: Path, folder: Path) -> None:
    """Write folder/train/CLASS/*.png and folder/val/CLASS/*.png, on white, from the npm package."""
    if not (package / "emoji.json").is_file():
        raise FileNotFoundError(
            f"no emoji.json in {package}: npm install --prefix data emoji-datasource-google@16.0.0"
        )
    for entry in json.loads((package / "emoji.json").read_text()):
        if not entry["has_img_google"] or entry["category"] == "Component":
            continue
        # the skin tones of an emoji stay on one side of the split, or the test set leaks
        part = "val" if zlib.crc32(entry["unified"].encode()) % 5 == 0 else "train"
        target = folder / part / entry["category"]
        target.mkdir(parents=True, exist_ok=True)
        variants = [v for v in entry.get("skin_variations", {}).values() if v["has_img_google"]]
        for name in (image["image"] for image in (entry, *variants)):
            with Image.open(package / "img" / "google" / "64" / name) as icon:
                icon = icon.convert("RGBA")
            white = Image.new("RGBA", icon.size, "white")
            Image.alpha_composite(white, icon).convert("RGB").save(target / name)


def main() -> None:
    """Write the folder."""
    parser = Parser(prog="python -m benchmarks.vision.emoji", description=__doc__)
    parser.add_argument("package", type=Path)
    parser.add_argument("folder", type=Path)
    options = parser.parse_args()
    write(options.package, options.folder)


if __name__ == "__main__":
    main()
