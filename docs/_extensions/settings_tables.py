"""Sphinx extension: the directive `settings`, which shows a table for each group of settings.

Every setting can be linked to from every page: [`queue_size`](#setting-queue_size).
"""

from docutils import nodes
from sphinx.util.docutils import SphinxDirective

from moco_tf.settings import FROM_PRESET, GROUPS

COLUMNS = {"Setting": 22, "Default": 20, "Valid values": 18, "Description": 40}


def setup(app):
    app.add_directive("settings", Settings)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class Settings(SphinxDirective):
    def run(self):
        # The tables depend on a module that Sphinx does not watch.
        self.env.note_reread()
        return [node for group in GROUPS.items() for node in self._group(*group)]

    def _group(self, title, settings):
        table = nodes.table(classes=["settings", "colwidths-given"])
        group = nodes.tgroup(cols=len(COLUMNS))
        group += [nodes.colspec(colwidth=width) for width in COLUMNS.values()]
        header = _row([nodes.Text(column)] for column in COLUMNS)
        group += nodes.thead("", header)
        group += nodes.tbody("", *(self._row(setting) for setting in settings))
        table += group
        return [nodes.rubric("", title), table]

    def _row(self, setting):
        row = _row(
            (
                [nodes.literal("", setting.key)],
                [_shown(setting.default)],
                _valid_values(setting.range),
                [nodes.Text(setting.help)],
            )
        )
        if setting.operational:
            row[-1][0] += nodes.Text(" It may change when a run is resumed.")
        label = f"setting-{setting.key}"
        row["ids"] = [nodes.make_id(label)]
        self.env.domains.standard_domain.note_hyperlink_target(
            label, self.env.current_document.docname, row["ids"][0], f"config.{setting.key}"
        )
        return row


def _row(cells):
    return nodes.row("", *(nodes.entry("", nodes.paragraph("", "", *cell)) for cell in cells))


def _shown(default):
    """Return a default as it is given on the command line, or where it comes from."""
    if default is None:
        return nodes.Text(FROM_PRESET)
    if isinstance(default, tuple):
        return nodes.literal("", ",".join(map(str, default)))
    return nodes.literal("", str(default) if default != "" else '""')


def _valid_values(range):
    if not range.choices:
        return [nodes.Text(str(range))]
    cell = []
    for choice in range.choices:
        cell += [nodes.Text(", ")] * bool(cell) + [nodes.literal("", choice)]
    return cell
