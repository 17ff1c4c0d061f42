"""``python -m simmim_pl``: LightningCLI with a run directory of its own, `.env`, and W&B that never blocks."""

from __future__ import annotations

import os
import sys
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import wandb
import yaml
from dotenv import dotenv_values, find_dotenv
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

import simmim_pl
from simmim_pl import allocator, checkpoint, distributed, durable, lost, noise
from simmim_pl.parser import Parser
from simmim_pl.records import InputError
from simmim_pl.runs import directory, newest, swept

DESCRIPTION = "Pretrain image encoders without labels, and judge them. A config names every part: see configs/."
WANDB_TIMEOUT = 30.0  # seconds to wait for an answer before a run goes on offline


class SaveConfig(SaveConfigCallback):
    """Writes the whole parsed config to the run directory, once to W&B as it is nested, and into every checkpoint."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        # Where nodes do not share a disk, one may find no checkpoint, and would wait for the others where they do not.
        distributed.require_alike({"checkpoint to go on from": bool(self.config.get("ckpt_path"))})
        # Without a logger there is no run directory, and the current one is the user's. A run that goes on keeps its
        # config until it is known that it can.
        if trainer.loggers and not (stage == "fit" and self.config.get("ckpt_path")):
            super().setup(trainer, pl_module, stage)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.loggers and self.config.get("ckpt_path"):
            super().setup(trainer, pl_module, "fit")

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.config.update(self.nested())

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, saved: dict[str, Any]) -> None:
        saved |= {"config": self.nested(), "format": checkpoint.FORMAT, "version": simmim_pl.__version__}

    def nested(self) -> dict[str, Any]:
        """The config as plain nested values."""
        config: dict[str, Any] = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        return config


class CLI(LightningCLI):
    """LightningCLI whose every run writes to a new ``runs/NAME/ID/``."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="Name of the run: it writes to RUNS/NAME/ID/.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def _parse_ckpt_path(self) -> None:
        """Check ``--ckpt_path`` before anything is built. What is built, the config says, never the checkpoint."""
        config = self.config[self.config.subcommand]
        if config.get("ckpt_path") == "last":
            config.ckpt_path = newest(config.runs, config.name, self.config.subcommand)
        if config.get("ckpt_path"):
            saved = checkpoint.read(config.ckpt_path)
            if self.config.subcommand == "fit":
                checkpoint.require_resumable(saved, config.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """A batch that is encoded in pieces is one for which memory is short; otherwise keeping it saves time."""
        model = self.config[self.subcommand].model
        allocator.freed_memory(keep=getattr(model.init_args, "gradient_cache", 1) == 1)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        if config.trainer.logger in (None, True) and not config.trainer.fast_dev_run:
            resumed = directory(config.ckpt_path, config.runs, config.name) if self.subcommand == "fit" else None
            with durable.going_on(self.kept):
                kwargs["logger"] = loggers(config.runs, config.name, resumed)
        return super().instantiate_trainer(**kwargs)

    def _run_subcommand(self, subcommand: str) -> None:
        with durable.going_on(self.kept):
            super()._run_subcommand(subcommand)

    def kept(self) -> Any:
        """The checkpoint from which a training can go on; nothing of anything else."""
        trainer = getattr(self, "trainer", None)  # or else it is being made
        last = getattr(trainer and trainer.checkpoint_callback, "path", None)
        return last if last and last.is_file() else self.subcommand == "fit" and self.config.fit.ckpt_path

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load checkpoints as tensors and plain values unless the user says otherwise."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "weights_only": kwargs.get("weights_only") is not False}


def loggers(runs: str, name: str, resumed: str | None = None) -> list[Logger]:
    """CSV and W&B loggers of a run directory, a new one unless a run is resumed.

    Only rank zero makes it; the others learn it from the trainer.
    """
    run_id = resumed or swept() or time.strftime("%Y%m%d-%H%M%S-") + uuid.uuid4().hex[:4]
    folder = Path(runs, name, run_id)
    csv = durable.History(save_dir=runs, name=name, version=run_id)
    if getattr(rank_zero_only, "rank", 0) != 0:
        return [csv, WandbLogger(save_dir=folder)]
    try:
        folder.mkdir(parents=True, exist_ok=resumed is not None)
    except OSError as error:
        if durable.full(error):
            raise
        raise InputError(f"Cannot write to {folder} ({error.strerror}): choose another folder with --runs.") from error
    rank_zero_info(f"Run directory: {folder}")
    # While the folder is still empty, or else it deletes the history that is there: of a run that goes on it is put
    # back, until the callback Checkpoint has brought it to the checkpoint's step.
    history = folder / "metrics.csv"
    before = history.read_bytes() if history.is_file() else None
    _ = csv.experiment
    if before is not None:
        durable.write(history, lambda file: file.write(before))
    return [csv, WandbLogger(save_dir=folder, experiment=start_wandb(folder, name, run_id))]


def start_wandb(folder: Path, name: str, run_id: str) -> wandb.Run:
    """Start the W&B run: offline without a key, and offline too when the server does not answer."""
    mode: Any = os.environ.get("WANDB_MODE") or "online"
    project = os.environ.get("WANDB_PROJECT") or "simmim_pl"
    try:
        if mode == "online" and not wandb.login(prompt=False, verify=False):
            mode = "offline"
    except wandb.Error as error:
        raise InputError(f"{error} Mend the W&B key in .env or the environment, or set WANDB_MODE=offline.") from error
    later = f"To upload this run later: wandb sync {folder}/wandb/offline-run-*"

    def start(mode: Any) -> wandb.Run:
        settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, login_timeout=WANDB_TIMEOUT, silent=mode != "online")
        return wandb.init(
            dir=folder,
            project=None if swept() else project,  # W&B takes an agent's word from the environment, and warns of ours
            name=f"{name}/{run_id}",
            group=name,
            id=None if swept() else run_id,
            resume="allow",
            mode=mode,
            settings=settings,
        )

    if mode == "offline":
        rank_zero_info(f"W&B is offline. {later}")
    try:
        return start(mode)
    except wandb.Error as error:
        wandb.teardown()
        reason = str(error).strip().splitlines()[0]
        rank_zero_warn(f"W&B cannot be reached, so the run goes on offline ({reason}). {later}")
        return start("offline")


def read_dotenv() -> None:
    """Take what ``.env`` of this folder or one above sets. The environment wins; an empty value sets nothing."""
    for key, value in dotenv_values(find_dotenv(usecwd=True)).items():
        if value:
            os.environ.setdefault(key, value)


def main(args: ArgsType = None) -> None:
    """Run the command line. What the user can mend ends in one sentence and exit code 2."""
    read_dotenv()
    noise.silence()
    lost.watch()
    try:
        CLI(
            LightningModule,
            LightningDataModule,
            parser_class=Parser,
            subclass_mode_model=True,
            subclass_mode_data=True,
            save_config_callback=SaveConfig,
            save_config_kwargs={"overwrite": True},  # when a run goes on; a new run has a new directory
            seed_everything_default=0,
            auto_configure_optimizers=False,
            trainer_defaults={"max_epochs": 100},
            parser_kwargs={"prog": "python -m simmim_pl", "description": DESCRIPTION},
            args=args,
        )
        durable.flush_output()
    except Exception as error:
        sentence = mendable(error)
        lost.leave()
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        with suppress(OSError):
            durable.flush_output()
        sys.exit(2)
    finally:
        wandb.teardown(exit_code=2 if sys.exc_info()[0] else 0)  # finishes the run, forgets the credentials


def mendable(error: BaseException | None) -> str | None:
    """What the user can mend, also where jsonargparse has wrapped it: it does so to errors of an optional part."""
    while error is not None:
        if isinstance(error, (InputError, MisconfigurationException)):
            # A DataLoader worker wraps the sentence in its own traceback; the sentence is the last line.
            return str(error).rsplit("InputError: ", 1)[-1].strip()
        if sentence := lost.explain(error) or durable.explain(error):
            return sentence
        error = error.__cause__
    return None
