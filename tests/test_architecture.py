"""Rules for imports, docstrings, file lengths and links."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted((ROOT / "simmim_pl").rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]


def table() -> dict[str, set[str]]:
    """The rows of docs/architecture.md, "Packages": who may import whom; "" is the package itself, for its version."""
    rows = re.findall(r"^\| `([\w.]+)/?` \| .* \| ([^|]+) \|$", (ROOT / "docs/architecture.md").read_text(), re.M)
    names = {"__init__": "", "package": ""}
    found = {}
    for name, cell in rows:
        subpackage = name.removesuffix(".py")
        found[names.get(subpackage, subpackage)] = {names.get(each, each) for each in re.findall(r"\w+", cell)}
    return found


ALLOWED = table()  # a package may always import itself
ONLY_IN = {
    "torch.distributed": {"simmim_pl/runtime/distributed.py"},
    "wandb": {"simmim_pl/command/cli.py", "simmim_pl/command/loggers.py", "simmim_pl/callbacks/dashboard.py"},
    "wandb_workspaces": {"simmim_pl/command/workspace.py"},
    "huggingface_hub": {"simmim_pl/export/hub.py"},
}
LONGEST = 225  # lines of a file
TESTS_OF_THE_WHOLE = {
    *("test_architecture", "test_library", "test_extending", "test_configs", "test_bad_input", "test_accuracy_gate"),
    *(
        "test_combinations",
        "test_parity",
        "test_resume",
        "test_resume_changed",
        "test_failures",
        "test_precision",
        "test_nodes",
        "test_benchmarks",
        "test_cuda",
        "test_notebooks",
        "test_waits",
    ),
}


def subpackage(module: str) -> str:
    """The subpackage of ``simmim_pl.subpackage.module``; "" for simmim_pl itself."""
    return [*module.split("."), ""][1]


def home(path: str) -> str:
    """The subpackage of a file."""
    return subpackage(path.removesuffix(".py").removesuffix("/__init__").replace("/", "."))


def dotted(node: ast.expr) -> str:
    """``a.b.c`` of nested attributes; empty when they do not start at a name."""
    if isinstance(node, ast.Name):
        return node.id
    before = dotted(node.value) if isinstance(node, ast.Attribute) else ""
    return f"{before}.{node.attr}" if before and isinstance(node, ast.Attribute) else ""


def uses(tree: ast.AST) -> Iterator[str]:
    """Every module that a file imports or reaches by attributes; for ``from a import b`` both a and a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from (f"{source}.{name.name}" for name in node.names)
        elif isinstance(node, ast.Attribute):
            yield dotted(node)
        elif isinstance(node, ast.Call) and dotted(node.func) in (
            "__import__",
            "import_module",
            "importlib.import_module",
        ):
            yield from (str(arg.value) for arg in node.args[:1] if isinstance(arg, ast.Constant))


def under(module: str, parent: str) -> bool:
    return module == parent or module.startswith(f"{parent}.")


def target(module: str) -> str:
    """The subpackage that an import reaches."""
    name = subpackage(module)
    return name if name in ALLOWED else ""  # `from simmim_pl import __version__`


def offences(path: str, source: str) -> list[str]:
    """Imports of a file that the table does not allow."""
    own, reached = home(path), set(uses(ast.parse(source)))
    found = [f"{module} is relative" for module in reached if module.startswith(".")]
    ours = sorted(module for module in reached if under(module, "simmim_pl"))
    found += [f"{own} imports {module}" for module in ours if target(module) not in ALLOWED[own] | {own}]
    for foreign, places in ONLY_IN.items():
        if path not in places and any(under(module, foreign) for module in reached):
            found.append(f"{path} uses {foreign}")
    return found


@pytest.mark.parametrize("name", NAMES)
def test_a_file_imports_only_allowed_packages(name: str) -> None:
    assert offences(name, (ROOT / name).read_text()) == []


FORBIDDEN = {
    "a package not in its row": ("simmim_pl/views/crop.py", "from simmim_pl.data.sources.shapes import Shapes"),
    "the same, as a module": ("simmim_pl/views/crop.py", "import simmim_pl.data.sources.shapes"),
    "the same, from the package": ("simmim_pl/encoders/vit.py", "from simmim_pl import losses"),
    "the same, in a function": (
        "simmim_pl/contracts.py",
        "def f():\n    from simmim_pl.encoders.heads import Classifier",
    ),
    "the same, for type checkers": ("simmim_pl/data/datamodule.py", "if TYPE_CHECKING:\n    import simmim_pl.views"),
    "the same, in an __init__": ("simmim_pl/losses/__init__.py", "from simmim_pl.methods import Contrastive"),
    "the same, by a call": ("simmim_pl/encoders/heads.py", "import_module('simmim_pl.losses')"),
    "a relative import": ("simmim_pl/views/crop.py", "from ..data import shapes"),
    "a method into the command line": ("simmim_pl/command/cli.py", "from simmim_pl.methods import Contrastive"),
    "the package's version in a loss": ("simmim_pl/losses/nt_xent.py", "from simmim_pl import __version__"),
    "ranks by import": ("simmim_pl/losses/nt_xent.py", "import torch.distributed as dist"),
    "ranks by a name": ("simmim_pl/losses/nt_xent.py", "from torch import distributed"),
    "ranks by a part": (
        "simmim_pl/callbacks/online_probe.py",
        "from torch.distributed.nn.functional import all_gather",
    ),
    "ranks by attribute": ("simmim_pl/callbacks/online_probe.py", "import torch\nrank = torch.distributed.get_rank()"),
    "wandb in a method": ("simmim_pl/methods/contrastive.py", "import wandb"),
    "wandb in another callback": ("simmim_pl/callbacks/online_probe.py", "from wandb import Image"),
    "wandb in the sweep": ("simmim_pl/command/sweep.py", "import wandb"),
    "an upload elsewhere": ("simmim_pl/export/export.py", "from huggingface_hub import HfApi"),
    "workspaces elsewhere": ("simmim_pl/command/sweep.py", "import wandb_workspaces.workspaces as workspaces"),
}


@pytest.mark.parametrize("case", FORBIDDEN)
def test_a_forbidden_import_is_found(case: str) -> None:
    assert len(offences(*FORBIDDEN[case])) == 1


def test_allowed_imports_pass() -> None:
    ours = "from simmim_pl.contracts import Batch\nfrom simmim_pl.runtime import distributed, checkpoint"
    assert offences("simmim_pl/methods/contrastive.py", ours) == []
    sampler = "import torch\nfrom torch.utils.data.distributed import DistributedSampler\ntorch.utils.data.distributed"
    assert offences("simmim_pl/data/datamodule.py", sampler) == []
    assert offences("simmim_pl/evaluation/card.py", "import simmim_pl\nsimmim_pl.__version__") == []
    assert offences("simmim_pl/runtime/distributed.py", "import torch.distributed as dist") == []


def imported(path: Path) -> set[Path]:
    """The files of the package that a file imports, including for type checkers."""
    found = set()
    for module in uses(ast.parse(path.read_text())):
        place = ROOT / module.replace(".", "/")
        if under(module, "simmim_pl"):
            found |= {file for file in (place.with_suffix(".py"), place.parent.with_suffix(".py")) if file.is_file()}
    return found - {path}


def test_there_are_no_circular_imports() -> None:
    ahead, done = {path: imported(path) for path in FILES}, set[Path]()
    assert sum(map(len, ahead.values())) > 100
    while free := {path for path in ahead.keys() - done if ahead[path] <= done}:
        done |= free
    assert ahead.keys() - done == set()


def test_every_package_is_in_the_table() -> None:
    assert len(FILES) > 20
    assert {
        subpackage(name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")) for name in NAMES
    } <= ALLOWED.keys()
    assert set().union(*ALLOWED.values()) <= ALLOWED.keys()


@pytest.mark.parametrize("name", NAMES)
def test_every_module_public_class_and_public_function_has_a_docstring(name: str) -> None:
    tree = ast.parse((ROOT / name).read_text())
    assert ast.get_docstring(tree)
    silent = [
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
        and not node.name.startswith("_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


@pytest.mark.parametrize("name", NAMES)
def test_files_are_short(name: str) -> None:
    assert len((ROOT / name).read_text().splitlines()) <= LONGEST


def mirrored(test: Path) -> bool:
    """Whether a test file is for the whole package, or mirrors the path of a module."""
    if test.stem in TESTS_OF_THE_WHOLE or test.stem.startswith("test_cli"):
        return True
    page = test.relative_to(ROOT / "tests").with_name(test.name.removeprefix("test_"))
    return (ROOT / "simmim_pl" / page).is_file()


def test_tests_mirror_the_package() -> None:
    tests = list((ROOT / "tests").rglob("test_*.py"))
    assert len(tests) > 10
    assert [str(test) for test in tests if not mirrored(test)] == []
    assert not mirrored(ROOT / "tests/data/test_nothing.py")
    assert not mirrored(ROOT / "tests/losses/test_crop.py")


@pytest.mark.parametrize("name", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_are_valid(name: str) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", (ROOT / name).read_text())
    ours = [link for link in links if "://" not in link]
    assert ours
    assert [link for link in ours if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_every_document_is_in_the_contents_of_the_site() -> None:
    contents = (ROOT / "docs/conf.py").read_text().splitlines()
    documents = {path.with_suffix("").relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md")}
    assert documents - {*contents} == set()


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    text = (ROOT / "README.md").read_text()
    tree = text[text.index("```\nsimmim_pl/") :].split("```")[1]
    names = re.findall(r"^( *)([\w.]+/?)  ", tree, re.M)
    package = {name for indent, name in names if indent}
    assert all((ROOT / "simmim_pl" / name).exists() for name in package)
    folders = {f"{path.name}/" for path in (ROOT / "simmim_pl").iterdir() if (path / "__init__.py").is_file()}
    assert folders <= package
    assert all((ROOT / name).is_dir() for indent, name in names if not indent)
