"""The report's page: HTML with the style, the program, the numbers and the pictures inside it."""

import base64
import dataclasses
import html
import importlib.resources
import json
import math
import re

import numpy as np

import moco_tf
from moco_tf.plots.thumbnails import columns, jpeg, sheet
from moco_tf.report import recipe
from moco_tf.report.curves import MOST_POINTS, charts
from moco_tf.report.findings import Evidence, percent

MOST_IN_LEGEND = 40  # classes


@dataclasses.dataclass(frozen=True)
class Images:
    """Images, and what is written beside them.

    Attributes:
        tiles: uint8 `[N, side, side, 3]`.
        names: list of N str.
        labels: int32 `[N]`, or None.
    """

    tiles: np.ndarray
    names: list
    labels: np.ndarray | None


@dataclasses.dataclass(frozen=True)
class Map:
    """The features in the plane: `images`, their `places`, float `[N, 2]` in 0 to 1, and of each
    its nearest others, int `[N, k]` in 0 to N - 1, with their `cosines`, float `[N, k]`."""

    images: Images
    places: np.ndarray
    near: np.ndarray
    cosines: np.ndarray


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """`queries`, R `Images`, and `found`, R * C of them, the nearest to each in order, with their
    `cosines`, float `[R, C]`."""

    queries: Images
    found: Images
    cosines: np.ndarray


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the page shows.

    Attributes:
        name: str, of the run.
        data: str, the source's name.
        channels: int, of the images.
        held_out: bool, whether training did not see those on the map.
        evidence: an `Evidence`.
        findings: list of `moco_tf.report.findings.Finding`.
        results: `{backbone: {protocol: result}}`, or None.
        class_names: list of str, or None.
        map: a `Map`, or None.
        neighbours: a `Neighbours`, or None.
    """

    name: str
    data: str
    channels: int
    held_out: bool
    evidence: Evidence
    findings: list
    results: dict | None
    class_names: list | None
    map: Map | None
    neighbours: Neighbours | None


def render(contents):
    """The page, str. Nothing in it refers to anything outside it."""
    files = importlib.resources.files("moco_tf.report")
    curves = charts(contents.evidence)
    parts = {
        "title": html.escape(contents.name),
        "lead": _lead(contents),
        "css": files.joinpath("page.css").read_text(),
        "js": files.joinpath("page.js").read_text(),
        "warnings": _warnings(contents.findings),
        "facts": recipe.facts(contents.evidence, contents.data, contents.channels),
        "settings": recipe.settings(contents.evidence.config),
        "curves": _curves_text(contents, curves),
        "accuracy": _accuracy(contents),
        "map": _map_text(contents),
        "neighbours": _neighbours(contents),
        "footer": f"moco-tf {moco_tf.__version__}, of the checkpoint of step "
        f"{contents.evidence.step:,}. This page needs no other file and no network.",
        "data": _json({"curves": curves, "map": _map_data(contents)}),
    }
    # In one pass: what is put in may look like a place to put something in.
    page = files.joinpath("page.html").read_text()
    return re.sub(r"\{\{(\w+)\}\}", lambda place: parts[place.group(1)], page)


def _lead(contents):
    e = contents.evidence
    return html.escape(
        f"{recipe.MECHANISMS[e.config.mechanism]}, {e.config.encoder}, {e.num_images:,} images of "
        f"{contents.data}, step {e.step:,} of {e.total_steps:,}"
    )


def _warnings(findings):
    cards = [
        f'<div class="finding" data-kind="{f.kind}"><h3>{html.escape(f.title)}</h3>'
        f"<p>{html.escape(f.numbers)}</p><p><strong>{html.escape(f.remedy)}</strong></p></div>"
        for f in findings
        if f.warns
    ]
    fine = [
        f'<li data-kind="{f.kind}">{html.escape(f.title)}. '
        f'<span class="note">{html.escape(f.numbers)}</span></li>'
        for f in findings
        if not f.warns
    ]
    text = "".join(cards) or '<p class="none">Nothing to warn of.</p>'
    if fine:
        opened = "" if cards else " open"
        text += f"<details{opened}><summary>Looked at, and found right ({len(fine)})</summary>"
        text += f'<ul class="looked">{"".join(fine)}</ul></details>'
    return text


def _curves_text(contents, curves):
    if not curves:
        return '<p class="note">There is no metrics.jsonl with lines up to this checkpoint.</p>'
    lines = sum("loss" in line for line in contents.evidence.metrics)
    together = math.ceil(lines / MOST_POINTS)
    each = "a line of metrics.jsonl" if together < 2 else f"the mean of {together} lines"
    return (
        f'<p class="note">Over steps; each point is {each}. Values are read under the pointer, or '
        'with the arrow keys.</p><div id="charts"></div>'
        "<noscript><p>The curves are drawn by JavaScript.</p></noscript>"
    )


def _accuracy(contents):
    e = contents.evidence
    if contents.results is None:
        why = (
            "The images have no labels, or none are held out for testing"
            if e.finite
            else "The features are not finite"
        )
        return f'<p class="note">{why}: nothing to compare by.</p>'
    some = contents.results["trained"]["knn"]
    head = "<tr><th>features</th><th>kNN top-1</th><th>linear probe top-1</th></tr>"
    rows = [
        '<tr class="most-frequent"><td>none: always the most frequent class</td>'
        + 2 * f"<td>{_share(e.most_frequent)}</td>"
        + "</tr>"
    ]
    for name in reversed(contents.results):
        cells = ""
        for protocol in ("knn", "linear_cached"):
            result = contents.results[name][protocol]
            top5 = f'<span class="small">top-5 {percent(result["top5"])}</span>'
            cells += f"<td>{_share(result['top1'])}{top5}</td>"
        style = ' class="trained"' if name == "trained" else ""
        rows.append(f"<tr{style}><td>{html.escape(name)}</td>{cells}</tr>")
    return (
        f'<div class="wide"><table>{head}{"".join(rows)}</table></div>'
        f'<p class="note">On {some["num_test"]:,} test images, with {some["num_train"]:,} labelled '
        f"ones, {len(contents.class_names):,} classes. kNN: {some['k']} neighbours by cosine; the "
        "probe: logistic regression on standardised features of the central view. Random "
        "initialisation is the same encoder, untrained; raw pixels are the central view's, at 32 "
        "by 32 at the most.</p>"
    )


def _share(value):
    return f'{percent(value)}<span class="bar"><i style="width: {100 * value:.1f}%"></i></span>'


def _map_text(contents):
    if contents.map is None:
        return '<p class="note">There are no finite features to show.</p>'
    count = len(contents.map.places)
    tiles = contents.map.images.tiles
    sprite = base64.b64encode(jpeg(sheet(tiles))).decode()
    coloured = (
        "coloured by class, which training did not see"
        if contents.map.images.labels is not None
        else "without colour, for want of labels"
    )
    return (
        f'<p class="note">{count:,} {_which(contents)}, {coloured}. Near points have features of a '
        "high cosine; distances between far ones say little. The pointer shows an image; a click, "
        f"its nearest neighbours among these.{_channels_shown(contents.channels)}</p>"
        f'<style>.tile {{ background-image: url("data:image/jpeg;base64,{sprite}"); }}</style>'
        '<div class="mapping"><div><div id="plane"><div id="tooltip" hidden></div></div>'
        '<div id="legend"></div></div>'
        '<div id="chosen"><p class="note">Click a point for its nearest neighbours.</p></div></div>'
        "<noscript><p>The map is drawn by JavaScript.</p></noscript>"
    )


def _which(contents):
    return "test images" if contents.held_out else "images of training (none are held out)"


def _channels_shown(channels):
    if channels == 2:
        return " Of 2 channels the first is shown, in grey."
    if channels > 3:
        return f" Of {channels} channels the first 3 are shown, as red, green and blue."
    return ""


def _map_data(contents):
    shown = contents.map
    if shown is None:
        return None
    labels = shown.images.labels
    return {
        "places": shown.places.round(4).tolist(),
        "names": shown.images.names,
        "labels": None if labels is None else labels.tolist(),
        "classes": None if labels is None else list(contents.class_names),
        "near": shown.near.tolist(),
        "cosines": shown.cosines.astype(float).round(3).tolist(),
        "columns": columns(len(shown.places)),
        "side": shown.images.tiles.shape[1],
        "most_in_legend": MOST_IN_LEGEND,
    }


def _neighbours(contents):
    shown = contents.neighbours
    if shown is None:
        return '<p class="note">There are no finite features to show.</p>'
    across = shown.cosines.shape[1]
    rows = []
    for row in range(len(shown.queries.tiles)):
        figures = [_figure(contents, shown.queries, row)]
        like = None if shown.queries.labels is None else shown.queries.labels[row]
        for i in range(row * across, (row + 1) * across):
            cosine = f"{shown.cosines[row, i % across]:.2f}"
            figures.append(_figure(contents, shown.found, i, cosine, like))
        rows.append(f'<div class="row">{"".join(figures)}</div>')
    red = "" if shown.queries.labels is None else " A red frame and \u2260: of another class."
    return (
        f'<p class="note">On the left {_which(contents)}, spread over all of them; beside each the '
        f"nearest images of training, with the cosine of their features.{red}</p>"
        f'<div class="wide">{"".join(rows)}</div>'
    )


def _figure(contents, images, index, cosine=None, like=None):
    tile, name = images.tiles[index], html.escape(images.names[index])
    picture = base64.b64encode(jpeg(tile)).decode()
    style, words = "", [] if cosine is None else [cosine]
    if images.labels is not None:
        differs = like is not None and images.labels[index] != like
        style = ' class="different"' if differs else ""
        of_class = html.escape(str(contents.class_names[images.labels[index]]))
        words.append(f"&ne; {of_class}" if differs else of_class)
    fine = ' class="fine"' if tile.shape[0] <= 32 else ""
    source = f"data:image/jpeg;base64,{picture}"
    return (
        f'<figure{style}><img{fine} src="{source}" alt="{name}" title="{name}">'
        f"<figcaption>{'<br>'.join(words)}</figcaption></figure>"
    )


def _json(value):
    # As the text of a script element, where an end tag in a name must not end it.
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
