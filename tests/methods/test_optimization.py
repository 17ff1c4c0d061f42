"""Optimizers of copies of a method: Lightning's moving average of weights, what its checkpoint has, how it resumes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from simmim_pl import load_encoder
from tests.conftest import NO_PICTURES, TINY

Cli = Callable[[list[Any]], Path]
AVERAGE = ["--trainer.callbacks+=lightning.pytorch.callbacks.EMAWeightAveraging", "--trainer.callbacks.decay=0.5"]


def saved(run: Path) -> dict[str, Any]:
    """The last checkpoint of a run."""
    checkpoint: dict[str, Any] = torch.load(run / "checkpoints/last.ckpt", weights_only=True)
    return checkpoint


def test_the_checkpoint_has_the_average_and_resumes_identically(cli: Cli) -> None:
    short = [*TINY, *NO_PICTURES, *AVERAGE]
    straight = cli([*short, "--name=straight"])
    cli([*short, "--trainer.callbacks+=tests.command.test_cli.StopAfterOne", "--name=stopped"])
    resumed = cli([*short, "--name=stopped", "--ckpt_path=last"])
    assert saved(resumed)["global_step"] == saved(straight)["global_step"]
    for state in ("state_dict", "current_model_state"):
        for name, due in saved(straight)[state].items():
            assert torch.equal(saved(resumed)[state][name], due), name
    average, current = saved(straight)["state_dict"], saved(straight)["current_model_state"]
    name = "encoder.net.0.0.weight"
    assert not torch.equal(average[name], current[name])
    assert torch.equal(load_encoder(straight / "checkpoints/last.ckpt").get_parameter("net.0.0.weight"), average[name])
