"""The command line as users run it: run directories, W&B, .env, resuming, two processes."""

import csv
import json
import os
import struct
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, LightningDataModule, LightningModule
from pyarrow import parquet
from wandb.proto.wandb_internal_pb2 import Record

from simmim_pl import methods
from simmim_pl.command import cli as command_line
from tests.conftest import CONFIGS, EVALUATION, QUIET, TINY
from tests.forked import Program, environment
from tests.test_bad_input import refusal  # noqa: F401, a fixture
from tests.test_parity import BYOL

Cli = Callable[[list[Any]], Path]
KEY = "0123456789abcdef0123456789abcdef01234567"


def rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def records(run: Path) -> Iterator[Record]:
    """Every record of a run's offline W&B file: LevelDB's log format, after a header of seven bytes."""
    (path,) = run.glob("wandb/offline-run-*/*.wandb")
    data, at, whole = path.read_bytes(), 7, b""
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:  # the rest of a block is padding
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack("<HB", data[at + 4 : at + 7])  # after a checksum of four bytes
        whole += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a complete record, or the last part of one
            record = Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def logged_config(run: Path) -> dict[str, Any]:
    updates = [u for r in records(run) for u in (*r.run.config.update, *r.config.update)]
    return {u.key: json.loads(u.value_json) for u in updates if u.key and u.key != "_wandb"}


def content(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_run_directory_holds_config_checkpoints_metrics_and_views(cli: Cli) -> None:
    run = cli(TINY)
    assert run.parent == Path.cwd() / "runs/quickstart"
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["model"]["init_args"]["encoder"]["init_args"]["width"] == 2
    assert (run / "views.png").stat().st_size > 0
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert saved["global_step"] == 2 * (180 // 32)
    assert saved["config"] == config
    names = set(rows(run)[0])
    assert {"train/loss", "train/contrastive_accuracy", "train/lr", "train/images_per_second"} <= names
    assert {"val/knn", "val/probe"} <= names


def test_a_second_run_does_not_touch_the_first(cli: Cli) -> None:
    first = cli(TINY)
    before = content(first)
    second = cli(TINY)
    assert second != first
    assert content(first) == before


def test_the_saved_config_reproduces_the_run(cli: Cli) -> None:
    first = cli(TINY)
    second = cli(["fit", "--config", first / "config.yaml"])
    losses = [[row["train/loss"] for row in rows(run) if row["train/loss"]] for run in (first, second)]
    assert losses[0] == losses[1]


def test_wandb_runs_offline_without_a_key_and_gets_the_nested_config_once(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    run = cli([*TINY, "--trainer.log_every_n_steps=1"])
    assert "wandb sync" in caplog.text
    config = logged_config(run)
    assert config == yaml.safe_load((run / "config.yaml").read_text())
    history = {tuple(item.nested_key) or item.key for r in records(run) for item in r.history.item}
    names = {name if isinstance(name, str) else ".".join(name) for name in history}
    assert {"train/loss", "val/knn"} <= {name.split(".")[0] for name in names}
    assert list(run.glob("wandb/offline-run-*/files/media/images/data/views*.png"))


def test_the_api_key_is_never_written(cli: Cli, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    (tmp_path / ".env").write_text(f"WANDB_API_KEY={KEY}\n")
    run = cli(TINY)
    assert os.environ["WANDB_API_KEY"] == KEY
    assert not [path for path, text in content(run).items() if KEY.encode() in text]
    monkeypatch.delenv("WANDB_API_KEY")


def test_dotenv_sets_variables_missing_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_PROJECT", "from the environment")
    for name in ("WANDB_ENTITY", "SIMMIM_DATA_DIR", "WANDB_MODE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    (tmp_path / ".env").write_text("WANDB_PROJECT=file\nWANDB_ENTITY=file\nSIMMIM_DATA_DIR='a b'\nWANDB_MODE=\n")
    command_line.read_dotenv()
    assert os.environ["WANDB_PROJECT"] == "from the environment"
    assert os.environ["WANDB_ENTITY"] == "file"
    assert os.environ["SIMMIM_DATA_DIR"] == "a b"
    assert "WANDB_MODE" not in os.environ


def test_a_binary_dotenv_is_a_one_line_error(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    tmp_path: Path,
) -> None:
    (tmp_path / ".env").write_bytes(b"WANDB_PROJECT=\xff\n")
    assert "/.env cannot be read ('utf-8' codec" in refusal(TINY)


def test_untrained_is_refused_where_it_has_no_effect(
    refusal: Callable[[list[Any]], str],  # noqa: F811
    pretrained: Path,
) -> None:
    line = ["validate", *TINY[1:], "--untrained=true", f"--ckpt_path={pretrained}"]
    assert "--untrained means random weights, and --ckpt_path saved ones" in refusal(line)
    line = ["validate", f"--config={CONFIGS / 'evaluate/knn.yaml'}", f"--model.checkpoint={pretrained}", *EVALUATION]
    assert "--untrained is for methods, and Evaluation is not one: remove it." in refusal([*line, "--untrained=true"])


class Plain(LightningModule):
    """A user's module without arguments and with only an optimizer."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(3, 1)

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.net(batch["image"] / 255).mean()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Rows(LightningDataModule):
    """A user's data without arguments."""

    def train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader([{"image": torch.ones(3, 8, 3, dtype=torch.uint8)}] * 12, 4)


def test_classes_without_arguments_train_and_resume(cli: Cli) -> None:
    line = [
        "fit",
        *(f"--{part}=tests.command.test_cli.{name}" for part, name in (("model", "Plain"), ("data", "Rows"))),
    ]
    line += [*QUIET, "--trainer.enable_model_summary=false"]
    run = cli([*line, "--trainer.max_epochs=1"])
    assert cli([*line, "--trainer.max_epochs=2", "--ckpt_path=last"]) == run
    saved = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    assert (saved["global_step"], saved["lr_schedulers"]) == (6, [])


def test_the_env_example_lists_every_variable() -> None:
    text = (CONFIGS.parent / ".env.example").read_text()
    for name in ("WANDB_API_KEY", "WANDB_ENTITY", "WANDB_PROJECT", "WANDB_MODE", "SIMMIM_DATA_DIR"):
        assert f"\n{name}=" in text


@pytest.fixture(scope="module", autouse=True)
def unreachable(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Program, Path]]:
    """A run whose W&B server does not answer, and its folder. W&B waits for ten seconds, during which others run."""
    folder = tmp_path_factory.mktemp("unreachable")
    server = {"WANDB_MODE": "online", "WANDB_API_KEY": KEY, "WANDB_BASE_URL": "http://127.0.0.1:9"}
    short = partial(exec, "import simmim_pl.command.loggers as page; page.WANDB_TIMEOUT = 3.0")
    process = Program("simmim_pl", TINY, folder, environment(**server), short)
    yield process, folder
    process.kill()


def test_an_unreachable_wandb_server_does_not_stop_the_run(unreachable: tuple[Program, Path]) -> None:
    process, folder = unreachable
    _, said = process.communicate(120)
    assert process.returncode == 0, said
    assert "W&B cannot be reached, so the run continues offline" in said
    (run,) = (folder / "runs/quickstart").iterdir()
    assert logged_config(run)["name"] == "quickstart"
    assert (run / "checkpoints/last.ckpt").exists()


def test_resuming_ends_where_an_uninterrupted_run_ends(cli: Cli) -> None:
    whole = torch.load(cli(TINY) / "checkpoints/last.ckpt", weights_only=True)
    # Interrupted: the schedule is for two epochs, the run stops after one.
    half = cli([*TINY, "--trainer.callbacks+=tests.command.test_cli.StopAfterOne"])
    ckpt = half / "checkpoints/last.ckpt"
    assert torch.load(ckpt, weights_only=True)["epoch"] == 0
    resumed = torch.load(cli([*TINY, "--ckpt_path", ckpt]) / "checkpoints/last.ckpt", weights_only=True)
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(tensor, resumed["state_dict"][name]), name
    assert whole["global_step"] == resumed["global_step"]


class StopAfterOne(Callback):
    """Ends training after the first epoch, as ``max_epochs`` would, without changing the schedule."""

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        trainer.should_stop = True


def test_linear_and_knn_evaluate_a_checkpoint_and_its_baselines(
    cli: Cli, pretrained: Path, capsys: pytest.CaptureFixture
) -> None:
    for name, task in (("linear", "LinearProbe"), ("knn", "KNN")):
        config = f"--config={CONFIGS / 'evaluate' / name}.yaml"
        run = cli(["validate", config, f"--model.checkpoint={pretrained}", *EVALUATION])
        card = json.loads((run / "result.json").read_text())
        assert card["data"][0]["items"] == {"train": 180, "validation": 20, "test": 100}
        assert [result["encoder"] for result in card["results"]] == ["pretrained", "untrained", "raw pixels"]
        printed = capsys.readouterr().out
        for result in card["results"]:
            assert result["task"] == task
            accuracy = result["metrics"]["accuracy"]
            assert 0 <= accuracy["interval"][0] <= accuracy["value"] <= accuracy["interval"][1] <= 1
            assert f"{100 * accuracy['value']:.1f} [" in printed


@pytest.mark.parametrize("verb", ["validate", "fit", "test"])
def test_the_result_reaches_wandb(cli: Cli, pretrained: Path, monkeypatch: pytest.MonkeyPatch, verb: str) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = f"--config={CONFIGS / 'evaluate/knn.yaml'}"
    run = cli([verb, config, f"--model.checkpoint={pretrained}", *EVALUATION])
    card = json.loads((run / "result.json").read_text())
    values, summary = {}, {}
    for record in records(run):
        values |= {".".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
        summary |= {".".join(item.nested_key) or item.key: item.value_json for item in record.summary.update}
    accuracy = card["results"][0]["metrics"]["accuracy"]["value"]
    assert json.loads(values["test/Shapes/KNN/pretrained/accuracy"]) == accuracy
    assert json.loads(summary["card"]) == card
    tables = {path.name.rsplit("_", 2)[0]: path for path in run.glob("wandb/offline-run-*/files/media/table/**/*.json")}
    results, classes, confusion = (
        next(json.loads(path.read_text())["data"] for name, path in tables.items() if name.startswith(beginning))
        for beginning in ("results", "classes", "confusion of Shapes KNN pretrained")
    )
    assert [row[3] for row in results] == ["pretrained", "untrained", "raw pixels"]
    assert [row[4:] for row in classes[:10]] == list(map(list, card["results"][0]["per_class"].items()))
    assert sum(row[2] for row in confusion) == 100
    assert [row[2] for row in confusion[:10]] == card["results"][0]["confusion"][0]


def test_validate_and_predict_take_a_checkpoint(cli: Cli, pretrained: Path) -> None:
    rest = [*TINY[1:], "--ckpt_path", pretrained]
    evaluated = rows(cli(["validate", *rest]))[-1]
    trained = [row for row in rows(pretrained.parents[1]) if row["val/probe"]][-1]
    assert float(evaluated["val/knn"]) == float(trained["val/knn"])
    assert float(evaluated["val/probe"]) == float(trained["val/probe"])
    cli(["validate", *rest, "--data.views=null"])  # unlabelled views give only probe and kNN metrics
    run = cli(["predict", *rest])
    embeddings = parquet.read_table(run / "embeddings.parquet")
    assert embeddings["index"].to_pylist() == [*range(200), *range(100)]
    assert {len(row) for row in embeddings["features"].to_pylist()} == {16}


def test_mixed_precision_and_accumulation_run(cli: Cli, caplog: pytest.LogCaptureFixture) -> None:
    run = cli([*TINY, *BYOL, "--trainer.precision=bf16-mixed", "--trainer.accumulate_grad_batches=2"])
    assert all(torch.tensor(float(row["train/loss"])).isfinite() for row in rows(run) if row["train/loss"])
    assert "Effective batch 64" in caplog.text


def test_two_processes_share_a_run_directory_and_train_the_same_weights(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.devices=2", "--trainer.strategy=ddp"]
    process = Program("simmim_pl", args, tmp_path, environment(WANDB_MODE="offline"))
    said = "".join(process.communicate(120))
    assert process.returncode == 0, said
    assert "Effective batch 32" in said
    (run,) = (tmp_path / "runs/quickstart").iterdir()
    assert torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 2 * (180 // 32)
    assert {"val/knn", "val/probe"} <= set(rows(run)[0])


@pytest.mark.parametrize(
    ("slot", "name"),
    [
        ("model", "simmim_pl.methods.Contrastive"),
        ("model", "simmim_pl.evaluation.Evaluation"),
        ("data", "simmim_pl.data.ImageDataModule"),
        ("data.source", "simmim_pl.data.CIFAR10"),
        ("data.source", "simmim_pl.data.CIFAR100"),
        ("data.source", "simmim_pl.data.Folder"),
        *(
            ("data.source", f"simmim_pl.data.{name}")
            for name in ("Shapes", "ShapesClips", "FrameFolder", "MaskFolder", "OxfordPets", "VideoFolder")
        ),
        ("data.views", "simmim_pl.views.ContrastiveViews"),
        ("data.views", "simmim_pl.views.CropFlip"),
        ("model.encoder", "simmim_pl.encoders.ResNet"),
        ("model.encoder", "simmim_pl.encoders.FastCNN"),
        ("model.encoder", "simmim_pl.encoders.Timm"),
        ("model.encoder", "simmim_pl.encoders.Torchvision"),
        *(("model.encoder", f"simmim_pl.encoders.{name}") for name in ("NIN", "Swin", "ViT")),
        *(("model", f"simmim_pl.methods.{name}") for name in methods.__all__ if name not in ("Method", "Output")),
        ("model.head", "simmim_pl.encoders.heads.ProjectionHead"),
        *(("model.loss", f"simmim_pl.losses.{name}") for name in ("NTXent", "VICReg", "BarlowTwins", "SIGReg")),
    ],
)
def test_help_explains_every_argument_of_every_class(
    cli: Cli, capsys: pytest.CaptureFixture, slot: str, name: str
) -> None:
    with pytest.raises(SystemExit) as exit_:
        cli(["fit", f"--config={CONFIGS / 'quickstart.yaml'}", f"--{slot}.help", name])
    assert exit_.value.code == 0
    options = capsys.readouterr().out.split("\n  --")[1:]
    assert options
    for option in options:
        option = " ".join(option.split())
        described = option.split(" (type:")[0].split(" (required")[0].split()
        assert len(described) > 3, f"{name}: nothing says what --{option} is"


def test_without_a_logger_nothing_is_written_outside_the_runs_folder(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("mine")
    run = cli([*TINY, "--trainer.logger=false", "--callbacks.enabled=false"])
    assert set(content(tmp_path)) - {run / "config.yaml", run / ".lock"} == {tmp_path / "config.yaml"}
    assert (tmp_path / "config.yaml").read_text() == "mine"
