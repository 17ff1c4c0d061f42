"""The reference recipe compared with an independent plain-PyTorch loop: loss curves should agree within seed noise.

    python benchmarks/reference_curve.py --images FOLDER        # from the repository's root; FOLDER/train/<class>/*

Ours is ``python -m simmim_pl fit --config configs/cifar10.yaml`` for one epoch on 10,000 images. The other side shares
no code with the package: torchvision's per-image transforms in worker processes, torchvision's ResNet-18, two forward
passes per step, cross entropy over a similarity matrix, torch's cosine schedule; the same seeds initialise both.
Prints a Markdown table and writes ``reference_curve.json``. It resumes: results in the file are not computed again.
"""

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms as T
from torchvision.datasets import ImageFolder
from torchvision.models import resnet18

BATCH = 512
PER_CLASS = 1000


def subset(images: Path, folder: Path) -> None:
    """Link the first images of every class: 10,000 of CIFAR-10."""
    for label in sorted(path for path in (images / "train").iterdir() if path.is_dir()):
        (folder / "train" / label.name).mkdir(parents=True)
        for image in sorted(label.iterdir())[:PER_CLASS]:
            (folder / "train" / label.name / image.name).symlink_to(image.resolve())


def ours(folder: Path, seed: int, precision: str) -> list[float]:
    """The loss of every step of one epoch through the command line."""
    with tempfile.TemporaryDirectory() as runs:
        command = [
            *(sys.executable, "-m", "simmim_pl", "fit", "--config", "configs/cifar10.yaml", "--runs", runs),
            *("--data.source", "simmim_pl.data.Folder", "--data.source.root", str(folder), "--data.validation", "0"),
            *("--trainer.max_epochs", "1", "--trainer.precision", precision, "--seed_everything", str(seed)),
            *("--trainer.log_every_n_steps", "1", "--trainer.limit_val_batches", "0", "--callbacks.enabled", "false"),
            *("--trainer.enable_progress_bar", "false"),
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "WANDB_MODE": "disabled"})
        (path,) = Path(runs).glob("*/*/metrics.csv")
        with path.open() as file:
            return [float(row["train/loss"]) for row in csv.DictReader(file) if row["train/loss"]]


class TwoViews(Dataset):
    """torchvision's transforms, twice per image."""

    def __init__(self, folder: Path) -> None:
        jitter = T.RandomApply([T.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8)
        crop = T.RandomResizedCrop(32, scale=(0.2, 1.0))
        normalise = T.Normalize((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
        grey = T.RandomGrayscale(0.1)
        self.transform = T.Compose([crop, T.RandomHorizontalFlip(), jitter, grey, T.ToTensor(), normalise])
        self.images = [image for image, _ in ImageFolder(folder / "train")]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.transform(self.images[index]), self.transform(self.images[index])


def plain(folder: Path, seed: int, precision: str) -> list[float]:
    """The same recipe as a loop."""
    torch.manual_seed(seed)
    net = resnet18(weights=None)
    net.conv1, net.maxpool, net.fc = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity(), nn.Identity()
    head = nn.Sequential(nn.Linear(512, 1024), nn.ReLU(), nn.Linear(1024, 128))
    model = nn.Sequential(net, head).to(memory_format=torch.channels_last)
    loader = DataLoader(TwoViews(folder), BATCH, shuffle=True, drop_last=True, num_workers=2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.03 * BATCH / 256, momentum=0.9, weight_decay=5e-4)
    schedule = CosineAnnealingLR(optimizer, T_max=len(loader))
    target = torch.arange(2 * BATCH).roll(BATCH)
    losses = []
    for first, second in loader:
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=precision == "bf16-mixed"):
            z = torch.cat([model(first), model(second)])
        z = F.normalize(z.float())
        loss = F.cross_entropy((z @ z.T / 0.5).fill_diagonal_(-torch.inf), target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


def report(curves: dict[str, list[float]]) -> str:
    """For each step: both means over seeds, their difference, and its standard error from seeds."""
    sides = {name: torch.tensor([c for key, c in curves.items() if key.startswith(name)]) for name in ("ours", "plain")}
    a, b = sides["ours"], sides["plain"]
    difference = a.mean(0) - b.mean(0)
    noise = (a.var(0) / len(a) + b.var(0) / len(b)).sqrt()
    lines = ["| step | ours | plain loop | difference | standard error |", "|---:|---:|---:|---:|---:|"]
    for step in range(a.shape[1]):
        cells = (a.mean(0)[step], b.mean(0)[step], difference[step], noise[step])
        lines.append(f"| {step + 1} | " + " | ".join(f"{cell:.3f}" for cell in cells) + " |")
    epoch = (a.mean(1).mean() - b.mean(1).mean(), (a.mean(1).var() / len(a) + b.mean(1).var() / len(b)).sqrt())
    lines += ["", f"Mean over the epoch: difference {epoch[0]:+.4f}, standard error {epoch[1]:.4f}."]
    lines += [f"Steps within two standard errors: {int((difference.abs() < 2 * noise).sum())} of {a.shape[1]}."]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, required=True, help="folder with train/<class>/* image files")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    parser.add_argument("--out", type=Path, default=Path("reference_curve.json"))
    options = parser.parse_args()
    curves = json.loads(options.out.read_text()) if options.out.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        subset(options.images, Path(folder))
        for seed in range(options.seeds):
            for name, run in (("ours", ours), ("plain", plain)):
                key = f"{name} {options.precision} {seed}"
                if key not in curves:
                    curves[key] = run(Path(folder), seed, options.precision)
                    options.out.write_text(json.dumps(curves, indent=1))
                print(key, [round(loss, 3) for loss in curves[key]], flush=True)
    print(report({key: curve for key, curve in curves.items() if options.precision in key}))


if __name__ == "__main__":
    main()
