"""An evaluation through the command line: a frozen encoder stays frozen, and every image counts once."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback, Trainer
from PIL import Image
from torch import Tensor, nn

import simmim_pl
from simmim_pl.checkpoint import load_encoder
from simmim_pl.data import Folder, Images, Shapes
from simmim_pl.encoders import FastCNN
from simmim_pl.evaluation import KNN, LinearProbe
from simmim_pl.evaluation.frozen import Frozen, RawPixels, digest
from simmim_pl.records import InputError
from tests.conftest import CONFIGS, QUIET, SHAPES

Command = Callable[[list[str]], Path]
PACKAGE = Path(simmim_pl.__file__).parents[1]


def config(name: str, *more: str) -> list[str]:
    return ["fit", f"--config={CONFIGS / 'evaluate' / name}.yaml", *SHAPES, *QUIET, "--data.batch_size=32", *more]


def card(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def refusal(run: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The line that a refused command leaves."""
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


def given(**options: Any) -> KNN:
    torch.manual_seed(0)
    return KNN(k=5, encoder=FastCNN(2), **options)


def trainer(root: Path, *callbacks: Callback, **options: Any) -> Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    options = {"max_epochs": 1, "num_sanity_val_steps": 0, "enable_checkpointing": False, **quiet, **options}
    return Trainer(accelerator="cpu", devices=1, default_root_dir=root, callbacks=list(callbacks), **options)


def shapes(test: int = 20) -> Images:
    return Images(Shapes(train=50, test=test, size=16, copies=1), batch_size=8, validation=10)


def judge(root: Path, module: Frozen, *callbacks: Callback, images: Images | None = None) -> Trainer:
    """What the command line does: fit, then test."""
    runner, images = trainer(root, *callbacks), images or shapes()
    runner.fit(module, datamodule=images)
    runner.test(module, datamodule=images, verbose=False)
    return runner


class Watch(Callback):
    """The encoder as it is whenever a batch of any stage is seen."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, bool, bool]] = []

    def look(self, module: Frozen) -> None:
        parts = list(module.subjects.modules())
        free = any(parameter.requires_grad for parameter in module.subjects.parameters())
        self.seen.append((digest(module.subjects), any(part.training for part in parts), free))

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.look(pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.look(pl_module)

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.look(pl_module)


@pytest.mark.parametrize("kind", [KNN, LinearProbe])
def test_the_encoder_never_changes(tmp_path: Path, pretrained: Path, kind: type[Frozen]) -> None:
    module, watch = kind(checkpoint=str(pretrained)), Watch()
    before = {name: tensor.clone() for name, tensor in module.subjects.state_dict().items()}
    judge(tmp_path, module, watch)
    after = module.subjects.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before.keys() | after.keys())
    assert len(watch.seen) == 5 + 2 + 3  # batches of train, validation and test
    assert set(watch.seen) == {(module.digest, False, False)}
    assert not any(parameter.grad is not None for parameter in module.subjects.parameters())


def test_the_subject_is_the_checkpoint_and_the_baseline_is_not(pretrained: Path) -> None:
    module = KNN(checkpoint=str(pretrained), seed=3)
    saved = torch.load(pretrained, weights_only=True)["state_dict"]
    loaded, fresh = (module.subjects[name].state_dict() for name in ("pretrained", "untrained"))
    assert all(torch.equal(tensor, saved[f"encoder.{name}"]) for name, tensor in loaded.items())
    torch.manual_seed(3)
    again = load_encoder(str(pretrained), trained=False).state_dict()
    assert all(torch.equal(fresh[name], again[name]) for name in again)
    weights = [name for name, tensor in fresh.items() if tensor.ndim == 4]
    assert all(not torch.equal(fresh[name], loaded[name]) for name in weights)


def test_training_mode_reaches_the_probe_and_not_the_encoder() -> None:
    module = given()
    assert module.train() is module
    assert module.training
    assert not any(part.training for part in module.subjects.modules())
    assert not any(parameter.requires_grad for parameter in module.subjects.parameters())


class Tamper(Callback):
    """Changes one number of the encoder before the test."""

    def __init__(self, find: Callable[[nn.Module], Tensor]) -> None:
        self.find = find

    def on_test_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.find(pl_module.subjects["given"]).add_(1)


def buffer(ending: str) -> Callable[[nn.Module], Tensor]:
    return lambda encoder: next(tensor for name, tensor in encoder.named_buffers() if name.endswith(ending))


@pytest.mark.parametrize(
    "find",
    [*map(buffer, ("mean", "running_var", "num_batches_tracked")), lambda encoder: next(encoder.parameters()).data],
)
def test_an_encoder_that_changed_is_not_judged(tmp_path: Path, find: Callable[[nn.Module], Tensor]) -> None:
    with pytest.raises(RuntimeError, match="the frozen encoder changed while it was judged"):
        judge(tmp_path, given(), Tamper(find))


def test_the_digest_tells_name_value_and_type_apart() -> None:
    module = FastCNN(2)
    first = digest(module)
    assert digest(module) == first
    with torch.no_grad():
        next(module.parameters()).view(-1)[0] += 1e-6
    assert digest(module) != first
    assert digest(nn.ModuleDict({"a": nn.Linear(2, 2)})) != digest(nn.ModuleDict({"b": nn.Linear(2, 2)}))


def test_features_are_those_of_every_image_in_the_order_of_the_data_set(tmp_path: Path) -> None:
    module, images = given(), shapes()
    judge(tmp_path, module, images=images)
    for split, subset in images.splits.items():
        if split == "reference":
            continue
        rows, whole = module.whole(split), subset.dataset
        index = torch.tensor(list(subset.indices))
        assert torch.equal(rows["index"], index)
        assert torch.equal(rows["label"], whole.labels[index])
        torch.testing.assert_close(rows["raw pixels"], whole.images[index].flatten(1) / 255)
        expected = module.subjects["given"](whole.images[index] / 255).pooled
        torch.testing.assert_close(rows["given"], expected, atol=1e-5, rtol=1e-5)


def test_the_accuracy_is_that_of_the_scores_on_the_test_images(tmp_path: Path) -> None:
    module, images = given(), shapes()
    runner = judge(tmp_path, module, images=images)
    train, validation, test = (module.whole(split) for split in ("train", "validation", "test"))
    for name in ("given", "raw pixels"):
        bank = torch.cat([train[name], validation[name]])
        similarity = nn.functional.cosine_similarity(test[name][:, None], bank[None], dim=2)
        labels = torch.cat([train["label"], validation["label"]])
        best = similarity.argsort(1, descending=True)[:, :5]
        votes = nn.functional.one_hot(labels[best], 10) * (similarity.gather(1, best) / 0.1).exp()[..., None]
        accuracy = (votes.sum(1).argmax(1) == test["label"]).double().mean().item()
        assert runner.callback_metrics[f"test/{name.replace(' ', '_')}"].item() == pytest.approx(accuracy, abs=1e-6)


def test_images_that_ranks_share_count_once() -> None:
    module = given(baselines=False)
    label = torch.arange(10)

    def part(index: list[int]) -> dict[str, Tensor]:
        rows = torch.tensor(index)
        return {"given": rows[:, None].float() * 2, "label": label[rows], "index": rows}

    module.parts = {"test": [part([4, 0, 2]), part([1, 3]), part([0, 4])]}  # a sampler pads with the first images
    whole = module.whole("test")
    assert whole["index"].tolist() == whole["label"].tolist() == [0, 1, 2, 3, 4]
    assert whole["given"].flatten().tolist() == [0, 2, 4, 6, 8]


def test_two_ranks_give_the_result_of_one(cli: Command, pretrained: Path) -> None:
    options = ["--data.source.test=101", f"--model.checkpoint={pretrained}", "--data.source.train=203"]
    one = card(cli(config("linear", *options)))
    before = set(Path("runs/linear").iterdir())
    command = [sys.executable, "-m", "simmim_pl", *config("linear", *options, "--trainer.strategy=ddp")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(PACKAGE)}
    ended = subprocess.run(
        [*command, "--trainer.devices=2"], env=environment, capture_output=True, text=True, timeout=100, check=False
    )
    assert ended.returncode == 0, ended.stderr
    (folder,) = set(Path("runs/linear").iterdir()) - before
    two = card(folder)
    assert two["images"] == one["images"] == {"train": 183, "validation": 20, "test": 101}
    assert two["encoder_hash"] == one["encoder_hash"]
    assert two["results"].keys() == one["results"].keys() == {"pretrained", "untrained", "raw pixels"}
    for name, result in one["results"].items():
        assert two["results"][name]["accuracy"] == pytest.approx(result["accuracy"], abs=1e-9)
        assert two["results"][name] == result
    assert ended.stdout.count("on Shapes: ") == 1  # one rank prints


def test_one_or_the_other_of_checkpoint_and_encoder_is_asked_for(
    cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = "--model.encoder=simmim_pl.encoders.FastCNN"
    for both in ([], [f"--model.checkpoint={pretrained}", encoder]):
        line = refusal(lambda both=both: cli(config("knn", *both)), capsys)
        assert "either --model.checkpoint PATH or --model.encoder, not both" in line


def test_a_given_encoder_is_judged_as_it_is(cli: Command) -> None:
    folder = cli(config("knn", "--model.encoder=simmim_pl.encoders.FastCNN", "--model.encoder.width=3"))
    result = card(folder)
    assert result["checkpoint"] is None
    assert {name: row["width"] for name, row in result["results"].items()} == {"given": 24, "raw pixels": 768}


@pytest.mark.parametrize("name", ["knn", "linear"])
def test_without_baselines_the_checkpoint_stands_alone(cli: Command, pretrained: Path, name: str) -> None:
    result = card(cli(config(name, f"--model.checkpoint={pretrained}", "--model.baselines=false")))
    assert list(result["results"]) == ["pretrained"]
    assert result["results"]["pretrained"]["width"] == 16


def test_the_baselines_change_nothing_about_the_checkpoint(cli: Command, pretrained: Path) -> None:
    alone, beside = (
        card(cli(config("linear", f"--model.checkpoint={pretrained}", f"--model.baselines={on}")))
        for on in ("false", "true")
    )
    assert alone["results"]["pretrained"] == beside["results"]["pretrained"]


def test_a_test_without_a_fit_is_refused(cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(lambda: cli(["test", *config("knn", f"--model.checkpoint={pretrained}")[1:]]), capsys)
    assert "An evaluation starts with fit" in line


def test_a_checkpoint_that_is_not_there_is_refused(cli: Command, capsys: pytest.CaptureFixture[str]) -> None:
    line = refusal(lambda: cli(config("knn", "--model.checkpoint=nowhere.ckpt")), capsys)
    assert "There is no checkpoint nowhere.ckpt" in line


def test_a_folder_without_labels_is_refused(
    cli: Command, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (number, 2 * number, 0)).save(tmp_path / "flat" / f"{number}.png")
    data = [f"--data={CONFIGS / 'data/folder.yaml'}", "--data.source.root=flat", "--data.source.size=16"]
    base = [arg for arg in config("knn", f"--model.checkpoint={pretrained}") if arg not in SHAPES]
    line = refusal(lambda: cli([*base[:2], *data, *base[2:]]), capsys)
    assert "no labels: an evaluation needs class folders" in line
    with pytest.raises(InputError, match="no labels"):
        judge(tmp_path, given(), images=Images(Folder(str(tmp_path / "flat"), size=16), batch_size=8))


def test_an_empty_validation_split_is_refused(
    cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(lambda: cli(config("linear", f"--model.checkpoint={pretrained}", "--data.validation=0")), capsys)
    assert "The validation split is empty" in line


def test_a_second_fit_starts_afresh(tmp_path: Path) -> None:
    module = given()
    first = judge(tmp_path, module).callback_metrics
    module.parts.pop("test")
    assert judge(tmp_path, module).callback_metrics == first
    assert len(module.whole("train")["index"]) == 40


def test_raw_pixels_are_the_pixels() -> None:
    image = torch.rand(2, 3, 4, 5)
    assert torch.equal(RawPixels()(image).pooled, image.reshape(2, 60))
