"""``data=glyphs``: images of a few hundred characters, drawn and distorted from the fonts inside matplotlib.

A stand-in for a natural data set where nothing can be downloaded: many classes, any number of images, known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from nmtrain.data.source import (
    DataShape,
    ImageSource,
    flag_faults,
    fraction_faults,
    path_faults,
    whole_number_faults,
)

if TYPE_CHECKING:
    from torch import Tensor

    from nmtrain.data.images.in_memory import ImageData

# The classes, in order. The list is frozen, so that class 57 is the same character with every version of the fonts
# and of Pillow. The rule that made it: letters, digits and currency signs that all twelve faces can draw and that do
# not decompose into others; each dropped if in any face its 16x16 template resembles an earlier choice too much
# (cosine similarity of 0.944 or more: O and 0, Greek Alpha and A). tests/data/images/test_glyphs.py applies the rule
# again.
CHARACTERS = (
    "0123456789"  # digits
    "ABCDEGHJKLMNPQRTUVWXYZabdefgikmnoprstuy"  # Latin
    "ΓΔΞΣΦΨΩαβδεζηικλμνξςτφωϗϘϚϝϞϟϠϡϷϸϺϻϽ"  # Greek
    "ЂЉЊЋЏДЖЛЧШЩЪЫЮЯцьэђєћѢѣҐғҕҖҘҙҚҢҤҬұҲҺӃӇӋӔӕӘӠӶ"  # Cyrillic
    "აბგდეზთკლმჟრსტუფქღყჩცჭჯჰჱჲჳჴჵჶჹ"  # Georgian
    "ԲԳԴԵԶԷԸԹԻԽԾԿՀՁՃՄՅՆՇՈՉՊՋՎՏՐՒՔՖեէըթլխծկձճմնչպջվփֆ"  # Armenian
    "$¢£¤¥ØßðħŒƁƇƊƋƎƑƓƔƗƝƢƣƤƦƧƪƫƮƱƶƸƺƽƾƿǁǂǃǶȜȡȤȥȴȵȶȸȻȾȿɀɁɐɕɗɘɚɝɞɠɤɥɧɪɬɮɱɲɷɸ"
    "ɹɺɻɼɾɿʁʂʅʆʇʈʋʌʍʎʐʑʓʔʕʖʗʚʛʝʞʣʤʦʧʨʩʪʫʬʭ₦€₯₴₸₹"  # more Latin and phonetic letters, currency signs
)

_MOST_IMAGES = 1_000_000


@dataclass(frozen=True)
class Glyphs(ImageSource):
    """The first ``classes`` of ``CHARACTERS`` in twelve faces, each image distorted and made noisy at random.

    The images depend on the options ``classes``, ``image_size``, ``train_size``, ``val_size``, ``noise`` and
    ``generation_seed`` alone; those for test, which are drawn only where they are evaluated on, on ``test_size`` in
    place of the other two sizes. They are kept in ``cache_dir`` (default: the user's cache folder).
    """

    classes: int = 200
    image_size: int = 16
    train_size: int = 60_000
    val_size: int = 10_000
    test_size: int = 10_000
    noise: float = 0.1
    generation_seed: int = 0
    augment: bool = False
    cache_dir: str | None = None

    splits = ("val", "test")
    of_test_alone = ("test_size",)

    def faults(self) -> list[str]:
        fewest = self.classes if type(self.classes) is int and 2 <= self.classes <= len(CHARACTERS) else 2
        return [
            *super().faults(),
            *whole_number_faults("classes", self.classes, 2, len(CHARACTERS)),
            *whole_number_faults("image_size", self.image_size, 16, 32, multiple_of=4),
            *whole_number_faults("train_size", self.train_size, fewest, _MOST_IMAGES),  # each class at least once
            *whole_number_faults("val_size", self.val_size, fewest, _MOST_IMAGES),
            *whole_number_faults("test_size", self.test_size, fewest, _MOST_IMAGES),
            *fraction_faults("noise", self.noise),
            *whole_number_faults("generation_seed", self.generation_seed, 0, 2**63 - 1),
            *flag_faults("augment", self.augment),
            *path_faults("cache_dir", self.cache_dir),
        ]

    def shape(self) -> DataShape:
        return DataShape(
            num_classes=self.classes,
            channels=1,
            image_size=self.image_size,
            train_size=self.train_size,
            val_size=self.val_size if self.evaluate == "val" else self.test_size,
        )

    def load(self, seed: int) -> ImageData:
        import matplotlib
        import PIL
        import torch

        from nmtrain.data.cache import cached, checksum, default_cache_folder
        from nmtrain.data.images.in_memory import ImageData

        sizes = {"train": self.train_size, "val": self.val_size}
        content = {
            "characters": CHARACTERS[: self.classes],
            "image_size": self.image_size,
            "noise": float(self.noise),
            "generation_seed": self.generation_seed,
            # Whoever edits the drawing code gets new images without having to raise a number by hand.
            "sample": checksum(replace(self, classes=2)._draw({"train": 24, "val": 24})),
            "versions": [matplotlib.__version__, PIL.__version__, torch.__version__],
        }
        folder = default_cache_folder() if self.cache_dir is None else Path(self.cache_dir).expanduser()
        drawn = content | {f"{split}_size": size for split, size in sizes.items()}
        tensors = cached(partial(self._draw, sizes), "glyphs", drawn, folder)
        if self.evaluate == "test":
            drawn = content | {"test_size": self.test_size}
            tensors |= cached(partial(self._draw, {"test": self.test_size}), "glyphs-test", drawn, folder)
        return ImageData(
            name="glyphs",
            shape=self.shape(),
            class_names=list(CHARACTERS[: self.classes]),
            train=(tensors["train_images"], tensors["train_labels"]),
            val=(tensors[f"{self.evaluate}_images"], tensors[f"{self.evaluate}_labels"]),
            seed=seed,
            augment=self.augment,
        )

    def _draw(self, sizes: dict[str, int]) -> dict[str, Tensor]:
        """So many images of each split, and their labels."""
        from nmtrain.data.images.glyph_drawing import draw_images, draw_templates
        from nmtrain.data.seeds import mix_seed

        templates = draw_templates(CHARACTERS[: self.classes])
        tensors: dict[str, Tensor] = {}
        for split, count in sizes.items():
            seed = mix_seed("glyphs", split, self.generation_seed)
            images, labels = draw_images(templates, count, self.image_size, self.noise, seed)
            tensors |= {f"{split}_images": images, f"{split}_labels": labels}
        return tensors
