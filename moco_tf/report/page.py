"""The page of a report, made from the template page.html and plain data.

Jinja escapes everything that depends on the run. Only the page's own style and script are inserted
without escaping.
"""

import base64
import importlib.resources
import json
from typing import Any

import jinja2
import numpy as np

import moco_tf
from moco_tf import run_summary
from moco_tf.config import resolve
from moco_tf.names import printable
from moco_tf.plots.thumbnails import columns, jpeg, sheet
from moco_tf.plots.visible import channels_note
from moco_tf.report.contents import Contents, Images
from moco_tf.report.curves import charts, lines_per_point
from moco_tf.report.feature_map import MIN_IMAGES_FOR_TSNE
from moco_tf.report.findings import PROTOCOLS, TRAINED, percent

MAX_LEGEND_CLASSES = 40
MAX_PIXELATED_SIDE = 32  # Tiles of up to this side are enlarged without smoothing.


def render(contents: Contents) -> str:
    """Return the page, which needs no other files and no network.

    Args:
        contents: Everything that the page shows.

    Returns:
        The HTML.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("moco_tf.report", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=percent, thousands=lambda number: f"{number:,}")
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False}
    files = importlib.resources.files("moco_tf.report")
    evidence = contents.evidence
    curves = charts(evidence, with_baselines=contents.is_monitored)
    return environment.get_template("page.html").render(
        css=files.joinpath("page.css").read_text(encoding="utf-8"),
        js=files.joinpath("page.js").read_text(encoding="utf-8"),
        version=moco_tf.__version__,
        name=contents.name,
        trained_on=contents.trained_on,
        data=contents.data,
        held_out=contents.held_out,
        has_labels=contents.class_names is not None,
        channels_note=channels_note(contents.channels),
        mechanism=run_summary.MECHANISMS[evidence.config.mechanism],
        evidence=evidence,
        warnings=[finding for finding in contents.findings if finding.is_warning],
        passed=[finding for finding in contents.findings if not finding.is_warning],
        facts=run_summary.summarize(
            evidence.config,
            evidence.num_images,
            contents.trained_on,
            contents.channels,
            evidence.metrics,
        ),
        differing_settings=_settings(contents, only_differing=True),
        all_settings=_settings(contents),
        curves=curves,
        lines_per_point=lines_per_point(evidence),
        evaluation=_evaluation(contents),
        min_images_for_tsne=MIN_IMAGES_FOR_TSNE,
        sprite=_sprite(contents),
        neighbors=_neighbors(contents),
        script_data={"curves": curves, "map": _map_data(contents)},
    )


def _settings(contents: Contents, only_differing: bool = False) -> list[dict[str, str]]:
    """Return the rows of a table of settings beside the paper's, where these differ."""
    values = resolve(contents.evidence.config)
    differing = run_summary.differing_settings(contents.evidence.config)
    return [
        {
            "key": key,
            "value": _format_setting(value),
            "paper_value": _format_setting(differing[key][1]) if key in differing else "",
        }
        for key, value in values.items()
        if key in differing or not only_differing
    ]


def _format_setting(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value)


def _evaluation(contents: Contents) -> dict[str, Any] | None:
    """Return the rows of the table of accuracies, and the numbers for the note below it."""
    if contents.results is None or contents.class_names is None:
        return None
    knn = contents.results[TRAINED]["knn"]
    return {
        "rows": [
            {
                "name": name,
                "is_trained": name == TRAINED,
                "results": [contents.results[name][protocol] for protocol in PROTOCOLS],
            }
            for name in reversed(contents.results)
        ],
        "k": knn["k"],
        "num_train": knn["num_train"],
        "num_test": knn["num_test"],
        "num_classes": len(contents.class_names),
    }


def _sprite(contents: Contents) -> str | None:
    """Return the tiles of the map as one JPEG image in base64."""
    if contents.feature_map is None:
        return None
    return _base64_jpeg(sheet(contents.feature_map.images.tiles))


def _map_data(contents: Contents) -> dict[str, Any] | None:
    """Return the data from which page.js plots the map."""
    feature_map = contents.feature_map
    if feature_map is None:
        return None
    labels = feature_map.images.labels
    return {
        "positions": feature_map.positions.round(4).tolist(),
        "names": feature_map.images.names,
        "labels": None if labels is None else labels.tolist(),
        "classes": None if labels is None else contents.class_names,
        "neighbors": feature_map.neighbors.tolist(),
        "cosines": feature_map.cosines.astype(float).round(3).tolist(),
        "columns": columns(len(feature_map.positions)),
        "side": feature_map.images.tiles.shape[1],
        "max_legend_classes": MAX_LEGEND_CLASSES,
    }


def _neighbors(contents: Contents) -> list[list[dict[str, Any]]] | None:
    """Return rows of figures: a test image and its nearest training images."""
    neighbors = contents.neighbors
    if neighbors is None:
        return None
    rows = []
    for row, cosines in enumerate(neighbors.cosines):
        query_label = None if neighbors.queries.labels is None else neighbors.queries.labels[row]
        figures = [_figure(contents, neighbors.queries, row)]
        for column, cosine in enumerate(cosines):
            index = row * len(cosines) + column
            figure = _figure(contents, neighbors.images, index)
            figure["cosine"] = f"{cosine:.3f}"
            if neighbors.images.labels is not None:
                figure["is_different"] = bool(neighbors.images.labels[index] != query_label)
            figures.append(figure)
        rows.append(figures)
    return rows


def _figure(contents: Contents, images: Images, index: int) -> dict[str, Any]:
    class_name = None
    if images.labels is not None and contents.class_names is not None:
        class_name = contents.class_names[images.labels[index]]
    return {
        "jpeg": _base64_jpeg(images.tiles[index]),
        "name": images.names[index],
        "class_name": class_name,
        "cosine": None,
        "is_different": False,
        "is_pixelated": images.tiles.shape[1] <= MAX_PIXELATED_SIDE,
    }


def _base64_jpeg(image: np.ndarray) -> str:
    return base64.b64encode(jpeg(image)).decode()
