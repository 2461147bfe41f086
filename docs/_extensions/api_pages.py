"""Sphinx extension: writes a page of the API reference for each module into docs/api/.

`sphinx.ext.apidoc` names modules after their folders, but `export/` and `configs/` are installed as
`moco_tf.export` and `moco_tf.configs`.
"""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent.parent
PACKAGES = {
    "moco_tf": ROOT / "moco_tf",
    "moco_tf.configs": ROOT / "configs",
    "moco_tf.export": ROOT / "export",
}


def setup(app):
    app.connect("builder-inited", _write_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def modules():
    """Return the paths of all modules by their names."""
    paths = {}
    for name, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = path.relative_to(folder).with_suffix("").parts
            parts = parts[:-1] if parts[-1] == "__init__" else parts
            paths[".".join((name, *parts))] = path
    return dict(sorted(paths.items()))


def _write_pages(app):
    folder = pathlib.Path(app.srcdir) / "api"
    paths = modules()
    for page in folder.glob("*.rst"):
        if page.stem not in paths:
            page.unlink()
    for name in paths:
        text = _text(name, paths)
        page = folder / f"{name}.rst"
        # Sphinx reads a page again if its file is newer.
        if not page.exists() or page.read_text(encoding="utf-8") != text:
            page.write_text(text, encoding="utf-8")


def _text(name, paths):
    lines = [name, "=" * len(name), "", f".. automodule:: {name}", "   :members:", ""]
    children = [child for child in paths if child.rpartition(".")[0] == name]
    children.sort(key=lambda child: paths[child].name != "__init__.py")  # Packages come first.
    if children:
        lines += [".. rubric:: Modules", "", ".. list-table::", "   :widths: auto", ""]
        for child in children:
            lines += [f"   * - :py:mod:`{child}`", f"     - {_summary(paths[child])}"]
        lines += ["", ".. toctree::", "   :hidden:", ""]
        lines += [f"   {child.rpartition('.')[2]} <{child}>" for child in children]
        lines.append("")
    return "\n".join(lines)


def _summary(path):
    """Return the first paragraph of a module's docstring."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(docstring.partition("\n\n")[0].split())
