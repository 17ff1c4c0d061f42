"""Evaluation through the command line: one table of all results, or a one-line error and no files."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
import yaml
from PIL import Image
from torch import Tensor

from simmim_pl.contracts import Features, InputError
from simmim_pl.encoders import FastCNN, Torchvision
from simmim_pl.evaluation import KNN, Evaluation
from simmim_pl.evaluation.context import EvaluationContext
from simmim_pl.evaluation.frozen import digest
from simmim_pl.evaluation.protocol import Result
from simmim_pl.runtime.checkpoint import load_encoder
from tests.conftest import CONFIGS, QUIET, SHAPES
from tests.forked import Program, environment

Command = Callable[[list[str]], Path]
NEAREST: dict[str, Any] = {"class_path": "simmim_pl.evaluation.KNN", "init_args": {"k": [3, 5]}}
TINY_SHAPES: dict[str, Any] = {
    "class_path": "simmim_pl.data.Shapes",
    "init_args": {"train": 40, "test": 20, "size": 16, "copies": 1},
}


def command(*more: str, verb: str = "validate", name: str = "knn") -> list[str]:
    return [verb, f"--config={CONFIGS / 'evaluate' / name}.yaml", *SHAPES, *QUIET, "--data.batch_size=32", *more]


def protocols(*each: dict[str, Any]) -> str:
    return f"--model.protocols={json.dumps(each)}"


def named(name: str, **arguments: Any) -> dict[str, Any]:
    return {"class_path": f"simmim_pl.{name}", "init_args": arguments}


def card(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return found


def values(found: dict[str, Any]) -> dict[tuple[str, ...], tuple[Any, ...]]:
    """Measured and selected values, by data, task, variant and encoder."""
    return {
        (each["data"], each["task"], each["variant"], each["encoder"]): (each["metrics"], each["chosen"])
        for each in found["results"]
    }


def refusal(run: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> str:
    """The error line of a refused command, which writes no result and no features."""
    with pytest.raises(SystemExit) as end:
        run()
    assert end.value.code == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert not list(Path.cwd().rglob("result.*"))
    assert not list(Path.cwd().rglob(".features/*"))
    return lines[0]


@pytest.fixture
def evaluated(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the encoders evaluated by kNN, in order."""
    seen: list[str] = []
    evaluate = KNN.evaluate

    def noted(self: KNN, context: EvaluationContext) -> list[Result]:
        seen.append(context.name)
        return evaluate(self, context)

    monkeypatch.setattr(KNN, "evaluate", noted)
    return seen


def test_validate_fit_and_test_give_the_same_evaluation(cli: Command, pretrained: Path, evaluated: list[str]) -> None:
    before, found = pretrained.read_bytes(), []
    linear = named("evaluation.LinearProbe", l2=[0.1, 0.01])
    for verb in ("validate", "fit", "test"):
        args = command(protocols(linear, NEAREST), f"--model.checkpoint={pretrained}", verb=verb, name="linear")
        found.append(card(cli(args)))
        assert evaluated == ["pretrained", "untrained", "raw pixels"]
        evaluated.clear()
    assert values(found[0]) == values(found[1]) == values(found[2])
    assert len(values(found[0])) == 2 * 3
    assert pretrained.read_bytes() == before
    hashes = {name: encoder["hash"] for name, encoder in found[0]["encoders"].items()}
    assert hashes["pretrained"] == digest(load_encoder(str(pretrained), trained=True))
    assert len(set(hashes.values())) == 3


def test_online_and_teacher_networks_are_evaluated_separately(cli: Command, pretrained: Path, tmp_path: Path) -> None:
    saved = torch.load(pretrained, weights_only=True)
    online = {name: tensor for name, tensor in saved["state_dict"].items() if name.startswith("encoder.")}
    saved["state_dict"] |= {f"teacher.{name}": tensor.flip(0) for name, tensor in online.items()}
    torch.save(saved, tmp_path / "both.ckpt")
    both = f"--model.checkpoint={tmp_path / 'both.ckpt'}"
    for network, name in (("online", "pretrained"), ("teacher", "teacher")):
        asked = [protocols(NEAREST), both, f"--model.network={network}", "--model.baselines=false"]
        found = card(cli(command(*asked)))
        expected = digest(load_encoder(tmp_path / "both.ckpt", network=network))  # type: ignore[arg-type]
        assert {encoder: each["hash"] for encoder, each in found["encoders"].items()} == {name: expected}
        assert [result["encoder"] for result in found["results"]] == [name]
    assert len(list(tmp_path.glob("runs/.features/*.pt"))) == 2 * 3  # of each network every split


def test_protocol_hyperparameters_are_options(cli: Command, pretrained: Path) -> None:
    options = ["--model.protocols.l2=[0.5]", "--model.baselines=false"]
    found = card(cli(command(f"--model.checkpoint={pretrained}", *options, name="linear")))
    assert [(each["encoder"], each["protocol"]) for each in found["results"]] == [
        ("pretrained", {"folds": False, "l2": [0.5]})
    ]
    assert found["results"][0]["chosen"]["l2"] == 0.5


class Cheat(FastCNN):
    """Changes with the images that it is evaluated on."""

    def forward(self, image: Tensor) -> Features:
        self.mean.lerp_(image.mean((0, 2, 3))[:, None, None], 1e-6)
        return super().forward(image)


class LateCheat(FastCNN):
    """Changes when its feature map is used: only the evaluation itself can detect this."""

    def __init__(self, width: int = 2) -> None:
        super().__init__(width)
        self.calls = 0

    def forward(self, image: Tensor) -> Features:
        self.calls += 1
        return super().forward(image)


@pytest.mark.parametrize(("kind", "name"), [("Cheat", "knn"), ("LateCheat", "dense")])
def test_an_encoder_that_learns_during_evaluation_is_refused(
    cli: Command, capsys: pytest.CaptureFixture[str], kind: str, name: str
) -> None:
    encoder = [f"--model.encoder=tests.evaluation.test_evaluation.{kind}", "--model.encoder.width=2"]
    short = (
        [protocols(named("evaluation.DenseProbe", lr_search={"lr": [0.01], "epochs": 1}))] if name == "dense" else []
    )
    line = refusal(lambda: cli(command(*encoder, *short, name=name)), capsys)
    assert f"The frozen encoder {kind} changed while it was evaluated, so nothing is reported" in line


def folder_of_images(root: Path, *classes: str) -> Path:
    """Twelve training images and four test images per class; the class is the colour."""
    for split, number in (("train", 12), ("test", 4)):
        for label, name in enumerate(classes):
            (root / split / name).mkdir(parents=True)
            for index in range(number):
                colour = (20 * index, 200 * label, 5 * index)
                Image.new("RGB", (16, 16), colour).save(root / split / name / f"{index}.png")
    return root


def test_protocols_evaluate_on_several_data_sets_in_one_table(
    cli: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = folder_of_images(tmp_path / "colours", "black", "green")
    own = {"class_path": "simmim_pl.data.ImageDataModule", "init_args": {"source": TINY_SHAPES, "batch_size": 16}}
    tune = named("evaluation.FineTune", views=named("views.CropFlip"), epochs=1)
    dense = named("evaluation.DenseProbe", lr_search={"lr": [0.01], "epochs": 1}, data=own)
    further = {"source": named("data.Folder", root=str(folder), size=16), "batch_size": 8, "validation": 4}
    found = card(
        cli(
            command(
                protocols(NEAREST, tune, dense),
                f"--model.transfer={json.dumps([named('data.ImageDataModule', **further)])}",
                *(
                    "--model.encoder=simmim_pl.encoders.FastCNN",
                    "--model.encoder.width=2",
                    "--data.source.train=60",
                ),
            )
        )
    )
    rows = {(each["data"], each["task"]): [] for each in found["results"]}
    for each in found["results"]:
        rows[each["data"], each["task"]].append(each["encoder"])
    assert rows == {
        ("Shapes", "KNN"): ["given", "raw pixels"],
        ("Shapes", "FineTune"): ["given"],  # raw pixels have nothing to tune
        ("colours", "KNN"): ["given", "raw pixels"],
        ("colours", "FineTune"): ["given"],
        ("Shapes", "DenseProbe"): ["given", "raw pixels"],
    }
    assert [(data["name"], data["items"]["train"], data["items"]["test"]) for data in found["data"]] == [
        *(("Shapes", 54, 100), ("colours", 20, 8), ("Shapes", 36, 20)),
    ]
    dense_rows = [each for each in found["results"] if each["task"] == "DenseProbe"]
    assert sum(map(sum, dense_rows[0]["confusion"])) == 20 * 16 * 16  # pixels of its own test images, once each
    assert next(each for each in found["results"] if each["data"] == "colours")["per_class"].keys() == {
        *("black", "green"),
    }
    printed = capsys.readouterr().out
    assert printed.count("| data ") == 1
    lines = [line for line in printed.splitlines() if line.startswith(("| Shapes", "| colours"))]
    assert len(lines) == 2 + 2 + 2  # the dense probe has two metrics
    assert all(line.rstrip(" |").endswith("–") == ("FineTune" in line) for line in lines)


@pytest.mark.parametrize("prefix", ["", "module.backbone."])
def test_weights_of_another_tool_are_compared_with_the_encoder_without_them(
    cli: Command, tmp_path: Path, prefix: str
) -> None:
    torch.manual_seed(5)
    theirs = FastCNN(2)
    torch.save({f"{prefix}{name}": tensor for name, tensor in theirs.state_dict().items()}, tmp_path / "theirs.pt")
    encoder = ["--model.encoder=simmim_pl.encoders.FastCNN", "--model.encoder.width=2", "--model.weights=theirs.pt"]
    found = card(cli(command(*encoder, protocols(NEAREST))))
    assert list(found["encoders"]) == ["given", "without weights", "raw pixels"]
    assert found["encoders"]["given"]["hash"] == digest(theirs)
    assert found["encoders"]["without weights"]["hash"] != digest(theirs)
    assert found["checkpoint"] is None


def test_a_torchvision_network_is_evaluated_with_a_weight_file(cli: Command, tmp_path: Path) -> None:
    torch.manual_seed(5)
    theirs = torchvision.models.resnet18()
    torch.save(theirs.state_dict(), tmp_path / "resnet18.pth")
    encoder = ["--model.encoder=simmim_pl.encoders.Torchvision", "--model.encoder.name=resnet18"]
    small = ["--data.source.train=40", "--data.source.test=20", "--data.source.size=32"]
    found = card(cli(command(*encoder, "--model.weights=resnet18.pth", protocols(NEAREST), *small)))
    assert found["encoders"]["given"]["class"] == "Torchvision"
    expected = Torchvision("resnet18")
    expected.net.load_state_dict({k: v for k, v in theirs.state_dict().items() if not k.startswith("fc.")})
    assert found["encoders"]["given"]["hash"] == digest(expected)
    assert [each["encoder"] for each in found["results"]] == ["given", "without weights", "raw pixels"]


def test_an_evaluation_needs_a_protocol(cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="at least one protocol"):
        Evaluation([], encoder=FastCNN(2))
    line = refusal(lambda: cli(command("--model.protocols=[]", f"--model.checkpoint={pretrained}")), capsys)
    assert "An evaluation needs at least one protocol" in line


def test_exactly_one_of_checkpoint_and_encoder_is_required(
    cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for both in ([], [f"--model.checkpoint={pretrained}", "--model.encoder=simmim_pl.encoders.FastCNN"]):
        line = refusal(lambda both=both: cli(command(*both)), capsys)
        assert "either --model.checkpoint PATH or --model.encoder, not both" in line


def test_a_folder_without_labels_is_refused(
    cli: Command, pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "flat").mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (number, 2 * number, 0)).save(tmp_path / "flat" / f"{number}.png")
    data = [f"--data={CONFIGS / 'data/folder.yaml'}", "--data.source.root=flat", "--data.source.size=16"]
    args = [arg for arg in command(f"--model.checkpoint={pretrained}") if arg not in SHAPES]
    line = refusal(lambda: cli([*args[:2], *data, *args[2:]]), capsys)
    assert "without labels" in line or "no labels" in line
    assert "train/CLASS/" in line or "class folders" in line


@pytest.mark.parametrize("verb", ["validate", "fit"])
def test_an_empty_validation_split_is_refused(
    cli: Command, pretrained: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    args = command(f"--model.checkpoint={pretrained}", "--data.validation=0", verb=verb)
    assert "The validation split is empty" in refusal(lambda: cli(args), capsys)


def test_two_ranks_give_the_results_of_one_and_one_table(cli: Command, pretrained: Path) -> None:
    few = named("evaluation.FewLabels", shares=[0.5], per_class=[2], draws=2)
    options = [
        protocols(named("evaluation.LinearProbe", l2=[1.0, 0.1]), NEAREST, few),
        *("--data.source.test=41", "--data.source.train=83", f"--model.checkpoint={pretrained}"),
    ]
    one = card(cli(command(*options)))
    before = set(Path("runs/knn").iterdir())
    # Without the features cached by one process.
    args = command(*options, "--model.cache=false", "--trainer.strategy=ddp", "--trainer.devices=2")
    ended = Program("simmim_pl", args, Path.cwd(), environment())
    out, error = ended.communicate(200)
    assert ended.returncode == 0, error
    (folder,) = set(Path("runs/knn").iterdir()) - before
    two = card(folder)
    assert values(two) == values(one)
    assert len(values(one)) == 3 * (1 + 1 + 2)
    for part in ("data", "encoders"):
        assert two[part] == one[part]
    assert (one["device"], two["device"]) == ("cpu × 1", "cpu × 2")
    assert out.count("| data ") == 1


def test_an_evaluation_sets_trainer_defaults_that_users_can_override(
    cli: Callable[[list[Any]], Path], pretrained: Path
) -> None:
    knn = ["validate", f"--config={CONFIGS / 'evaluate/knn.yaml'}", f"--model.checkpoint={pretrained}", *SHAPES, *QUIET]
    found = [
        yaml.safe_load((cli([*knn, *more]) / "config.yaml").read_text())["trainer"]
        for more in ([], ["--trainer.limit_val_batches=3", "--trainer.enable_model_summary=true"])
    ]
    assert [part["limit_val_batches"] for part in found] == [2, 3]
    assert [part["enable_model_summary"] for part in found] == [False, True]
    assert [part["limit_test_batches"] for part in found] == [2, 2]
