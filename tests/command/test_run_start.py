"""The start of a run."""

from types import SimpleNamespace
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from wandb.sdk.wandb_config import Config

from simmim_pl.command.run_start import SaveConfig


def test_wandbs_config_of_a_resumed_run_is_updated() -> None:
    config = Config()
    config.update({"lr": 1, "of": "before"})  # as the server returns it
    start: Any = SaveConfig.__new__(SaveConfig)
    start.nested = {"lr": 2}
    run: Any = SimpleNamespace(config=config)
    trainer = Trainer(logger=WandbLogger(experiment=run), accelerator="cpu", enable_checkpointing=False)
    start.save_config(trainer, LightningModule(), "fit")
    assert dict(config) == {"lr": 2, "of": "before"}
