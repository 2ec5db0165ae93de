"""How the values of an image are scaled before a network sees them."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Scaling:
    """(image - center) / scale, with numbers that broadcast: one pair for all pixels, one for each
    pixel position (H, W) (CorroSeg paper, section 2.1), or one for each channel (C,).
    """

    center: np.ndarray
    scale: np.ndarray

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Images of the same shape, float32."""
        return ((image - self.center) / self.scale).astype(np.float32)

    def undo(self, image: np.ndarray) -> np.ndarray:
        """The images that `apply` made these of, float32."""
        return (image * self.scale + self.center).astype(np.float32)

    def after(self, first: "Scaling") -> "Scaling":
        """Both at once: first the other, then this one; float64."""
        scale = np.asarray(first.scale, np.float64)
        return Scaling(first.center + scale * self.center, scale * self.scale)
