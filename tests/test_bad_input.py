"""User errors print one line and exit with code 2, without a traceback."""

import errno
import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import IO, Any, ClassVar

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from PIL import Image

from simmim_pl.command.trainer_options import tell_counts_from_shares
from simmim_pl.runtime import atomic
from tests.conftest import CONFIGS, QUIET, SHAPES, TINY
from tests.forked import Program, environment
from tests.test_parity import BYOL, MASKED, MOCO_V3

Cli = Callable[[list[Any]], Path]
FOLDER = ["--data.source=simmim_pl.data.Folder", "--data.source.root=images"]
ROTATION = ["--model=simmim_pl.methods.Rotation"]
WITHOUT_SHAPES = [arg for arg in TINY if arg not in SHAPES]


@pytest.fixture
def refusal(cli: Cli, capfd: pytest.CaptureFixture) -> Callable[[list[Any]], str]:
    """``refusal(args)`` is the error line of a refused command."""

    def run(args: list[Any]) -> str:
        with pytest.raises(SystemExit) as exit_:
            cli(args)
        assert exit_.value.code == 2
        printed = capfd.readouterr().err
        assert "Traceback" not in printed
        sentences = [line for line in printed.splitlines() if line.startswith("error: ")]
        assert len(sentences) == 1, printed
        assert printed.rstrip().endswith(sentences[0]), "the sentence is the last thing that is said"
        return sentences[0]

    return run


def write_images(folder: Path, classes: tuple[str, ...] = ("a", "b"), number: int = 20) -> None:
    for label in classes:
        for split in ("train", "test"):
            (folder / split / label).mkdir(parents=True)
            for image in range(number):
                Image.new("RGB", (16, 16), (image * 5, 9, 9)).save(folder / split / label / f"{image}.png")


def evaluation(name: str, checkpoint: Path, *data: str) -> list[str]:
    """Arguments that evaluate a checkpoint."""
    config = f"--config={CONFIGS / 'evaluate' / name}.yaml"
    return ["validate", config, f"--model.checkpoint={checkpoint}", *QUIET, *data]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--model.encoder.widht=3"], "--model.encoder.widht is not accepted"),
        (["--trainer.max_epoch=3"], "--trainer.max_epoch is not accepted"),
        (["--model.encoder=simmim_pl.encoders.FastCN"], "no class simmim_pl.encoders.FastCN"),
        (["--model.encoder=nowhere.Net"], "nowhere"),
        (["--model.encoder=torch.nn.Linear"], "not correspond to a subclass of Encoder"),
        (["--data.batch_size=many"], "batch_size"),
        (["--config=missing.yaml"], "missing.yaml"),
        (["--data.batch_size=1"], "batch_size to 2 or more"),
        (["--data.batch_size=500"], "do not fill one batch"),
        (["--data.validation=1000"], "validation"),
        (["--data.views.views=1"], "--data.views.views has to be 2 or more"),
        (["--model.loss.temperature=0"], "--model.loss.temperature has to be above 0"),
        (["--runs=/proc/nowhere"], "choose another folder with --runs"),
        (["--ckpt_path=missing.ckpt"], "There is no checkpoint missing.ckpt"),
        (["--trainer.max_epochs=-1"], "max_epochs"),
        (["--data.views=null"], "needs views"),
        (["--data.views.blur=0.5"], "too small for GaussianBlur"),
        (
            ["--data.local_views=simmim_pl.views.ContrastiveViews", "--data.local_views.size=17"],
            "Local views of 17 pixels are larger than the images of 16×16",
        ),
        (["--data.final_share=1.5"], "--data.final_share has to be within (0, 1)"),
        (
            ["--data.final_views=simmim_pl.views.ContrastiveViews", "--data.final_views.size=4"],
            "Final views of 4 pixels are smaller than the views of",
        ),
        (
            ["--trainer.accumulate_grad_batches=2"],
            "compares only the 32 images of its batch. To compare all 64 in the same memory, set --data.batch_size 64 "
            "--model.gradient_cache 2 instead.",
        ),
        ([*MOCO_V3, "--trainer.accumulate_grad_batches=2"], "compares only the 32 images of its batch"),
        (["--model.encoder.features=0"], "--model.encoder.features has to be 1 or more"),
        (["--model.encoder=simmim_pl.encoders.Timm", "--model.encoder.name=resnet81"], "choose a name such as resnet"),
    ],
    ids=lambda value: value[0].split("=")[0] if isinstance(value, list) else "",
)
def test_arguments(refusal: Callable[[list[Any]], str], args: list[str], says: str) -> None:
    assert says in refusal([*TINY, *args])


JUDGE = ["validate", f"--config={CONFIGS / 'evaluate/all.yaml'}", *SHAPES, *QUIET]
PROTOCOL = "--model.protocols=[{class_path: simmim_pl.evaluation.%s, init_args: {%s}}]"
OUTSIDE = {
    "--model.encoder.width=0": "--model.encoder.width has to be 1 or more, and is 0",
    "--model.encoder.width=-3": "--model.encoder.width has to be 1 or more, and is -3",
    "--model.encoder.std=[0,0,0]": "--model.encoder.std has to be above 0",
    "--model.encoder.mean=[2,0,0]": "--model.encoder.mean has to be within [0, 1]",
    "--model.head.hidden_dim=0": "--model.head.hidden_dim has to be 1 or more",
    "--model.head.output_dim=-1": "--model.head.output_dim has to be 1 or more",
    "--model.head.num_layers=0": "--model.head.num_layers has to be 1 or more",
    "--model.loss.temperature=.nan": "--model.loss.temperature has to be finite, and is nan",
    "--model.loss.temperature=.inf": "--model.loss.temperature has to be finite, and is inf",
    "--model.warmup_epochs=-1": "--model.warmup_epochs has to be 0 or more",
    "--model.gradient_cache=0": "--model.gradient_cache has to be 1 or more",
    "--model.optimizer.lr=-1": "Invalid learning rate: -1",
    "--model.optimizer.lr=.inf": "lr has to be a finite number",
    "--model.optimizer.betas=[2,3]": "Invalid beta parameter",
    "--data.batch_size=0": "--data.batch_size has to be 1 or more",
    "--data.batch_size=true": "--data.batch_size has to be a whole number, and is True",
    "--data.workers=-1": "--data.workers has to be 0 or more",
    "--data.validation=1.0": "--data.validation has to be within [0, 1), and is 1.0",
    "--data.validation=1.5": "--data.validation has to be within [0, 1), and is 1.5",
    "--data.validation=.nan": "--data.validation has to be finite",
    "--data.validation=-1": "--data.validation has to be 0 or more",
    "--data.split_seed=99999999999999999999": "--data.split_seed has to be within",
    "--data.source.noise=.nan": "--data.source.noise has to be finite",
    "--data.source.deform=-1": "--data.source.deform has to be 0 or more",
    "--data.source.seed=-1": "--data.source.seed has to be within",
    "--data.views.flip=1.5": "--data.views.flip has to be within [0, 1]",
    "--data.views.scale=[0,2]": "--data.views.scale has to be within (0, 1]",
    "--data.views.scale=[0.9,0.2]": "scale has to be a minimum and a maximum",
    "--data.views.hue=0.7": "--data.views.hue has to be within [0, 0.5]",
    "--data.views.brightness=.inf": "--data.views.brightness has to be finite",
    "--seed_everything=-1": "--seed_everything has to be within [0, 4294967295], and is -1",
    "--seed_everything=4294967296": "--seed_everything has to be within",
    "--seed_everything=1.5": "--seed_everything has to be",
    "--seed_everything=true": "--seed_everything has to be a number, and is True",
    "--seed_everything=false": "--seed_everything has to be a number, and is False",
    "--trainer.max_epochs=-5": "--trainer.max_epochs has to be -1 or more",
    "--trainer.accumulate_grad_batches=0": "--trainer.accumulate_grad_batches has to be 1 or more",
    "--trainer.check_val_every_n_epoch=0": "--trainer.check_val_every_n_epoch has to be 1 or more",
    "--trainer.val_check_interval=0": "--trainer.val_check_interval has to be above 0",
    "--trainer.val_check_interval=100000": "`val_check_interval` (100000) must be less than or equal",
    "--trainer.limit_train_batches=0": "there is nothing to fit",
    "--trainer.limit_train_batches=1.5": "limit_train_batches",
    "--trainer.gradient_clip_val=-1": "--trainer.gradient_clip_val has to be 0 or more",
    "--trainer.num_nodes=0": "--trainer.num_nodes has to be 1 or more",
    "--callbacks.online_probe.lr=-1": "--callbacks.online_probe.lr has to be above 0",
    "--callbacks.representation.images=0": "--callbacks.representation.images has to be 2 or more",
    "--callbacks.dashboard={images: 0}": "--callbacks.dashboard.images has to be 1 or more",
    "--trainer.callbacks=[{class_path: simmim_pl.callbacks.Checkpoint, init_args: {every_n_epochs: 0}}]": "--trainer."
    "callbacks.every_n_epochs has to be 1 or more",
}


OUTSIDE_OF_A_METHOD = [
    (BYOL, "momentum=1.5", "--model.momentum has to be within [0, 1], and is 1.5"),
    (MOCO_V3, "momentum=-0.1", "--model.momentum has to be within [0, 1], and is -0.1"),
    (MOCO_V3, "temperature=0", "--model.temperature has to be above 0"),
    (MASKED, "mask_unit=0", "--model.mask_unit has to be 1 or more, and is 0"),
    (MASKED, "mask_unit=-4", "--model.mask_unit has to be 1 or more, and is -4"),
    (MASKED, "mask_ratio=0", "--model.mask_ratio has to be within (0, 1], and is 0"),
    (MASKED, "mask_ratio=1.1", "--model.mask_ratio has to be within (0, 1], and is 1.1"),
    (MASKED, "gradient_cache=2", "Option --model.gradient_cache is not accepted; known are encoder"),
    (ROTATION, "gradient_cache=2", "Option --model.gradient_cache is not accepted; known are encoder"),
]


@pytest.mark.parametrize(("method", "arg", "says"), OUTSIDE_OF_A_METHOD, ids=[arg for _, arg, _ in OUTSIDE_OF_A_METHOD])
def test_a_number_of_a_method_out_of_its_range_is_named(
    refusal: Callable[[list[Any]], str], method: list[str], arg: str, says: str
) -> None:
    assert says in refusal([*TINY, *method, f"--model.{arg}"])


@pytest.mark.parametrize("arg", OUTSIDE)
def test_a_number_out_of_its_range_is_named(refusal: Callable[[list[Any]], str], arg: str) -> None:
    assert OUTSIDE[arg] in refusal([*TINY, arg])


@pytest.mark.parametrize(
    ("arg", "says"),
    [
        ("--model.seed=-1", "--model.seed has to be within"),
        ("--trainer.limit_val_batches=0", "there is nothing to validate"),
        (PROTOCOL % ("KNN", "k: [0]"), "--model.protocols.k has to be 1 or more"),
        (PROTOCOL % ("KNN", "temperature: [null, 0]"), "--model.protocols.temperature has to be above 0"),
        (PROTOCOL % ("LinearProbe", "l2: [1, -1]"), "--model.protocols.l2 has to be above 0"),
        (PROTOCOL % ("FewLabels", "shares: [1.5]"), "--model.protocols.shares has to be within (0, 1]"),
        (PROTOCOL % ("FewLabels", "per_class: [0]"), "--model.protocols.per_class has to be 1 or more"),
        (PROTOCOL % ("DenseProbe", "lr_search: {lr: [.nan]}"), "lr has to be"),
        (PROTOCOL % ("DenseProbe", "lr_search: {lr: [1], epochs: 0}"), "epochs has to be 1 or more"),
        (PROTOCOL % ("VideoProbe", "hidden: 0"), "--model.protocols.hidden has to be 1 or more"),
    ],
)
def test_a_number_of_an_evaluation_out_of_its_range_is_named(
    refusal: Callable[[list[Any]], str], arg: str, says: str
) -> None:
    assert says in refusal([*JUDGE, arg])


@pytest.mark.parametrize("arg", ["--data.batch_size=0", "--trainer.limit_predict_batches=0", "--data.workers=-1"])
def test_a_number_of_a_prediction_out_of_its_range_is_named(refusal: Callable[[list[Any]], str], arg: str) -> None:
    assert any(says in refusal(["predict", *TINY[1:], arg]) for says in ("has to be", "nothing to predict"))


LIGHTNING = "lightning.pytorch.callbacks."
MEANINGLESS = {
    "--trainer.barebones=true": "barebones",
    "--trainer.strategy=fsdp": "set it to ddp",
    "--trainer.strategy=deepspeed": "set it to ddp",
    "--trainer.strategy=foo": "invalid strategy name",
    "--trainer.devices=0": "devices",
    "--trainer.devices=[0,0]": "`devices`",
    "--trainer.devices=1.5": "`devices`",
    "--trainer.accelerator=gpux": "invalid accelerator name",
    "--trainer.precision=16-true": "set it to 16-mixed",
    "--trainer.precision=bf16-true": "set it to bf16-mixed",
    "--trainer.profiler=foo": "profiler",
    "--trainer.max_time=soon": "not a valid duration",
    f"--trainer.callbacks+={LIGHTNING}LearningRateFinder": "set --model.optimizer.lr",
    f"--trainer.callbacks+={LIGHTNING}BatchSizeFinder": "set --data.batch_size",
    f"--trainer.callbacks+={LIGHTNING}BackboneFinetuning": "backbone",
    f"--trainer.callbacks={{class_path: {LIGHTNING}ModelPruning, init_args: {{pruning_fn: ln_structured}}}}": "masks",
    f"--trainer.callbacks=[{{class_path: {LIGHTNING}ModelCheckpoint, init_args: {{save_top_k: -5}}}}]": "save_top_k=-5",
    "--model.optimizer=torch.optim.LBFGS": "LBFGS cannot be built",
}


@pytest.mark.parametrize("arg", MEANINGLESS)
def test_an_option_without_effect_is_refused(refusal: Callable[[list[Any]], str], arg: str) -> None:
    assert MEANINGLESS[arg] in refusal([*TINY, arg])


@pytest.mark.skipif(torch.cuda.is_available() or torch.backends.mps.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("arg", ["--trainer.accelerator=gpu", f"--trainer={CONFIGS / 'trainer/ddp.yaml'}"])
def test_without_a_gpu_the_error_names_the_solution(refusal: Callable[[list[Any]], str], arg: str) -> None:
    assert "set --trainer.accelerator cpu" in refusal([*TINY, arg])


@pytest.mark.parametrize(
    ("package", "arg"),
    [
        ("rich", f"--trainer.callbacks+={LIGHTNING}RichProgressBar"),
        ("tensorboard", "--trainer.logger={class_path: TensorBoardLogger, init_args: {save_dir: tb}}"),
        ("comet_ml", "--trainer.logger={class_path: CometLogger}"),
    ],
)
def test_a_missing_package_is_named(refusal: Callable[[list[Any]], str], package: str, arg: str) -> None:
    if find_spec(package):
        pytest.skip(f"{package} is installed")
    said = refusal([*TINY, arg])
    assert "cannot be built" in said
    assert "pip install" in said
    assert package.replace("_", "-") in said


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("WANDB_MODE", "nonsense"), ("WANDB_SILENT", "maybe"), ("WANDB_RESUME", "perhaps")),
        *(("WANDB_CONSOLE", "blue"), ("WANDB_INIT_TIMEOUT", "soon"), ("WANDB_BASE_URL", "nowhere")),
    ],
)
def test_an_environment_that_wandb_refuses_is_named(
    refusal: Callable[[list[Any]], str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    assert f"{name} is {value}" in refusal(TINY)


def test_a_name_that_wandb_refuses_is_named(
    refusal: Callable[[list[Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_PROJECT", "a/b")
    assert "Invalid project name 'a/b'" in refusal(TINY)


class Counts(Callback):
    """Records the number of batches of a trainer."""

    seen: ClassVar[list[int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seen.append(int(trainer.num_training_batches))


@pytest.mark.parametrize(
    ("option", "batches"),
    [
        ("limit_train_batches=1", 1),
        ("limit_train_batches=1.0", 5),
        ("limit_train_batches=0.4", 2),
        ("overfit_batches=1", 1),
        ("val_check_interval=1", 5),
    ],
)
def test_an_integer_is_a_number_of_batches_and_a_float_a_share(cli: Cli, option: str, batches: int) -> None:
    counts = ["--callbacks.enabled=false", "--trainer.callbacks=tests.test_bad_input.Counts"]
    cli([*TINY, f"--trainer.{option}", *counts, "--trainer.max_epochs=1"])
    assert Counts.seen.pop() == batches


def test_counts_and_shares_do_not_depend_on_the_order_of_union_types() -> None:
    parser = ArgumentParser()
    parser.add_argument("--trainer.limit_train_batches", type=float | int)
    tell_counts_from_shares(parser)
    found = [parser.parse_args([f"--trainer.limit_train_batches={text}"]) for text in ("1", "1.0")]
    assert [type(each.trainer.limit_train_batches) for each in found] == [int, float]


def test_warnings_as_errors_are_a_one_line_error(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "simmim_pl", *TINY],
        cwd=tmp_path,
        env={**os.environ, "WANDB_MODE": "disabled", "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert "error: A warning was turned into an error" in done.stderr.splitlines()[-1]


NULL = {
    "model.encoder.weights": [*TINY, "--model.encoder=simmim_pl.encoders.Torchvision", "--model.encoder.name=resnet18"],
    "data.source.root": [*WITHOUT_SHAPES, "--data.source=simmim_pl.data.CIFAR10"],
    "data.source.fold": [*WITHOUT_SHAPES, "--data.source=simmim_pl.data.STL10"],
    "data.local_views.size": [*TINY, "--data.local_views=simmim_pl.views.CropFlip"],
    "model.checkpoint": [*JUDGE, "--model.encoder=simmim_pl.encoders.FastCNN"],
    "model.weights": [*JUDGE, "--model.encoder=simmim_pl.encoders.FastCNN"],
    "ckpt_path": TINY,
}


@pytest.mark.parametrize("key", NULL)
@pytest.mark.parametrize("between", ["=", " "])
def test_null_is_null_for_every_optional_argument(
    cli: Cli, monkeypatch: pytest.MonkeyPatch, key: str, between: str
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("simmim_pl.command.cli.CLI.instantiate_classes", lambda self: seen.append(self.config))
    monkeypatch.setattr("simmim_pl.command.cli.CLI._run_subcommand", lambda self, subcommand: None)
    cli([*NULL[key], *f"--{key}{between}null".split(" ")])
    value = seen[0][NULL[key][0]]
    for part in key.split("."):
        value = value[part] if part in value else value.init_args[part]
    assert value is None


def test_null_is_null_in_a_list_too(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    monkeypatch.setattr("simmim_pl.command.cli.CLI.instantiate_classes", lambda self: seen.append(self.config))
    monkeypatch.setattr("simmim_pl.command.cli.CLI._run_subcommand", lambda self, subcommand: None)
    cli([*JUDGE, PROTOCOL % ("KNN", ""), "--model.protocols.temperature=[null,0.1]"])
    assert seen[0].validate.model.init_args.protocols[0].init_args.temperature == [None, 0.1]


def test_a_batch_not_divisible_by_devices_is_refused_on_every_rank(tmp_path: Path) -> None:
    args = [*TINY, "--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=25"]
    process = Program("simmim_pl", args, tmp_path, environment())
    _, said = process.communicate(120)
    assert process.returncode != 0
    sentence = "error: A batch of 25 images cannot be divided among 2 devices: set --data.batch_size to 24"
    assert said.count(sentence) == 1
    assert "Traceback" not in said


def damage(file: Path, how: str) -> None:
    """Damage an image so that it cannot be read."""
    if how == "truncated":
        file.write_bytes(file.read_bytes()[:40])
    elif how == "zero bytes":
        file.write_bytes(b"")
    elif how == "a text":
        file.write_text("not an image")
    else:  # a header that says 1,600 megapixels
        header = b"IHDR" + struct.pack(">IIBBBBB", 40_000, 40_000, 8, 2, 0, 0, 0)
        start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", len(header) - 4) + header
        file.write_bytes(start + struct.pack(">I", zlib.crc32(header)) + file.read_bytes()[33:])


@pytest.mark.parametrize(
    ("how", "memory_gb"),
    [("truncated", 4), ("zero bytes", 4), ("a text", 4), ("a bomb", 4), ("truncated", 0)],  # 0: in worker processes
)
def test_a_corrupt_image_is_named_or_left_out(
    refusal: Callable[[list[Any]], str], cli: Cli, tmp_path: Path, how: str, memory_gb: int
) -> None:
    write_images(tmp_path / "images")
    damage(tmp_path / "images/train/a/7.png", how)
    args = [*WITHOUT_SHAPES, *FOLDER, f"--data.source.memory_gb={memory_gb}", "--data.batch_size=9"]
    why = " of 1,600 megapixels, and at most 500 are decoded" if how == "a bomb" else ""
    assert f"images/train/a/7.png cannot be read as an image{why}" in refusal(args)
    with pytest.warns(UserWarning, match=r"1 of 40 images cannot be read and are left out: images/train/a/7\.png"):
        run = cli([*args, "--data.source.skip_corrupt=true", "--trainer.max_epochs=1"])
    steps = torch.load(run / "checkpoints/last.ckpt", weights_only=True)["global_step"]
    assert steps == (39 - 4) // 9 != (40 - 4) // 9


def test_animated_and_misnamed_images_are_read(cli: Cli, tmp_path: Path) -> None:
    write_images(tmp_path / "images")
    folder = tmp_path / "images/train/a"
    frames = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (50, 100)]
    frames[0].save(folder / "20.gif", save_all=True, append_images=frames[1:])
    Image.new("RGB", (16, 16)).save(folder / "21.jpg", format="png")
    run = cli([*WITHOUT_SHAPES, *FOLDER, "--data.batch_size=8", "--trainer.max_epochs=1"])
    assert (run / "checkpoints/last.ckpt").is_file()


def test_a_full_disk_while_caching_images(
    refusal: Callable[[list[Any]], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = atomic.write

    def full(path: Path, content: atomic.Writer) -> None:
        def overflow(file: IO[bytes]) -> None:
            file.write(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")

        real(path, overflow if path.suffix == ".uint8" else content)

    monkeypatch.setattr(atomic, "write", full)
    write_images(tmp_path / "images")
    said = refusal([*WITHOUT_SHAPES, *FOLDER, "--data.batch_size=8", "--trainer.max_epochs=1"])
    assert ".uint8 cannot be written (no space left on device): free disk space." in said
    assert not list(tmp_path.rglob("*.uint8*"))


def test_an_empty_folder_and_a_folder_of_one_class(refusal: Callable[[list[Any]], str], tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    assert "images" in refusal([*WITHOUT_SHAPES, *FOLDER])
    write_images(tmp_path / "images", classes=("only",))
    assert "only one class" in refusal([*WITHOUT_SHAPES, *FOLDER, "--data.source.labels=true"])


def test_a_data_folder_that_cannot_be_written(
    refusal: Callable[[list[Any]], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMMIM_DATA_DIR", "/proc/nowhere")
    args = [*WITHOUT_SHAPES, "--data.source=simmim_pl.data.CIFAR10"]
    assert "/proc/nowhere" in refusal(args)


def test_no_network(refusal: Callable[[list[Any]], str], tmp_path: Path) -> None:
    args = [
        *WITHOUT_SHAPES,
        "--data.source=simmim_pl.data.CIFAR10",
        "--data.source.mirrors=[http://127.0.0.1:9/c.tar.gz]",
    ]
    said = refusal([*args, f"--data.source.root={tmp_path}"])
    for part in (str(tmp_path), "cifar-10-python.tar.gz", "http://127.0.0.1:9/c.tar.gz", "folder.yaml", "shapes.yaml"):
        assert part in said


def test_a_checkpoint_of_another_architecture(refusal: Callable[[list[Any]], str], pretrained: Path) -> None:
    said = refusal([*TINY, "--model.encoder.width=4", f"--ckpt_path={pretrained}"])
    assert "model.encoder.width is 2 in the checkpoint and 4 now, and its weights belong to that encoder" in said


@pytest.mark.parametrize("use", ["resume", "evaluate"])
@pytest.mark.parametrize("kind", ["truncated", "foreign"])
def test_a_checkpoint_of_another_tool(
    refusal: Callable[[list[Any]], str], pretrained: Path, tmp_path: Path, use: str, kind: str
) -> None:
    path = tmp_path / "bad.ckpt"
    if kind == "truncated":
        path.write_bytes(pretrained.read_bytes()[:-2000])
    else:
        torch.save({"model": torch.nn.Linear(2, 2).state_dict()}, path)
    linear = evaluation("linear", path, *SHAPES)
    said = refusal([*TINY, f"--ckpt_path={path}"] if use == "resume" else linear)
    assert str(path) in said
    assert ("truncated" if kind == "truncated" else "was not written by") in said


def test_a_non_finite_loss_stops_and_keeps_the_last_good_checkpoint(
    refusal: Callable[[list[Any]], str], tmp_path: Path
) -> None:
    said = refusal([*TINY, "--trainer.callbacks+=tests.test_bad_input.Spoil"])
    assert "at step 7" in said
    (path,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    saved = torch.load(path, weights_only=True)
    assert saved["global_step"] == 5
    assert all(tensor.isfinite().all() for tensor in saved["state_dict"].values())


def test_non_finite_weights_at_the_end_of_an_epoch_are_not_saved(
    refusal: Callable[[list[Any]], str], tmp_path: Path
) -> None:
    refusal([*TINY, "--trainer.max_epochs=3", "--trainer.callbacks+=tests.test_bad_input.SpoilAtTheEnd"])
    (path,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    assert torch.load(path, weights_only=True)["global_step"] == 5


class SpoilAtTheEnd(__import__("lightning").pytorch.Callback):  # type: ignore[misc]
    """Makes a weight NaN after the last step of the second epoch."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 10:
            next(pl_module.parameters()).data.fill_(float("nan"))


def test_a_malformed_wandb_key(tmp_path: Path) -> None:
    own = environment(WANDB_API_KEY="abc")
    del own["WANDB_MODE"]
    process = Program("simmim_pl", TINY, tmp_path, own)
    _, said = process.communicate(120)
    assert process.returncode == 2
    assert said.rstrip().splitlines()[-1].startswith("error: ")
    assert "set WANDB_MODE=offline" in said
    assert "Traceback" not in said


class Spoil(__import__("lightning").pytorch.Callback):  # type: ignore[misc]
    """Makes a weight NaN before step 7, in the second epoch."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 7:
            next(pl_module.parameters()).data.fill_(float("nan"))


def test_ctrl_c_saves_a_checkpoint_to_resume_from(cli: Cli, tmp_path: Path) -> None:
    args = [*TINY, "--trainer.max_epochs=20000", "--trainer.check_val_every_n_epoch=100000"]
    # A shell that starts the tests in the background makes them, and this process, ignore SIGINT.
    heeds = partial(signal.signal, signal.SIGINT, signal.default_int_handler)
    process = Program("simmim_pl", args, tmp_path, environment(), heeds)
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("runs/*/*/checkpoints/last.ckpt")) and time.monotonic() < deadline:
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    try:
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()  # end it if it did not stop
    assert process.returncode == 130
    assert "To resume: --ckpt_path" in said
    assert "Traceback" not in said
    (path,) = tmp_path.glob("runs/*/*/checkpoints/last.ckpt")
    saved = torch.load(path, weights_only=True)
    assert 0 < saved["global_step"] < 100_000
    epochs = saved["epoch"] + 2
    resumed = cli([*args[:-2], f"--trainer.max_epochs={epochs}", f"--ckpt_path={path}"])
    assert torch.load(resumed / "checkpoints/last.ckpt", weights_only=True)["global_step"] > saved["global_step"]


def source(name: str, folder: str, *more: str) -> list[str]:
    """Arguments for a folder source of images of 16×16 pixels."""
    given = (f"root={folder}", "size=16", *more)
    return [f"--data={CONFIGS / 'data' / name}.yaml", *(f"--data.source.{key}" for key in given)]


def no_labels(folder: Path) -> tuple[str, list[str]]:
    folder.mkdir()
    for number in range(40):
        Image.new("RGB", (16, 16), (number, 0, 0)).save(folder / f"{number}.png")
    return "knn", source("folder", folder.name)


def one_class(folder: Path) -> tuple[str, list[str]]:
    write_images(folder, classes=("only",))
    return "linear", source("folder", folder.name)


def a_class_that_train_lacks(folder: Path) -> tuple[str, list[str]]:
    write_images(folder)
    (folder / "test/c").mkdir()
    Image.new("RGB", (16, 16)).save(folder / "test/c/0.png")
    return "few_labels", source("folder", folder.name)


def pairs_with(folder: Path, mask: Image.Image) -> tuple[str, list[str]]:
    """Images and masks; the last training mask is the given one."""
    for split in ("train", "test"):
        for part in ("images", "masks"):
            (folder / split / part).mkdir(parents=True)
            for number in range(20):
                Image.new("L", (16, 16), number % 2).save(folder / split / part / f"{number:02}.png")
    mask.save(folder / "train/masks/19.png")
    return "dense", source("masks", folder.name)


def clips_with(folder: Path, frames: int) -> tuple[str, list[str]]:
    """Clips of four frames, except one with another number."""
    for split in ("train", "test"):
        for label in "ab":
            for clip in range(6):
                (folder / split / label / str(clip)).mkdir(parents=True)
                for number in range(frames if (split, label, clip) == ("train", "b", 5) else 4):
                    Image.new("RGB", (16, 16), (clip, number, 0)).save(folder / split / label / f"{clip}/{number}.png")
    return "video", source("frames", folder.name, "frames=4")


EVALUATIONS = {
    "no labels": (no_labels, "images without labels"),
    "one class": (one_class, "only one class"),
    "a class that train lacks": (a_class_that_train_lacks, "test/c is not a class of"),
    "a mask of another size": (lambda to: pairs_with(to, Image.new("L", (8, 8))), "train/masks/19.png has 8×8 pixels"),
    "an unknown id": (lambda to: pairs_with(to, Image.new("L", (16, 16), 7)), "train/masks/19.png holds the id 7"),
    "a clip that is too short": (lambda to: clips_with(to, 3), "train/b/5 holds 3 frames"),
    "a clip of no frames": (lambda to: clips_with(to, 0), "train/b/5 holds 0 frames"),
    "images instead of clips": (lambda to: ("video", SHAPES), "needs clips"),
    "images without masks": (lambda to: (write_images(to), ("dense", source("folder", to.name)))[1], "has no masks"),
    "no validation": (lambda to: ("linear", [*SHAPES, "--data.validation=0"]), "validation split is empty"),
}


@pytest.mark.parametrize("case", EVALUATIONS)
def test_a_refused_evaluation_writes_no_result(
    refusal: Callable[[list[Any]], str], pretrained: Path, tmp_path: Path, case: str
) -> None:
    make, says = EVALUATIONS[case]
    name, data = make(tmp_path / "given")
    assert says in refusal(evaluation(name, pretrained, *data))
    assert not list(tmp_path.glob("runs/**/result*"))
    assert not list(pretrained.parent.glob(f"*{tmp_path.name}*"))


def spoil(pretrained: Path, path: Path, value: float, ending: str) -> None:
    """A checkpoint whose encoder has this value in all tensors of one name."""
    saved = torch.load(pretrained, weights_only=True)
    for name, tensor in saved["state_dict"].items():
        if name.startswith("encoder.") and name.endswith(ending):
            tensor.fill_(value)
    torch.save(saved, path)


@pytest.mark.parametrize(
    ("value", "ending", "says"),
    [(float("nan"), "bias", "gave NaN or infinite features"), (0.0, "weight", "gave the same features for all")],
    ids=["NaN", "collapsed"],
)
def test_a_constant_or_non_finite_encoder_writes_no_result(
    refusal: Callable[[list[Any]], str], pretrained: Path, tmp_path: Path, value: float, ending: str, says: str
) -> None:
    spoil(pretrained, tmp_path / "spoilt.ckpt", value, ending)
    assert says in refusal(evaluation("knn", tmp_path / "spoilt.ckpt", *SHAPES))
    assert not list(tmp_path.glob("**/*result*"))
    assert not list(tmp_path.glob("runs/.features/*"))


def test_a_checkpoint_that_names_a_class_of_another_package_is_not_imported(
    refusal: Callable[[list[Any]], str], pretrained: Path, tmp_path: Path
) -> None:
    saved = torch.load(pretrained, weights_only=True)
    saved["config"]["model"]["init_args"]["encoder"]["class_path"] = "antigravity.Encoder"
    torch.save(saved, tmp_path / "crafted.ckpt")
    said = refusal(evaluation("knn", tmp_path / "crafted.ckpt", *SHAPES))
    assert "asks to import antigravity.Encoder" in said
    assert "antigravity" not in sys.modules
