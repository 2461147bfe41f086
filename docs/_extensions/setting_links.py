"""Sphinx extension: links to the rows of the tables of settings from every page.

Sphinx does not know the anchors that docs/result_tables.py writes into these tables as HTML.
"""

import re

ANCHOR = re.compile(r'<a id="(setting-([\w.]+))"></a>')


def setup(app):
    app.connect("source-read", _note_targets)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _note_targets(app, docname, source):
    for anchor, key in ANCHOR.findall(source[0]):
        domain = app.env.domains.standard_domain
        domain.note_hyperlink_target(anchor, docname, anchor, f"config.{key}")
