"""A folder in the layout of Hugging Face's hub."""

from __future__ import annotations

import json
from pathlib import Path

from simmim_pl.export.formats.safetensors import Safetensors
from simmim_pl.runtime import atomic


class Hub(Safetensors):
    """The safetensors file, with ``config.json``, by which the hub shows and counts a model."""

    def write(self, folder: Path) -> None:
        super().write(folder)
        mean, std = self.pretrained.normalization
        config = {
            "architectures": [self.pretrained.kind],
            "encoder": self.pretrained.spec,
            "embed_dim": self.pretrained.encoder.embed_dim,
            "image_size": self.images.shape[-1],
            "num_channels": len(mean),
            "image_mean": mean,
            "image_std": std,
        }
        text = json.dumps(config, indent=2)
        atomic.write(folder / "config.json", lambda file: file.write(f"{text}\n".encode()))
