"""The site: ``make docs``. Sphinx reads the whole repository, so links between files are the same as on GitHub."""

import ast
import re
import shutil
from contextlib import suppress
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Annotated, get_origin

import simmim_pl
from simmim_pl.runtime import ranges

ROOT = Path(__file__).parents[1]
API = ROOT / "docs/api"  # written anew by each build

project = html_title = "simmim_pl"
release = simmim_pl.__version__
extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # docstrings in Google's style
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
]
root_doc = "README"
include_patterns = ["*.md", "docs/*.md", "docs/api/*.rst", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "data", "runs", "simmim_pl", "tests"]
nitpicky = True  # a docstring may refer only to what exists in this package, or to other packages
nitpick_ignore_regex = [("py:(class|exc|obj)", r"(?!simmim_pl\.)\S+|'.*'")]  # a sentence is no type, except a shape
nitpick_ignore = [  # type variables
    ("py:class", "simmim_pl.evaluation.context.Item"),
    ("py:class", "simmim_pl.runtime.from_config.Method"),
]

html_theme = "furo"
html_show_copyright = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_additional_pages = {"index": "index.html"}  # leads to the README
templates_path = ["_templates"]

myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "cache"  # a notebook is run again when its code changes
nb_merge_streams = True  # one block for what a cell prints
nb_execution_raise_on_error = True
nb_execution_timeout = 300  # seconds of a cell

autosummary_generate = False  # only for tables; see write_api
autodoc_default_options = {"members": True, "ignore-module-all": True, "show-inheritance": True}
autodoc_inherit_docstrings = False  # Lightning's refer to its own pages
autodoc_member_order = "bysource"
autodoc_mock_imports = ["triton"]  # not installed without a GPU; write_api imports torch before
autodoc_preserve_defaults = True
autodoc_type_aliases = {
    name: f"simmim_pl.runtime.ranges.{name}" for name, kind in vars(ranges).items() if get_origin(kind) is Annotated
}
add_module_names = False
napoleon_use_ivar = True
python_maximum_signature_line_length = 110
python_use_unqualified_type_names = True
toc_object_entries_show_parents = "hide"

CONTENTS = """
```{toctree}
:hidden:
:caption: Guide

docs/usage
docs/methods
docs/extending
docs/scaling
docs/results
```

```{toctree}
:hidden:
:caption: Notebooks
:glob:

notebooks/*
```

```{toctree}
:hidden:
:caption: Reference

docs/api/simmim_pl
docs/architecture
docs/method
docs/history
CONTRIBUTING
CHANGELOG
```
"""

FILE = re.compile(r"\]\((?:\.\./)?(simmim_pl/[\w/]+)\.py\)")
RANGE = re.compile(
    r"TypeAliasForwardRef\('([\w.]+)'\)"  # an alias within another type
    r"|~?typing\.Annotated\[(\w+), ~[\w.]+\.Range\(interval=.+?[)\]]\)\]"  # a range without a name
)


def write_api(app):
    """Write one page per module. autosummary would take the function ``losses.nt_xent`` for the module of this name."""
    shutil.rmtree(API, ignore_errors=True)
    API.mkdir()
    for path in (ROOT / "simmim_pl").rglob("*.py"):
        children = sorted({*path.parent.glob("*.py"), *path.parent.glob("*/__init__.py")} - {path})
        (API / f"{module(path)}.rst").write_text(page(path, children if path.name == "__init__.py" else []))


def page(path, children):
    """The reference of a module; of a package also what it exports, and its modules."""
    name = module(path)
    title = name.rpartition(".")[2] if "." in name else "API reference"
    lines = [title, "=" * len(title), "", f"``{name}``", "", f".. automodule:: {name}", ""]
    if children:
        if exports := exported(name, path):
            lines += [".. rubric:: Exports", "", ".. autosummary::", "", *(f"   ~{each}" for each in exports), ""]
        modules = [f"- :mod:`~{module(child)}`: {summary(child)}" for child in children]
        lines += [".. rubric:: Modules", "", *modules, ""]
        lines += [".. toctree::", "   :hidden:", "", *(f"   {module(child)}" for child in children)]
    return "\n".join(lines)


def module(path):
    """Name of a file's module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def exported(package, path):
    """What a package exports, named by the module that defines it."""
    names = getattr(import_module(package), "__all__", [])
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom)]
    found = [f"{node.module}.{each.name}" for node in imports for each in node.names if each.name in names]
    return [each.removeprefix(f"{package}.") for each in found]


def summary(path):
    """First paragraph of a module's docstring."""
    return ast.get_docstring(ast.parse(path.read_text())).split("\n\n")[0].replace("\n", " ")


def adapt(app, docname, source):
    """Add the table of contents, which GitHub would show as code; link the package's files to their reference."""
    if docname == root_doc:
        source[0] += CONTENTS
    source[0] = FILE.sub(lambda found: f"](#{found[1].replace('/', '.')})", source[0])


def shorten(app, what, name, obj, options, signature, returns):
    """Write number types as ``PositiveInt`` or ``float``, which autodoc writes at length."""
    return signature and RANGE.sub(lambda found: found[1] or found[2], signature), returns


def find_imported(app, env, node, contnode):
    """Resolve a name where it is imported: ``InputError`` in most modules, ``simmim_pl.losses.NTXent`` in a package."""
    if node["refdomain"] != "py":
        return None
    names = [target := node["reftarget"]]
    for name in (target, f"{node.get('py:module')}.{target}"):
        with suppress(AttributeError):
            found = attrgetter(name.removeprefix("simmim_pl."))(simmim_pl)
            names.append(f"{found.__module__}.{found.__qualname__}")
    py = env.get_domain("py")
    links = [py.resolve_xref(env, node["refdoc"], app.builder, "obj", name, node, contnode) for name in names]
    return next(filter(None, links), None)


def setup(app):
    """Connect the functions above to Sphinx's events."""
    app.connect("builder-inited", write_api)
    app.connect("source-read", adapt)
    app.connect("autodoc-process-signature", shorten)
    app.connect("missing-reference", find_imported)
