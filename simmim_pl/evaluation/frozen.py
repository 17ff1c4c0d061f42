"""What every evaluation shares: a frozen encoder, features extracted once, one look at test, a result card."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from jaxtyping import Float, Int64
from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics.functional.classification import multiclass_accuracy

from simmim_pl import distributed
from simmim_pl.checkpoint import load_encoder
from simmim_pl.evaluation import card
from simmim_pl.records import Batch, Encoder, Features, InputError

# The splits differ in their number of images, so N is not bound across them.
Labelled = tuple[Float[Tensor, "_ D"], Int64[Tensor, " _"]]


class Frozen(LightningModule):
    """Base of the evaluations: ``fit`` extracts the features of train and validation, ``test`` judges them.

    The encoder comes from a checkpoint of ours, or is given. It is in eval mode and without gradients, and a hash of
    its parameters and buffers is taken before and after. Beside it stand its baselines, in the same table: the
    same architecture untrained, and raw pixels.

    Args:
        checkpoint: path of a checkpoint that ``fit`` wrote.
        encoder: an encoder to judge as it is, instead of a checkpoint.
        baselines: judge the untrained encoder and raw pixels too.
        seed: seed of the untrained encoder.
    """

    test_after_fit = True

    def __init__(
        self,
        checkpoint: str | None = None,
        encoder: Encoder | None = None,
        baselines: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if (checkpoint is None) == (encoder is None):
            raise InputError("Say what to judge: either --model.checkpoint PATH or --model.encoder, not both.")
        self.automatic_optimization = False
        self.checkpoint = checkpoint
        self.subjects = nn.ModuleDict()
        if checkpoint is not None:
            self.subjects["pretrained"] = load_encoder(checkpoint, trained=True)
            if baselines:
                with torch.random.fork_rng(devices=[]):
                    torch.default_generator.manual_seed(seed)  # the CPU's only: the fork restores no other
                    self.subjects["untrained"] = load_encoder(checkpoint, trained=False)
        elif encoder is not None:
            self.subjects["given"] = encoder
        if baselines:
            self.subjects["raw pixels"] = RawPixels()
        self.subjects.requires_grad_(False).eval().to(memory_format=torch.channels_last)
        self.digest = digest(self.subjects)
        self.parts: dict[str, list[dict[str, Tensor]]] = {}
        self.unused = nn.Parameter(torch.zeros(()))  # DDP refuses a module without a trainable parameter

    def judge(
        self, train: Labelled, validation: Labelled, test: Labelled, classes: int
    ) -> tuple[Float[Tensor, "Q C"], dict[str, Any]]:
        """Scores of the test images by class, and the hyperparameters that a reader must know."""
        raise TypeError(f"{type(self).__name__} must define judge(train, validation, test, classes)")

    def train(self, mode: bool = True) -> Frozen:
        """Keep the encoders in eval mode whatever the trainer asks for."""
        super().train(mode)
        self.subjects.eval()
        return self

    def configure_optimizers(self) -> None:
        """Nothing is trained by gradient steps of the trainer."""

    def extract(self, split: str, batch: Batch) -> None:
        """Keep the features of a batch under every encoder, with index and label."""
        if "label" not in batch:
            raise InputError("This data set has no labels: an evaluation needs class folders, see configs/data/.")
        assert not any(module.training for module in self.subjects.modules())
        image = batch["image"].float() / 255
        with torch.no_grad():
            part = {name: encoder(image).pooled.float() for name, encoder in self.subjects.items()}
        self.parts.setdefault(split, []).append({**part, "label": batch["label"], "index": batch["index"]})

    def on_fit_start(self) -> None:
        self.parts.clear()

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        self.extract("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        if not self.trainer.sanity_checking:
            self.extract("validation", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        if "train" not in self.parts:
            raise InputError("An evaluation starts with fit, which ends with the test: use fit instead of test.")
        self.extract("test", batch)

    def whole(self, split: str) -> dict[str, Tensor]:
        """A split's rows from all ranks, each image once, in the order of the data set."""
        parts = self.parts.get(split)
        if not parts:
            raise InputError(f"The {split} split is empty: an evaluation needs images in it.")
        rows = {name: distributed.gather_uneven(torch.cat([part[name] for part in parts])) for name in parts[0]}
        index, order = rows["index"].unique(return_inverse=True)
        first = torch.full_like(index, len(order)).scatter_reduce(
            0, order, torch.arange(len(order), device=order.device), "amin"
        )
        return {name: row[first] for name, row in rows.items()}

    @torch.inference_mode(False)  # a probe may need gradients of its own
    def on_test_epoch_end(self) -> None:
        train, validation, test = (self.whole(split) for split in ("train", "validation", "test"))
        if digest(self.subjects) != self.digest:
            raise RuntimeError("the frozen encoder changed while it was judged")
        classes = self.trainer.datamodule.source.classes  # type: ignore[attr-defined]
        results = {}
        for name in self.subjects:
            known, tried, asked = ((rows[name], rows["label"]) for rows in (train, validation, test))
            scores, chosen = self.judge(known, tried, asked, len(classes))
            accuracy = multiclass_accuracy(scores, test["label"], len(classes), average="micro")
            results[name] = {"accuracy": round(accuracy.item(), 6), "width": train[name].shape[1], **chosen}
            self.log(f"test/{name.replace(' ', '_')}", accuracy)
        sizes = {
            name: len(rows["index"]) for name, rows in (("train", train), ("validation", validation), ("test", test))
        }
        judged = digest(next(iter(self.subjects.values())))
        card.publish(self.trainer, type(self).__name__, self.checkpoint, judged, sizes, results)


class RawPixels(Encoder):
    """The baseline that sees nothing: pixels as features, ``D = 3 · H · W``."""

    def __init__(self) -> None:
        super().__init__(0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Features:
        pixels = image.flatten(1)
        return Features(pooled=pixels, grid=pixels[:, :, None, None])


def digest(module: nn.Module) -> str:
    """A hash of all parameters and buffers, by name and value."""
    sha = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        sha.update(name.encode() + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return sha.hexdigest()[:16]
