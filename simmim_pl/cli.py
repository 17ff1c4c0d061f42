"""``python -m simmim_pl``: LightningCLI with a run directory of its own, `.env`, and W&B that never blocks."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

import wandb
import yaml
from dotenv import dotenv_values, find_dotenv
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

import simmim_pl
from simmim_pl import checkpoint, distributed
from simmim_pl.parser import Parser
from simmim_pl.records import InputError
from simmim_pl.runs import directory, loggers, newest

DESCRIPTION = "Pretrain image encoders without labels, and judge them. A config names every part: see configs/."

# Warnings of Lightning's that no user of this package can act on.
UNHELPFUL = (
    ".*LeafSpec.* is deprecated",
    "Precision .* is not supported by the model summary",
    ".*does not have many workers",
    "Found .* in eval mode at the start of training",  # an evaluation's encoder: meant, and asserted
    ".*configure_optimizers. returned .None.",
    "You're resuming from a checkpoint that ended before the epoch ended",  # data/order.py goes on where it was
    "Experiment logs directory .* exists and is not empty",  # the history is in the checkpoint
    "It is recommended to use .self.log..val/.* sync_dist=True",  # the whole split is gathered before it is judged
)
SAVES = "lightning.pytorch.trainer.connectors.checkpoint_connector"  # says at every checkpoint what it does not do


class SaveConfig(SaveConfigCallback):
    """Writes the whole parsed config to the run directory, once to W&B as it is nested, and into every checkpoint."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
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

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        if config.trainer.logger in (None, True) and not config.trainer.fast_dev_run:
            resumed = directory(config.ckpt_path, config.runs, config.name) if self.subcommand == "fit" else None
            kwargs["logger"] = loggers(config.runs, config.name, resumed)
        return super().instantiate_trainer(**kwargs)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load checkpoints as tensors and plain values unless the user says otherwise."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        return {**kwargs, "weights_only": kwargs.get("weights_only") is not False}


def read_dotenv() -> None:
    """Take what ``.env`` of this folder or one above sets. The environment wins; an empty value sets nothing."""
    for key, value in dotenv_values(find_dotenv(usecwd=True)).items():
        if value:
            os.environ.setdefault(key, value)


def main(args: ArgsType = None) -> None:
    """Run the command line. What the user can mend ends in one sentence and exit code 2."""
    read_dotenv()
    for noise in UNHELPFUL:
        warnings.filterwarnings("ignore", message=noise)
    logging.getLogger(SAVES).addFilter(lambda record: "weights_only" not in record.getMessage())
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
    except Exception as error:
        sentence = mendable(error)
        if sentence is None:
            raise
        print(f"error: {sentence}", file=sys.stderr)
        sys.exit(2)
    finally:
        wandb.teardown(exit_code=2 if sys.exc_info()[0] else 0)  # finishes the run, forgets the credentials


def mendable(error: BaseException | None) -> str | None:
    """What the user can mend, also where jsonargparse has wrapped it: it does so to errors of an optional part."""
    while error is not None:
        if isinstance(error, (InputError, MisconfigurationException)):
            # A DataLoader worker wraps the sentence in its own traceback; the sentence is the last line.
            return str(error).rsplit("InputError: ", 1)[-1].strip()
        if sentence := distributed.explain(error):
            return sentence
        error = error.__cause__
    return None
