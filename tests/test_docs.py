"""The documentation site: complete, without broken links, and readable without a network."""

import ast
import html.parser
import re
import urllib.parse

import pytest
from absl import flags
from sphinx.util.inventory import InventoryFile

from moco_tf.cli import demo, evaluate, train
from moco_tf.cli.flag_groups import define_export_flags
from moco_tf.cli.formats import FORMATS
from moco_tf.config import default_config, flatten
from moco_tf.settings import FROM_PRESET
from tests.command import ROOT, run

pytestmark = pytest.mark.slow

PAGES = (
    *(
        "index",
        "quickstart",
        "your_images",
        "data_sources",
        "runs",
        "plan",
        "encoders",
        "configuration",
        "commands",
    ),
    *("evaluation", "transfer", "detection", "detectron2", "export", "pytorch", "distributed"),
    *("examples/README", "examples/features", "examples/search", "examples/deduplication"),
    *("examples/fine_tuning", "results", "reproducing", "photos", "performance", "testing"),
    *("api/index", "api/moco_tf", "architecture", "contributing", "changelog"),
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """Build the pages as `make docs` does."""
    directory = tmp_path_factory.mktemp("docs")
    options = ("--quiet", "--fail-on-warning", "--keep-going", "--nitpicky")
    run("-m", "sphinx", *options, "docs", directory)
    return directory


class Page(html.parser.HTMLParser):
    """The links, the anchors and the loaded files of an HTML page."""

    def __init__(self, path):
        super().__init__()
        self.links, self.ids, self.loaded = set(), set(), set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids.add(attributes.get("id"))
        if tag == "a" and attributes.get("href"):
            self.links.add(attributes["href"])
        if tag == "link" and attributes["rel"] in ("stylesheet", "preload", "icon"):
            self.loaded.add(attributes["href"])
        if tag in ("script", "img", "iframe", "source") and attributes.get("src"):
            self.loaded.add(attributes["src"])


@pytest.fixture(scope="module")
def parsed(pages):
    return {path.resolve(): Page(path) for path in pages.rglob("*.html")}


def is_external(link):
    return bool(urllib.parse.urlsplit(link).scheme or link.startswith("//"))


def local_targets(path, page):
    """Yield the file and the anchor of every link to a file of the site."""
    for link in page.links:
        if not is_external(link):
            parts = urllib.parse.urlsplit(link)
            yield (path.parent / parts.path).resolve() if parts.path else path, parts.fragment


def public_names():
    """Yield every public module, and every public function and class with a docstring."""
    for path in sorted(
        [
            *ROOT.glob("moco_tf/**/*.py"),
            *ROOT.glob("export/[!_]*.py"),
            *ROOT.glob("configs/[!_]*.py"),
        ]
    ):
        parts = path.relative_to(ROOT).with_suffix("").parts
        module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if parts[0] != "moco_tf":
            module = f"moco_tf.{module}"  # Its name in the installed package.
        yield module
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            is_definition = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if is_definition and not node.name.startswith("_") and ast.get_docstring(node):
                yield f"{module}.{node.name}"


def read_page(pages, name):
    return (pages / name).read_text(encoding="utf-8")


def flag_names(define_flags):
    """Return the names of the flags that a function of the flag values defines."""
    values = flags.FlagValues()
    define_flags(values)
    groups = values.flags_by_module_dict()
    return {f"--{flag.name}" for name in groups for flag in groups[name] if name != "absl.flags"}


def sections(page):
    """Return the HTML of the sections of a page by their anchors, each without its subsections."""
    _, *parts = re.split(r'<section id="([^"]+)">', page)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_page_is_built_and_reachable_from_the_first(pages, parsed):
    reached, waiting = set(), [(pages / "index.html").resolve()]
    while waiting:
        path = waiting.pop()
        if path not in reached and path in parsed:
            reached.add(path)
            waiting += [target for target, _ in local_targets(path, parsed[path])]
    names = {path.relative_to(pages.resolve()).with_suffix("").as_posix() for path in reached}
    assert set(PAGES) <= names, set(PAGES) - names


def test_no_local_link_is_broken(parsed):
    broken = [
        (path.name, target.name, anchor)
        for path, page in parsed.items()
        for target, anchor in local_targets(path, page)
        if not target.exists() or (anchor and target in parsed and anchor not in parsed[target].ids)
    ]
    assert not broken


def test_pages_load_nothing_over_the_network(pages, parsed):
    loaded = {link for page in parsed.values() for link in page.loaded}
    assert any("pydata-sphinx-theme" in link for link in loaded)
    assert not [link for link in loaded if is_external(link)]
    for path in pages.rglob("*.css"):
        urls = re.findall(r"(?:@import|url\()\s*[\"']?([^\"')]+)", path.read_text(encoding="utf-8"))
        assert not [url for url in urls if is_external(url) and not url.startswith("data:")], path


def test_everything_public_is_documented(pages):
    with open(pages / "objects.inv", "rb") as file:
        inventory = InventoryFile.load(file, "", lambda base, path: path)
    documented = {name for role in inventory if role.startswith("py:") for name in inventory[role]}
    names = set(public_names())
    assert "moco_tf.mechanisms.moco.MoCo" in names
    assert names <= documented, names - documented
    public_interface = {
        name for name in inventory["py:function"] | inventory["py:class"] if name.count(".") == 1
    }
    assert {"moco_tf.MoCo", "moco_tf.train", "moco_tf.load_backbone"} <= public_interface


def test_every_setting_is_in_the_table(pages, parsed):
    page = parsed[(pages / "configuration.html").resolve()]
    page_text = read_page(pages, "configuration.html")
    cells = set(re.findall(r"<code[^>]*><span class=\"pre\">([^<]*)", page_text))
    for key, default in flatten(default_config()).items():
        assert key in cells
        identifier = f"setting-{key}"
        assert identifier in page.ids
        if default is None:
            row = page_text.partition(f'id="{identifier}"')[2].partition("</tr>")[0]
            assert FROM_PRESET in row
        elif not isinstance(default, list):
            assert (str(default) or "&quot;&quot;") in cells


def test_every_recipe_is_in_the_table(pages):
    page = read_page(pages, "configuration.html")
    for path in ROOT.glob("configs/[!_]*.py"):
        assert f"configs/{path.name}" in page


def test_every_flag_is_on_the_page_of_the_commands(pages):
    text = sections(read_page(pages, "commands.html").replace("--[no]", "--"))
    for command in (train.COMMAND, evaluate.COMMAND, demo.COMMAND):
        names = flag_names(lambda values, command=command: command.define_flags(values, []))
        assert "--workdir" in names
        assert names <= set(re.findall(r"--\w+", text[command.name])), command.name
    names = flag_names(lambda values: define_export_flags(values, ""))
    for name in FORMATS:
        anchor = f"moco-export-{name}".replace("_", "-")
        assert names <= set(re.findall(r"--\w+", text[anchor])), name


def test_commands_in_docstrings_are_literal_blocks(pages):
    page = read_page(pages, "api/moco_tf.export.saved_model.html")
    assert "<pre>" in page
    assert "python export/saved_model.py --workdir=runs/photos --out=" in page


def test_returned_values_are_listed_by_name(pages):
    page = read_page(pages, "api/moco_tf.mechanisms.losses.html")
    assert "<strong>loss</strong> – " in page
    assert "<strong>logits</strong> – " in page


def test_keras_classes_have_their_signature(pages):
    page = read_page(pages, "api/moco_tf.mechanisms.moco.html")
    assert "queue_size" in page
    assert "*args" not in page


def test_experiments_in_detectron2_can_be_downloaded(pages):
    assert "detectron2_train.py" in read_page(pages, "detectron2.html")
    [page] = (pages / "_downloads").rglob("detectron2_train.py")
    assert page.read_bytes() == (ROOT / "docs" / "detectron2_train.py").read_bytes()
