"""The data's seed is the run's; a different one is never ignored silently."""

from collections.abc import Callable
from typing import Any

import pytest
from jsonargparse import Namespace

from simmim_pl.command.data_seed import data_seed
from simmim_pl.contracts import InputError
from tests.conftest import TINY
from tests.test_bad_input import refusal  # noqa: F401, a fixture

OURS = "simmim_pl.data.ImageDataModule"


class Others:
    """A user's datamodule with its own seed."""

    def __init__(self, seed: int = 42) -> None: ...


class Seedless:
    """A user's datamodule without a seed."""


@pytest.mark.parametrize(
    ("data", "becomes"),
    [
        (Namespace(class_path=OURS, init_args=Namespace(seed=0)), 3),
        (Namespace(class_path=OURS, init_args=Namespace(seed=3)), 3),
        (Namespace(class_path=f"{__name__}.Others", init_args=Namespace(seed=42)), 3),
        (Namespace(class_path=f"{__name__}.Seedless", init_args=Namespace()), 3),
        (Namespace(class_path=f"{__name__}.Seedless"), 3),
        (None, 3),
        (Namespace(class_path=OURS, init_args=Namespace(seed=5)), None),
        (Namespace(class_path=f"{__name__}.Others", init_args=Namespace(seed=0)), None),
    ],
)
def test_a_given_data_seed_is_distinguished_from_the_default(data: Any, becomes: int | None) -> None:
    if becomes is not None:
        assert data_seed(3, data) == becomes
    else:
        with pytest.raises(InputError, match=r"--data.seed \d would be replaced by --seed_everything 3"):
            data_seed(3, data)


def test_a_seed_of_the_data_on_the_command_line_is_refused(
    refusal: Callable[[list[Any]], str],  # noqa: F811
) -> None:
    assert refusal([*TINY, "--data.seed=5"]).startswith("error: --data.seed 5 would be replaced by --seed_everything 0")
