"""A sheet of patches as a recipe degrades them: one row for each HR patch, which stands before its LR pictures.

usage: python tools/degradation_sheet.py RECIPE PICTURE... [KEY=VALUE...] --out sheet.png
       python tools/degradation_sheet.py srresnet photo.jpg degradation='{kind: pipeline, preset: realesrgan}'
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from srcluster.data.degradation import lr_and_hr, margin
from srcluster.data.pictures import decode
from srcluster.recipe import load


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("words", nargs="+", metavar="PICTURE|KEY=VALUE")
    parser.add_argument("--out", default="sheet.png")
    parser.add_argument("--columns", type=int, default=8, help="LR pictures of each patch")
    asked = parser.parse_args()
    overrides = [word for word in asked.words if "=" in word and not Path(word).exists()]
    recipe = load(asked.recipe, overrides)
    cut = margin(recipe.scale, recipe.degradation)
    side = recipe.data.patch + 2 * cut
    rows = []
    for path in (word for word in asked.words if word not in overrides):
        pixels = decode(Path(path).read_bytes(), path)
        top, left = ((length - side) // 2 // recipe.scale * recipe.scale for length in pixels.shape[:2])
        patch = torch.tensor(pixels[top : top + side, left : left + side]).permute(2, 0, 1)
        patches = patch.expand(asked.columns, -1, -1, -1)
        places = range(asked.columns)
        lr, hr = lr_and_hr(recipe.degradation, (patches,), recipe.scale, seed=recipe.seed, step=0, places=places)
        enlarged = lr.repeat_interleave(recipe.scale, 2).repeat_interleave(recipe.scale, 3)
        rows.append(torch.cat([hr[0], *enlarged], dim=2))
    sheet = torch.cat(rows, dim=1).mul(255).round().byte().permute(1, 2, 0).numpy()
    Image.fromarray(np.ascontiguousarray(sheet)).save(asked.out)
    print(f"HR, and {asked.columns} times LR enlarged by repeating pixels: {asked.out}")


if __name__ == "__main__":
    main()
