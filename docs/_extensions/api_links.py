"""Sphinx extension: names in backticks that begin with `moco_tf.` are links to the API reference.

It applies to docstrings and to pages. Names of constants, which have no entry, stay code.
"""

import re

from docutils import nodes
from sphinx import addnodes
from sphinx.transforms import SphinxTransform

NAME = re.compile(r"moco_tf(\.\w+)*\.(?![A-Z_]+$)\w+")


def setup(app):
    app.add_transform(LinkNames)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


class LinkNames(SphinxTransform):
    default_priority = 700  # After the roles are resolved, before links are.

    def apply(self, **kwargs):
        for node in list(self.document.findall(nodes.literal)):
            name = node.astext()
            if NAME.fullmatch(name) and isinstance(node.parent, nodes.paragraph | nodes.term):
                link = addnodes.pending_xref(
                    "", node.deepcopy(), refdomain="py", reftype="obj", reftarget=name
                )
                link.source, link.line = node.source, node.line
                node.replace_self(link)
