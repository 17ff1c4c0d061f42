"""``python -m simmim_pl``: LightningCLI with run directories, `.env`, and W&B that never blocks."""

from __future__ import annotations

import os
import sys
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import wandb
import yaml
from dotenv import dotenv_values, find_dotenv
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from simmim_pl.command import default_callbacks, loggers, quiet, say_once, trainer_options
from simmim_pl.command.data_seed import data_seed
from simmim_pl.command.instantiation import build, explained, refusal
from simmim_pl.command.one_subcommand import OneSubcommandCLI
from simmim_pl.command.parser import Parser
from simmim_pl.command.run_directory import RunDirectory, newest_checkpoint, require_valid_name, run_id
from simmim_pl.command.run_start import SaveConfig
from simmim_pl.contracts import InputError
from simmim_pl.cpu import malloc
from simmim_pl.runtime import atomic, checkpoint, integrity, lost_ranks, precision, resume
from simmim_pl.runtime.ranges import Seed

DESCRIPTION = "Pretrain image encoders without labels, and evaluate them. A config names every part: see configs/."


class CLI(OneSubcommandCLI):
    """LightningCLI in which every run writes to a new ``runs/NAME/ID/``, locked until ``held`` is closed."""

    def __init__(self, *args: Any, held: ExitStack, **kwargs: Any) -> None:
        self.held = held
        self.saved: dict[str, Any] = {}  # the checkpoint to resume from
        super().__init__(*args, **kwargs)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        parser.add_argument("--name", type=str, default="run", help="Name of the run: it writes to RUNS/NAME/ID/.")
        parser.add_argument("--runs", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--untrained", type=bool, default=False, help="Evaluate or embed with random weights, without --ckpt_path."
        )
        parser.link_arguments(("seed_everything", "data"), "data.init_args.seed", data_seed)
        ranges = {f"trainer.{name}": hint for name, hint in trainer_options.RANGES.items()}
        parser.limit(ranges | {"seed_everything": Seed})  # type: ignore[attr-defined]
        trainer_options.tell_counts_from_shares(parser)
        default_callbacks.add_arguments(parser)

    def _parse_ckpt_path(self) -> None:
        """Check ``--ckpt_path`` before anything is built. The config decides what is built, never the checkpoint."""
        config = self.config[self.config.subcommand]
        require_valid_name(config.name)
        if config.get("ckpt_path") == "last":
            config.ckpt_path = newest_checkpoint(config.runs, config.name, self.config.subcommand)
        if config.get("ckpt_path"):
            self.saved = checkpoint.load_checkpoint(
                config.ckpt_path, weights_only=config.get("weights_only") is not False
            )
            if self.config.subcommand == "fit":
                checkpoint.require_resumable(self.saved, config.ckpt_path)

    def before_instantiate_classes(self) -> None:
        """Look at the trainer's options."""
        trainer_options.look_at(self.config[self.subcommand], str(self.subcommand))
        self.parser.add_instantiator(build, object)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        config = self.config_init[self.subcommand]
        self.require_weights()
        resumed = config.ckpt_path if self.subcommand == "fit" else None
        directory = RunDirectory(Path(config.runs, config.name, run_id(resumed, config.runs, config.name)))
        self.held.callback(directory.release)
        if directory.exists():  # a resumed run: claim it before anything in it changes
            directory.claim()
        self.choose_precision()
        asked = self.config[self.subcommand]
        kwargs |= trainer_options.chosen(asked.trainer, self.model)
        kwargs |= default_callbacks.chosen(asked, config, self.model)
        given = config.trainer.logger
        self.save_config_kwargs |= {"directory": directory, "wandb": given in (None, True)}
        self.save_config_kwargs["checkpoint"] = integrity.checkpoint_id(self.saved) if self.saved else None
        self.save_config_kwargs["changes"] = self.changes() if resumed else []
        others = [] if given in (None, True, False) else list(given) if isinstance(given, list) else [given]
        if not config.trainer.fast_dev_run:
            kwargs["logger"] = [loggers.History(directory.folder, silent=given is False), *others]
        with explained("The trainer", Exception):
            trainer = super().instantiate_trainer(**kwargs)
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        callbacks.sort(key=lambda each: not isinstance(each, SaveConfig))  # first: others may log when a run begins
        if trainer.strategy.root_device.type == "cpu":
            malloc.configure_malloc(keep=not getattr(self.model, "saves_memory", False))
        return trainer

    def require_weights(self) -> None:
        """Refuse to evaluate or embed with a method's random weights without ``--untrained true``."""
        config = self.config[self.subcommand]
        if self.subcommand == "fit" and config.untrained:
            raise InputError("--untrained is for validate, test and predict: remove it; fit starts untrained anyway.")
        if config.untrained and config.ckpt_path:
            raise InputError("--untrained means random weights, and --ckpt_path saved ones: remove one of the two.")
        if config.untrained and not self.pretrains:
            raise InputError(f"--untrained is for methods, and {type(self.model).__name__} is not one: remove it.")
        if self.subcommand != "fit" and self.pretrains and not (config.ckpt_path or config.untrained):
            raise InputError(
                f"{self.subcommand} without weights would use random ones: name a checkpoint with --ckpt_path, such as "
                "last for the newest of --name, or set --untrained true if random weights are intended."
            )

    @property
    def pretrains(self) -> bool:
        """Whether the model is a self-supervised method. Its class has ``pretrains``, so no method is imported here."""
        return getattr(self.model, "pretrains", False)

    def choose_precision(self) -> None:
        """Set the precision if the user did not: in pretraining the checkpoint's or a fast one, elsewhere 32-true."""
        precision.forbid_tf32()
        asked = self.config[self.subcommand].trainer  # which also the run's config.yaml and checkpoints record
        if not isinstance(asked.accelerator, str) or asked.plugins:
            return
        if self.subcommand == "fit" and self.pretrains:
            wanted = asked.precision or self.saved.get("config", {}).get("trainer", {}).get("precision")
        else:
            wanted = asked.precision or "32-true"
        asked.precision, sentence = precision.choose(wanted, asked.accelerator)
        if sentence:
            rank_zero_info(sentence)

    def changes(self) -> list[dict[str, Any]]:
        """Settings changed at each resumption, with the step. Logs the new changes; refuses those not allowed."""
        parser = self._parser(self.subcommand)
        now = yaml.safe_load(parser.dump(self.config[self.subcommand], skip_none=False))
        changed = list(resume.config_changes(self.saved["config"], now))
        resume.require_allowed_changes(changed)
        for key, before, after in changed:
            old, new = resume.abbreviate_value(before), resume.abbreviate_value(after)
            rank_zero_info(f"Changed since the checkpoint: {key}, {old} → {new}")
        step = {"step": self.saved.get("global_step")} | {key: [before, after] for key, before, after in changed}
        return [*self.saved.get("changes", []), *([step] if changed else [])]

    def _run_subcommand(self, subcommand: str) -> None:
        with atomic.add_resume_advice(self.kept):
            super()._run_subcommand(subcommand)

    def kept(self) -> Any:
        """The checkpoint from which a ``fit`` can resume, if any."""
        trainer = getattr(self, "trainer", None)  # not set while it is being made
        last = getattr(trainer and trainer.checkpoint_callback, "path", None)
        return last if last and last.is_file() else self.subcommand == "fit" and self.config.fit.ckpt_path

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load checkpoints as tensors and plain values, and keep no predictions, unless the user says otherwise."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        keeps = {"return_predictions": bool(kwargs.get("return_predictions"))} if subcommand == "predict" else {}
        return {**kwargs, **keeps, "weights_only": kwargs.get("weights_only") is not False}


def read_dotenv() -> None:
    """Set variables from ``.env`` in this folder or one above, unless they are set or their value in it is empty.

    Raises:
        InputError: the file cannot be read.
    """
    path = find_dotenv(usecwd=True)
    try:
        values = dotenv_values(path)
    except (OSError, UnicodeError) as error:
        raise InputError(f"{path} cannot be read ({error}): save it as text in UTF-8, or remove it.") from error
    for key, value in values.items():
        if value:
            os.environ.setdefault(key, value)


@say_once.mark_job()
@lost_ranks.watch_ranks()
def main(args: ArgsType = None) -> None:
    """Run the command line. User errors print one line and exit with code 2."""
    try:
        read_dotenv()
        quiet.hide_messages()
        with ExitStack() as held:
            CLI(
                LightningModule,
                LightningDataModule,
                parser_class=Parser,
                subclass_mode_model=True,
                subclass_mode_data=True,
                save_config_callback=SaveConfig,
                save_config_kwargs={"overwrite": True},  # for a resumed run; a new run has a new directory
                seed_everything_default=0,
                auto_configure_optimizers=False,
                trainer_defaults={"max_epochs": 100},
                parser_kwargs={"prog": "python -m simmim_pl", "description": DESCRIPTION},
                args=args,
                held=held,
            )
        atomic.flush_stdout()
    except Exception as error:
        sentence = mendable(error)
        lost_ranks.announce_exit()
        if sentence is None:
            raise
        if say_once.is_first(sentence):
            print(f"error: {sentence}", file=sys.stderr)
        with suppress(OSError):
            atomic.flush_stdout()
        sys.exit(2)
    finally:
        wandb.teardown(exit_code=2 if sys.exc_info()[0] else 0)  # finishes the run, forgets the credentials


def mendable(error: BaseException | None) -> str | None:
    """The sentence of a user error, else ``None``. jsonargparse wraps errors of optional parts, so causes count too."""
    while error is not None:
        if isinstance(error, (InputError, MisconfigurationException)):
            # A DataLoader worker wraps the sentence in its own traceback; the sentence is the last line.
            return str(error).rsplit("InputError: ", 1)[-1].strip()
        if sentence := lost_ranks.explain(error) or atomic.explain(error) or integrity.explain(error) or refusal(error):
            return sentence
        error = error.__cause__
    return None
