"""The site: these pages, the notebooks with what they print, and the reference from the docstrings."""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

project = "rdfia"
author = "the authors of rdfia"
project_copyright = f"2026, {author}"
extensions = [
    "myst_nb",
    "sphinx.ext.apidoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
]
exclude_patterns = ["templates"]
root_doc = "index"
html_theme = "furo"
html_title = "rdfia"
html_static_path: list[str] = []

# Single backticks name a module, a class or a function of the code.
default_role = "py:obj"
suppress_warnings = ["ref.python"]  # of a name that several modules have, the first is taken
apidoc_modules = [
    {
        "path": f"../{package}",
        "destination": f"reference/{package}",
        "separate_modules": True,
        "automodule_options": {"members", "show-inheritance"},
    }
    for package in ("rdfia", "datamodules")
]
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_preserve_defaults = True

myst_heading_anchors = 4
# A notebook that fails, or of which a cell takes longer than this, fails the build.
nb_execution_mode = "force"
nb_execution_timeout = 600
nb_execution_raise_on_error = True
nb_output_stderr = "remove"
