"""One safetensors file that ``load_encoder`` reads."""

from __future__ import annotations

from pathlib import Path

from simmim_pl.export.formats.format import Format, quoted
from simmim_pl.runtime.encoder_file import FILE_NAME, save_encoder


class Safetensors(Format):
    """Tensors under the encoder's own names, and its config as metadata: ``load_encoder`` needs nothing else."""

    file = FILE_NAME
    library = "simmim_pl"
    needs = ("safetensors",)
    imports = ("simmim_pl",)
    said = ("It normalises its input itself.",)

    def write(self, folder: Path) -> None:
        save_encoder(self.pretrained.encoder, self.pretrained.spec, folder / self.file)

    def load(self, file: str) -> list[str]:
        allow = f", allow=[{', '.join(map(quoted, self.pretrained.allow))}]" if self.pretrained.allow else ""
        return [f"encoder = simmim_pl.load_encoder({file}{allow})"]

    @property
    def run(self) -> list[str]:
        return ["pooled, feature_map = encoder(images)"]
