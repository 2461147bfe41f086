"""Sphinx' settings for `make docs`: a page for each module, of its docstrings."""

import inspect
import os
import re
import sys
import textwrap

from sphinx.util.inspect import signature, stringify_signature

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.insert(0, ROOT)

from moco_tf import __version__  # noqa: E402

project = "moco-tf"
author = "The moco-tf authors"
version = release = __version__
html_theme = "alabaster"
html_theme_options = {"description": "Momentum Contrast for TensorFlow and Keras 3"}
html_copy_source = False

extensions = ["sphinx.ext.apidoc", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
apidoc_modules = [
    {
        "path": os.path.join(ROOT, "moco_tf"),
        "destination": "api",
        "separate_modules": True,
        "module_first": True,
        "automodule_options": {"members"},
    },
    {
        "path": os.path.join(ROOT, "export"),
        "destination": "api/export",
        "separate_modules": True,
        "implicit_namespaces": True,
        "automodule_options": {"members"},
    },
]
exclude_patterns = ["api/modules.rst", "api/export/modules.rst"]  # no more than a link to one page
# What Keras says of a method that we override is in Markdown.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
# In our docstrings single backticks are code, and what is set in is mostly for a shell.
default_role = "code"
highlight_language = "none"
# Other projects' pages are not linked: that takes a network.
nitpick_ignore_regex = [("py:.*", r"(?!moco_tf\.|export\.)\w+\..*")]


def setup(app):
    # Before napoleon, which is at 500.
    app.connect("autodoc-process-docstring", _verbatim, priority=300)
    app.connect("autodoc-process-docstring", _returns, priority=400)
    app.connect("autodoc-process-signature", _signature)
    app.connect("autodoc-skip-member", _skip)


def _verbatim(app, what, name, obj, options, lines):
    """A paragraph that is set in is a command or a formula, not a quotation. (What belongs to
    "Args:" and its like begins without an empty line.)"""
    for i, line in list(enumerate(lines))[::-1]:
        if line.startswith(" ") and i > 1 and not lines[i - 1]:
            before = next((text for text in lines[i - 1 :: -1] if text), "")
            if not before.startswith(" "):
                lines[i:i] = ["::", ""]


def _returns(app, what, name, obj, options, lines):
    """Napoleon takes what stands before a colon for a type. We give none; where several values are
    returned, each has a name and lines of its own."""
    if "Returns:" not in lines:
        return
    start = lines.index("Returns:")
    end = start + 1
    while end < len(lines) and (not lines[end] or lines[end].startswith(" ")):
        end += 1
    text = textwrap.dedent("\n".join(lines[start + 1 : end]))
    values = re.split(r"\n(?! )", text.strip())
    if len(values) > 1 and all(re.match(r"\w+: ", value) for value in values):
        values = [re.sub(r"^(\w+): ", r"* **\1** -- ", value) for value in values]
        values = [re.sub(r"\n +", "\n  ", value) for value in values]
    field = textwrap.indent("\n".join(values), "    ").strip()
    lines[start:end] = [*f":returns: {field}".splitlines(), ""]


def _signature(app, what, name, obj, options, found, return_annotation):
    """Keras' classes have a `__new__` of any arguments; what they take is in `__init__`."""
    if what == "class" and found == "(*args, **kwargs)" and inspect.isfunction(obj.__init__):
        found = stringify_signature(signature(obj.__init__, bound_method=True))
    return found, return_annotation


def _skip(app, what, name, obj, skip, options):
    """A field of a NamedTuple: its class' docstring says what it is."""
    return True if type(obj).__name__ == "_tuplegetter" else None
