"""Sphinx configuration for `make docs`."""

import inspect
import pathlib
import re
import sys
import textwrap

from sphinx.util.inspect import signature, stringify_signature

DOCS = pathlib.Path(__file__).parent
# The extensions of this project, and the packages of this checkout. An installed moco_tf may be
# another version.
sys.path[:0] = [str(DOCS / "_extensions"), str(DOCS.parent)]

from moco_tf import __version__  # noqa: E402

project = "moco-tf"
author = "The moco-tf authors"
copyright = author
version = release = __version__

extensions = [
    "api_links",
    "api_pages",
    "myst_parser",
    "setting_links",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_design",
]
exclude_patterns = ["_extensions"]

# Markdown. There is no math: Sphinx would load MathJax over the network.
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3

# Docstrings.
autosummary_generate = False  # The extension `api_pages` writes the pages.
# Keras documents the methods that we override in Markdown.
autodoc_inherit_docstrings = False
# Names in `__all__` are documented where they are defined.
autodoc_default_options = {"ignore-module-all": True}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 80
toc_object_entries_show_parents = "hide"
napoleon_numpy_docstring = False
napoleon_custom_sections = [("Call arguments", "params_style")]  # As Keras documents `call`.
# In the docstrings, single backticks are code, and most indented paragraphs are shell commands.
default_role = "code"
highlight_language = "none"
# Where the classes of other projects are defined, and where users find them.
PUBLIC_NAMES = {
    r"\babsl\.flags\._flagvalues\.": "absl.flags.",
    r"\bcollections\.abc\.": "",
    r"\bkeras\.src\.(\w+\.)+": "keras.",
    r"\bml_collections\.config_dict\.config_dict\.": "ml_collections.",
    r"\btensorflow\.python\.framework\.tensor\.": "tf.",
}
# Links to other projects would need network access.
nitpick_ignore_regex = [("py:.*", r"(?!moco_tf\.).*")]

# The look.
html_theme = "pydata_sphinx_theme"
html_title = "moco-tf"
html_theme_options = {
    "logo": {"text": "moco-tf"},
    "show_nav_level": 2,
    "show_toc_level": 2,
    "navigation_depth": 4,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_sidebars = {"index": []}
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
# Copy commands without the prompts, and Python without the output, of examples in docstrings.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True


def setup(app):
    """Register the handlers below."""
    # Before napoleon, which has priority 500.
    app.connect("autodoc-process-docstring", _mark_literal_blocks, priority=300)
    app.connect("autodoc-process-docstring", _format_returns, priority=400)
    # After napoleon.
    app.connect("autodoc-process-docstring", _shorten_types, priority=600)
    app.connect("autodoc-process-signature", _restore_signature)
    app.connect("autodoc-skip-member", _skip_fields)
    app.connect("env-updated", _mark_aliases)


def _mark_literal_blocks(app, what, name, obj, options, lines):
    """Turn indented paragraphs, which are commands or formulas, into literal blocks.

    Sections such as "Args:" do not begin with an empty line, so they are not affected.
    """
    for i, line in list(enumerate(lines))[::-1]:
        if line.startswith(" ") and i > 1 and not lines[i - 1]:
            before = next((text for text in lines[i - 1 :: -1] if text), "")
            if not before.startswith(" "):
                lines[i:i] = ["::", ""]


def _format_returns(app, what, name, obj, options, lines):
    """Format the section "Returns:", in which napoleon takes the text before a colon for a type.

    The docstrings contain no types. A section that describes several values has one `name: text`
    for each.
    """
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


def _shorten_types(app, what, name, obj, options, lines):
    """Show types by their public names, such as `keras.Model`, in the types that napoleon adds."""
    for i, line in enumerate(lines):
        if re.match(r"\s*:(var)?type\b", line):
            for pattern, public in PUBLIC_NAMES.items():
                line = re.sub(pattern, public, line)
            lines[i] = line


def _restore_signature(app, what, name, obj, options, arguments, return_annotation):
    """Show the signature of `__init__` for Keras classes, whose `__new__` takes any arguments."""
    if what == "class" and arguments == "(*args, **kwargs)" and inspect.isfunction(obj.__init__):
        arguments = stringify_signature(
            signature(obj.__init__, bound_method=True),
            show_return_annotation=False,
            unqualified_typehints=True,
        )
    return arguments, return_annotation


def _skip_fields(app, what, name, obj, skip, options):
    """Skip the fields of a NamedTuple, which its class docstring describes."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def _mark_aliases(app, env):
    """Mark what the public interface documents once more, so that links by name are unambiguous."""
    objects = env.domains.python_domain.objects
    for name, entry in objects.items():
        if entry.docname == "api/index":
            objects[name] = entry._replace(aliased=True)
