"""docs/extending.md: every example has its stated length and works as described."""

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from simmim_pl.data import Shapes
from simmim_pl.report.page import write_report
from simmim_pl.report.run import Run, load_run
from tests.conftest import QUIET

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/extending.md").read_text()
SECTIONS = {part.splitlines()[0].partition(" (")[0]: part for part in PAGE.split("\n## ")[1:]}
BLOCK = re.compile(r"^```(\w+)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.M | re.S)
MOST = {
    **{"A loss": 40, "A method": 70, "A view operation": 30, "A protocol": 40, "An encoder": 30, "A source": 40},
    **{"A callback": 40, "A report picture": 40},
}
SMALL = [*QUIET, "--trainer.enable_model_summary=false", "--data.batch_size=32", "--trainer.check_val_every_n_epoch=1"]
IMAGES = [f"--data.source.{key}={value}" for key, value in {"train": 200, "test": 100, "size": 16, "copies": 1}.items()]


def files(section: str) -> dict[str, str]:
    """A section's files by name."""
    return {name: text for _, name, text in BLOCK.findall(SECTIONS[section]) if name}


def commands(section: str) -> list[list[str]]:
    """The commands of a section, without ``python -m simmim_pl``."""
    typed = "".join(text for kind, _, text in BLOCK.findall(SECTIONS[section]) if kind == "bash")
    return [shlex.split(line)[3:] for line in typed.splitlines()]


@pytest.fixture
def mine(cli: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """``mine(args, *smaller)`` runs a command of the page next to its package, with small settings."""
    for section in SECTIONS:
        for name, text in files(section).items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
    (tmp_path / "mine/__init__.py").touch()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        monkeypatch.delitem(sys.modules, name)

    def run(args: list[str], *smaller: str) -> Path:
        ids = {path.parts[1]: str(path) for path in Path().glob("runs/*/*") if not path.parts[1].startswith(".")}
        args = [re.sub(r"^runs/(\w+)/ID", lambda found: ids[found[1]], arg) for arg in args]
        return cli([*args, *SMALL, *smaller])

    return run


def losses(run: Run) -> tuple[float, float]:
    """Losses of the first and the last epoch."""
    values = run.history["train/loss"][1]
    part = max(len(values) // 3, 1)
    return float(values[:part].mean()), float(values[-part:].mean())


def assert_evaluated(mine: Callable[..., Path], run: Path) -> None:
    """The run's checkpoint is evaluated from the command line, together with its baselines."""
    knn = ["validate", "--config=configs/evaluate/knn.yaml", "--data=configs/data/shapes.yaml", *IMAGES]
    card = json.loads((mine([*knn, f"--model.checkpoint={run / 'checkpoints/last.ckpt'}"]) / "result.json").read_text())
    assert [result["encoder"] for result in card["results"]] == ["pretrained", "untrained", "raw pixels"]


FIT = ["--trainer.log_every_n_steps=1", "--trainer.precision=32-true", "--trainer.max_epochs=2"]
TINY = [*IMAGES, *FIT, "--model.encoder.width=2"]
HEAD = ["--model.head.hidden_dim=8", "--model.head.output_dim=4"]


def test_examples_are_short_and_have_the_stated_length() -> None:
    assert SECTIONS.keys() == MOST.keys()
    for section, text in SECTIONS.items():
        (example,) = (lines for name, lines in files(section).items() if name.endswith(".py"))
        said = int(re.match(r".* \((\d+) lines\)", text)[1])
        assert len(example.splitlines()) == said <= MOST[section], section


def test_a_method_learns_resumes_is_evaluated_and_shows_pictures(
    mine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    fit, again, validate = commands("A method")
    run = mine(fit, *TINY, "--model.encoder.width=4", "--trainer.max_epochs=4", "--model.optimizer.lr=0.1")
    first, last = losses(load_run(run))
    assert last < 0.9 * first
    assert mine(again, *TINY, "--model.encoder.width=4", "--trainer.max_epochs=5", "--model.optimizer.lr=0.1") == run
    kept = load_run(run)
    assert len(kept.history["train/loss"][0]) == 5 * 5
    assert not {"representation/std", "information/infonce"} & kept.history.keys()
    assert {"representation/rankme", "val/knn", "val/chance"} <= kept.history.keys()
    write_report([run], run / "page.html")  # the callback's own report is not drawn in tests
    page = (run / "page.html").read_text()
    assert "<figcaption>image, masked, predicted</figcaption>" in page
    assert "the method has no projections" in page
    picture = kept.observed["picture: image, masked, predicted"]
    image, masked, _ = np.split(picture[2:18, 2:].reshape(16, 3, 18, 3)[:, :, :16], 3, axis=1)
    hidden = (image != masked).any((1, 3)).mean()  # of the columns
    assert hidden > 0
    (protocol,) = commands("A protocol")
    for command in (validate, protocol):
        card = json.loads((mine(command, *IMAGES) / "result.json").read_text())
        assert [result["encoder"] for result in card["results"]] == ["pretrained", "untrained", "raw pixels"]
    assert "| NearestMean | accuracy  |" in capsys.readouterr().out
    assert all("per_class" not in result for result in card["results"])


def test_half_of_the_patches_of_each_image_are_masked(mine: Callable[..., Path]) -> None:
    from mine.masked import MaskedImages  # type: ignore[import-not-found]

    from simmim_pl.encoders import FastCNN

    method = MaskedImages(FastCNN(2), optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1))
    method.generator = lambda purpose: torch.Generator().manual_seed(0)
    mask = method.mask(torch.zeros(5, 3, 16, 24))
    assert mask.shape == (5, 1, 16, 24)
    assert mask.float().mean((1, 2, 3)).tolist() == [0.5] * 5
    patches = mask.unfold(2, 4, 4).unfold(3, 4, 4)
    assert (patches.all((-1, -2)) | ~patches.any(-1).any(-1)).all()  # whole ones
    assert len({tuple(row.flatten().tolist()) for row in mask}) == 5


def test_a_loss_equals_the_papers_and_falls(mine: Callable[..., Path]) -> None:
    from mine.alignment import AlignmentUniformity  # type: ignore[import-not-found]

    z = torch.randn(3, 16, 8, generator=torch.Generator().manual_seed(0))
    x = torch.nn.functional.normalize(z, dim=-1)  # the paper's own lines, figure 5
    alignment = torch.stack([(x[a] - x[b]).norm(dim=1).pow(2).mean() for a, b in ((0, 1), (0, 2), (1, 2))]).mean()
    uniformity = torch.stack([torch.pdist(view).pow(2).mul(-3.0).exp().mean().log() for view in x]).mean()
    torch.testing.assert_close(AlignmentUniformity(0.5, 3.0)(z), alignment + 0.5 * uniformity)
    noise = torch.randn(2, 64, 2000, generator=torch.Generator().manual_seed(0))
    for loss, tells_nothing in ((AlignmentUniformity(), noise), (AlignmentUniformity(0.1), torch.ones(2, 16, 8))):
        assert loss(tells_nothing).item() == pytest.approx(loss.at_chance(2, 16, 8), abs=0.02)
    (fit,) = commands("A loss")
    folder = mine(fit, *TINY, *HEAD)
    first, last = losses(load_run(folder))
    assert last < first
    assert mine(fit, *TINY, *HEAD, "--ckpt_path=last", "--trainer.max_epochs=3") == folder
    history = load_run(folder).history
    assert len(history["train/loss"][0]) == 3 * 5
    assert set(history["train/loss_at_chance"][1]) == {-2}
    assert_evaluated(mine, folder)


def test_a_view_operation_masks_squares_and_is_used_in_views(mine: Callable[..., Path]) -> None:
    from mine.cutout import Cutout  # type: ignore[import-not-found]

    operation, view = Cutout(side=4), torch.ones(500, 3, 12, 12)
    drawn = operation.sample(500, torch.Generator().manual_seed(0), view.device)
    painted = operation.apply(view, drawn) == 0.5
    assert (painted.sum((1, 2, 3)) <= 3 * 16).all()
    assert painted.any(1).flatten(1).any(1).all()
    assert painted.any(0).any(0).all()  # anywhere
    (fit,) = commands("A view operation")
    run = mine(fit, *TINY, *HEAD)
    operations = load_run(run).config["data"]["init_args"]["views"]["init_args"]["operations"]
    assert [each["class_path"] for each in operations] == ["simmim_pl.views.Grayscale", "mine.cutout.Cutout"]
    assert_evaluated(mine, run)


def test_an_encoder_trains_and_is_evaluated_if_allowed(
    mine: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    from mine.convmixer import ConvMixer  # type: ignore[import-not-found]

    encoder = ConvMixer(8, depth=1, patch=4)
    features = encoder(torch.rand(2, 3, 16, 16))
    assert features.feature_map.shape == (2, encoder.feature_map_channels, 16 // encoder.stride, 16 // encoder.stride)
    assert features.pooled.shape == (2, encoder.embed_dim)
    fit, validate = commands("An encoder")
    first, last = losses(load_run(mine(fit, *TINY, *HEAD, "--model.encoder.width=8", "--model.encoder.depth=1")))
    assert last < first
    card = json.loads((mine(validate, *IMAGES) / "result.json").read_text())
    assert card["encoders"]["pretrained"]["class"] == "ConvMixer"
    with pytest.raises(SystemExit):
        mine(validate[: validate.index("--model.allow")], *IMAGES)
    assert "asks to import mine.convmixer.ConvMixer" in capsys.readouterr().err


def test_a_source_is_split_and_used_for_training(mine: Callable[..., Path], tmp_path: Path) -> None:
    made: dict[str, Any] = {}
    for split in ("train", "test"):
        part = Shapes(train=200, test=100, size=16, copies=1).load(split)
        made |= {f"{split}_images": part.images.permute(0, 2, 3, 1).numpy(), f"{split}_labels": part.labels[:, None]}
    np.savez(tmp_path / "pathmnist.npz", **made)
    (fit,) = commands("A source")
    folder = mine(fit, *FIT, *HEAD, "--model.encoder.width=2", "--data.source.classes=10")
    run = load_run(folder)
    assert {"val/knn", "val/probe"} <= run.history.keys()
    assert list(run.observed["classes"]) == [f"class {number}" for number in range(10)]
    assert_evaluated(mine, folder)


def test_one_callback_logs_and_another_shows_a_picture(mine: Callable[..., Path]) -> None:
    (fit,), (shown,) = commands("A callback"), commands("A report picture")
    run = mine(fit, *TINY, *HEAD, shown[-1])
    found = load_run(run)
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    weights = [value for name, value in saved.items() if name.startswith("encoder.") and ".running" not in name]
    norm = torch.cat([value.flatten() for value in weights if value.is_floating_point()][2:]).norm()  # mean, std first
    assert found.last("encoder/weight_norm") == pytest.approx(norm.item(), rel=1e-4)
    write_report([run], run / "page.html")
    page = (run / "page.html").read_text()
    assert "<h3>encoder/weight_norm</h3>" in page
    assert "<figcaption>first filters</figcaption>" in page
    picture = found.observed["picture: first filters"]
    assert picture.shape == (3 + 4, 2 * 5 + 2, 3)  # two filters of 3 × 3
    assert (picture.min(), picture.max()) == (0, 255)
    assert_evaluated(mine, run)
