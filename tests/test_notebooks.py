"""Every notebook runs from top to bottom, has no outputs and no logic, and leaves no files."""

import ast
from pathlib import Path
from typing import Any

import nbformat
import pytest
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.forked import ROOT, Program

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LONGEST = 15  # lines of a cell
FEWER = {"train=4000": "train=700", "max_epochs=6": "max_epochs=3"}  # images and epochs, enough for a test

each = pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])


def load(path: Path) -> NotebookNode:
    return nbformat.read(path, as_version=4)


def code(path: Path) -> list[NotebookNode]:
    return [cell for cell in load(path).cells if cell.cell_type == "code"]


class ThisPython(AsyncKernelManager):
    """Starts the kernel in the interpreter that runs the tests, whatever kernels the user has installed."""

    @property
    def kernel_spec(self) -> KernelSpec:
        return KernelSpec(argv=["ipykernel_launcher", "-f", "{connection_file}"], language="python")


def fork(command: list[str], *, env: dict[str, str], cwd: str, **_: Any) -> Program:
    """A kernel that has already imported the notebooks' imports."""
    program: Any = Program(command[0], command[1:], Path(cwd), env)
    program.stdin = program.stdout = program.stderr = None  # like a process without pipes
    return program


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["1_views", "2_geometry", "3_probe", "4_library"]
    assert [all(many in path.read_text() for many in FEWER) for path in NOTEBOOKS] == [False, True, True, True]


@each
def test_a_notebook_runs_and_leaves_no_files(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))  # without the user's settings and history
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "jupyter"))
    here, before = tmp_path / "here", contents(path.parent)
    here.mkdir()
    notebook = load(path)
    for cell in notebook.cells:
        for many, few in FEWER.items():
            cell.source = cell.source.replace(many, few)
    monkeypatch.setattr("jupyter_client.provisioning.local_provisioner.launch_kernel", fork)
    place = {"metadata": {"path": str(here)}}
    NotebookClient(notebook, kernel_manager_class=ThisPython, timeout=300, resources=place).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [output.text for output in outputs if output.get("name") == "stderr"] == []
    assert contents(path.parent) == before
    assert list(here.iterdir()) == []


@each
def test_a_notebook_is_valid_without_outputs(path: Path) -> None:
    notebook = load(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in code(path) if cell.outputs or cell.execution_count is not None] == []


@each
def test_a_notebook_calls_the_package_and_defines_nothing(path: Path) -> None:
    trees = [ast.parse(cell.source) for cell in code(path)]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Lambda)
    assert [ast.unparse(node) for node in nodes if isinstance(node, definitions)] == []
    imported = {name.name for node in nodes if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert any(name.split(".")[0] == "simmim_pl" for name in imported)
    assert [cell.id for cell in code(path) if len(cell.source.splitlines()) > LONGEST] == []


@each
def test_links_of_a_notebook_are_valid(path: Path) -> None:
    text = "\n".join(cell.source for cell in load(path).cells if cell.cell_type == "markdown")
    links = [part.split(")")[0].split("#")[0] for part in text.split("](")[1:]]
    assert [link for link in links if "://" not in link and not (path.parent / link).is_file()] == []
