"""Characters drawn from fonts: one clean template per character and face, then many distorted small images."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from nmtrain.data.seeds import mix_seed

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

# The text faces of DejaVu that matplotlib ships.
FACES = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSans-BoldOblique",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "DejaVuSansMono-Oblique",
    "DejaVuSansMono-BoldOblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSerif-Italic",
    "DejaVuSerif-BoldItalic",
)
TEMPLATE_SIDE = 64
_INK_SIDE = 52  # the longer side of every character's ink, so that size tells nothing about the class

# Distortions. Angle, shear, size and shift are drawn uniformly from plus or minus these bounds. They are mild because
# small ViTs are slow to learn invariances: with three times as much, one stays near chance for a whole epoch.
_ROTATION = math.radians(8)
_SHEAR = 0.1
_SIZE = 0.1  # of width and height, each on its own
_SHIFT = 0.03  # of the image's side
_BLUR = 0.7  # at most this share of a pixel comes from the mean of the 3x3 pixels around it
_TINT = 0.25  # ink has brightness 1 - _TINT to 1, paper 0 to _TINT
_CHUNK = 500  # images drawn at once: small enough for the processor's cache, large enough to vectorize


def draw_templates(characters: str) -> Tensor:
    """Every character in every face: uint8 ``[characters, faces, 64, 64]``, ink 255 on 0, centred, of equal size.

    Raises:
        FileNotFoundError: if matplotlib was installed without its fonts.
    """
    from matplotlib import get_data_path
    from PIL import ImageFont

    folder = Path(get_data_path()) / "fonts" / "ttf"
    missing = [face for face in FACES if not (folder / f"{face}.ttf").is_file()]
    if missing:
        raise FileNotFoundError(f"data=glyphs draws with matplotlib's fonts; {folder} lacks {', '.join(missing)}")
    # The basic layout, because the other one depends on a library that Pillow may or may not find.
    fonts = [
        ImageFont.truetype(folder / f"{face}.ttf", TEMPLATE_SIDE, layout_engine=ImageFont.Layout.BASIC)
        for face in FACES
    ]
    return torch.stack([torch.stack([_template(character, font) for font in fonts]) for character in characters])


def draw_images(templates: Tensor, count: int, image_size: int, noise: float, seed: int) -> tuple[Tensor, Tensor]:
    """``count`` images: uint8 ``[count, 1, image_size, image_size]`` and their classes, int64 ``[count]``.

    Classes come in turn (0, 1, ..., 0, 1, ...) and faces too, so all are equally frequent within one.
    A larger ``count`` only appends: the first images stay the same.

    Args:
        templates: from :func:`draw_templates`; its first dimension is the class.
        noise: standard deviation of the pixel noise, of the full brightness range.
    """
    classes, faces = templates.shape[:2]
    index = torch.arange(count)
    labels, face = index % classes, index // classes % faces
    chunks = []
    for number, start in enumerate(range(0, count, _CHUNK)):
        here = slice(start, start + _CHUNK)
        clean = templates[labels[here], face[here]].unsqueeze(1)
        generator = torch.Generator().manual_seed(mix_seed("glyphs", seed, number))
        chunks.append(_distorted(clean, image_size, noise, generator))
    return torch.cat(chunks), labels


def _template(character: str, font: FreeTypeFont) -> Tensor:
    import numpy
    from PIL import Image, ImageDraw

    left, top, right, bottom = font.getbbox(character)
    drawing = Image.new("L", (math.ceil(right - left), math.ceil(bottom - top)))
    ImageDraw.Draw(drawing).text((-left, -top), character, font=font, fill=255)
    ink = drawing.crop(drawing.getbbox())
    zoom = _INK_SIDE / max(ink.size)
    ink = ink.resize((round(ink.width * zoom), round(ink.height * zoom)), Image.Resampling.LANCZOS)
    canvas = Image.new("L", (TEMPLATE_SIDE, TEMPLATE_SIDE))
    canvas.paste(ink, ((TEMPLATE_SIDE - ink.width) // 2, (TEMPLATE_SIDE - ink.height) // 2))
    return torch.from_numpy(numpy.array(canvas))


def _distorted(clean: Tensor, image_size: int, noise: float, generator: torch.Generator) -> Tensor:
    """uint8 ``[n, 1, 64, 64]`` to uint8 ``[n, 1, image_size, image_size]``; draws for a full chunk, whatever ``n``."""
    count = len(clean)
    draws = torch.rand(9, _CHUNK, generator=generator)[:, :count]
    pixel_noise = torch.randn(_CHUNK, 1, image_size, image_size, generator=generator)[:count]

    # Two to four samples across each pixel, then their mean: a single sample would alias thin strokes.
    samples = TEMPLATE_SIDE // image_size
    side = image_size * samples
    grid = F.affine_grid(_output_to_template(draws[:6]), [count, 1, side, side], align_corners=False)
    ink = F.grid_sample(clean.float().div_(255), grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    ink = F.avg_pool2d(ink, samples)
    blur, ink_tint, paper_tint = draws[6:, :, None, None, None]
    ink = torch.lerp(ink, F.avg_pool2d(ink, 3, stride=1, padding=1), blur * _BLUR)
    images = torch.lerp(paper_tint * _TINT, 1 - ink_tint * _TINT, ink)
    return images.add_(pixel_noise, alpha=noise).clamp_(0, 1).mul_(255).round_().to(torch.uint8)


def _output_to_template(draws: Tensor) -> Tensor:
    """Affine maps ``[n, 2, 3]`` from output to template coordinates (both -1 to 1), from uniform draws ``[6, n]``."""
    angle, shear, wide, high, right, down = draws * 2 - 1
    angle, shear = angle * _ROTATION, shear * _SHEAR
    wide, high = 1 + wide * _SIZE, 1 + high * _SIZE
    # The inverse of: stretch by (wide, high), shear along x, rotate by the angle.
    cos, sin = angle.cos(), angle.sin()
    linear = torch.stack([(cos + shear * sin) / wide, (sin - shear * cos) / wide, -sin / high, cos / high], dim=1)
    linear = linear.view(-1, 2, 2)
    shift = torch.stack([right, down], dim=1)[:, :, None] * (2 * _SHIFT)
    return torch.cat([linear, -linear @ shift], dim=2)
