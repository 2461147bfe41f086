"""The page of a report as a browser shows it."""

import dataclasses
import json
import math
import re

import numpy as np
import pytest

from moco_tf.report import page
from moco_tf.report.curves import charts
from moco_tf.report.findings import PIXELS, RANDOM, TRAINED
from tests.report import browser
from tests.report.examples import CLASSES, RUN_NAME, contents, evidence, metrics

SECTIONS = ["warnings", "training", "curves", "evaluation", "map", "neighbors"]

READ = """
const $$ = (selector) => [...document.querySelectorAll(selector)];
const center = (element) => {
  const box = element.getBoundingClientRect();
  return { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
};
const picture = document.querySelector("#plane svg");
const points = $$("#plane circle");
result.sections = $$("main section h2").map((h) => h.parentElement.id);
result.warnings = $$(".finding").map((card) => card.dataset.finding);
result.passed = $$(".passed li").map((item) => item.dataset.finding);
result.points = points.length;
result.colors = new Set(points.map((point) => getComputedStyle(point).fill)).size;
result.legend = $$("#legend button").map((button) => button.textContent);
result.charts = $$(".chart h3").map((h) => h.textContent);
result.readouts = $$(".readout").map((line) => line.textContent);
result.rows = $$(".row").map((row) => row.querySelectorAll("img").length);
result.loaded = $$("img").every((image) => image.complete && image.naturalWidth > 0);
result.different = $$(".row figure.different").length;
result.table = $$("#evaluation tr").map((row) => [...row.cells].map((cell) => cell.innerText));
result.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
result.title = document.title;
result.heading = document.querySelector("h1").textContent;
"""

INTERACT = (
    READ
    + """
// The color in the center of the part of the sheet that a tile shows.
const sheet = new Image();
await new Promise((loaded) => {
  sheet.onload = loaded;
  picture.dispatchEvent(new PointerEvent("pointermove", center(points[0])));
  sheet.src = getComputedStyle(document.querySelector(".tile")).backgroundImage.slice(5, -2);
});
const centerColor = (tile) => {
  const style = getComputedStyle(tile);
  const [x, y] = style.backgroundPosition.split(" ").map(parseFloat);
  const scale = sheet.naturalWidth / parseFloat(style.backgroundSize);
  const canvas = document.createElement("canvas").getContext("2d");
  const half = tile.getBoundingClientRect().width / 2;
  canvas.drawImage(sheet, (half - x) * scale, (half - y) * scale, 1, 1, 0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
};
picture.scrollIntoView();
picture.dispatchEvent(new PointerEvent("pointermove", center(points[17])));
const tooltip = document.getElementById("tooltip");
result.tooltip = { text: tooltip.innerText, size: tooltip.getBoundingClientRect().width };
result.tooltip.color = centerColor(tooltip.querySelector(".tile"));
picture.dispatchEvent(new MouseEvent("click", center(points[17])));
result.neighbors = $$("#chosen .tiles button").map((button) => button.innerText);
result.neighbor_colors = [];
for (const tile of $$("#chosen .tiles .tile")) result.neighbor_colors.push(centerColor(tile));
result.lines = $$("#plane line").length;
$$("#chosen .tiles button")[2].click();
result.next = document.querySelector("#chosen .description").innerText;
picture.dispatchEvent(new PointerEvent("pointerleave"));
result.hidden = tooltip.getBoundingClientRect().width === 0;
document.querySelector("#legend button").click();
result.faded = $$("#plane circle.faded").length;

const chart = document.querySelector(".chart svg");
const box = chart.getBoundingClientRect();
const at = (share) => ({ clientX: box.left + box.width * share, clientY: box.top + 50 });
chart.dispatchEvent(new PointerEvent("pointermove", at(0)));
result.first = document.querySelector(".readout").textContent;
chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
result.second = document.querySelector(".readout").textContent;
"""
)


def test_page_refers_to_nothing_outside_itself():
    html = page.render(contents())
    assert html.count("data:image/jpeg;base64,") == 37  # The sheet, 4 queries, 32 neighbors.
    for reference in re.findall(
        r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)|url\(["']?([^"')]*)""", html
    ):
        assert "".join(reference).startswith("data:")
    assert "default-src 'none'" in html


def test_hostile_names_are_escaped():
    html = page.render(contents())
    assert html.count("<script") == html.count("</script") == 2
    for markup in ("<b>left", "<made>", "<0>", '"image"'):
        assert markup not in html
    assert "{{ 7 * 7 }}" in html
    assert "49" not in re.findall(r"<figcaption>(.*?)</figcaption>", html)


@browser.needs_browser
def test_path_that_is_not_utf8_is_shown_with_escapes():
    run_evidence = evidence()
    run_evidence.config.data.source = "folder:caf\udce9\n\x1b[31m"
    html = page.render(contents(run_evidence))
    html.encode()
    assert r"folder:caf\xe9\n\x1b[31m" in html
    assert "\x1b" not in html


def test_browser_reports_errors_and_policy_violations(tmp_path):
    html = page.render(contents()).replace("plotMap();", "plotMap(); nothing.at = all;")
    html = html.replace("</header>", '</header><img src="https://example.com/image.png">')
    _, console = browser.run_script(html, "result.done = true;", tmp_path)
    assert any("nothing is not defined" in line for line in console)
    assert any("Content Security Policy" in line for line in console)


@pytest.fixture(scope="module")
def healthy():
    return contents()


@pytest.fixture(scope="module")
def healthy_page(healthy, tmp_path_factory):
    """What the browser reads from the page of a healthy run, and from its reactions to events."""
    folder = tmp_path_factory.mktemp("healthy")
    result, console = browser.run_script(page.render(healthy), INTERACT, folder)
    assert not console
    return result


@browser.needs_browser
def test_page_of_a_healthy_run_has_all_sections_and_no_warnings(healthy_page):
    assert healthy_page["sections"] == SECTIONS
    assert healthy_page["heading"] == RUN_NAME
    assert healthy_page["title"] == f"{RUN_NAME}: report"
    assert not healthy_page["warnings"]
    assert len(healthy_page["passed"]) == 9
    assert healthy_page["loaded"]
    assert not healthy_page["wide"]


@browser.needs_browser
def test_table_compares_the_backbones(healthy_page):
    _, most_frequent, *rows = healthy_page["table"]
    assert "most frequent class" in most_frequent[0]
    assert [row[0] for row in rows] == [PIXELS, RANDOM, TRAINED]
    assert rows[-1][1].startswith("60.0 %")
    assert rows[-1][2].startswith("70.0 %")


@browser.needs_browser
def test_rows_of_neighbors_mark_other_classes(healthy, healthy_page):
    assert healthy_page["rows"] == [9] * 4
    labels = np.reshape(healthy.neighbors.images.labels, [4, 8])
    is_different = labels != healthy.neighbors.queries.labels[:, np.newaxis]
    assert healthy_page["different"] == is_different.sum()


@browser.needs_browser
def test_map_is_colored_by_class_and_the_legend_filters_it(healthy_page):
    assert healthy_page["points"] == 45
    assert healthy_page["colors"] == 3
    assert healthy_page["legend"] == [f"{name} 15" for name in CLASSES]
    assert healthy_page["faded"] == 30


@browser.needs_browser
def test_tooltip_shows_the_image_of_a_point(healthy, healthy_page):
    tooltip = healthy_page["tooltip"]
    assert CLASSES[2] in tooltip["text"]
    assert '"image" <17>' in tooltip["text"]
    assert tooltip["size"] > 100
    color = healthy.feature_map.images.tiles[17, 0, 0].astype(int)
    assert np.abs(color - tooltip["color"]).max() < 6  # JPEG
    assert healthy_page["hidden"]


@browser.needs_browser
def test_click_on_a_point_shows_its_neighbors(healthy, healthy_page):
    neighbors = healthy.feature_map.neighbors[17]
    colors = healthy.feature_map.images.tiles[neighbors, 0, 0].astype(int)
    assert np.abs(colors - healthy_page["neighbor_colors"]).max() < 6  # JPEG
    assert [float(text.split()[0]) for text in healthy_page["neighbors"]] == pytest.approx(
        healthy.feature_map.cosines[17], abs=0.0006
    )
    assert healthy_page["lines"] == 8
    assert f"<{neighbors[2]}>" in healthy_page["next"]


@browser.needs_browser
def test_charts_show_the_values_at_the_pointer_and_by_arrow_keys(healthy, healthy_page):
    assert [title.split(",")[0] for title in healthy_page["charts"]] == [
        "InfoNCE loss",
        "Contrastive accuracy",
        "kNN top-1 on held-out images",
        "Learning rate",
    ]
    lines = [line for line in healthy.evidence.metrics if "loss" in line]
    for text, line in (
        (healthy_page["readouts"][0], lines[-1]),
        (healthy_page["first"], lines[0]),
        (healthy_page["second"], lines[1]),
    ):
        step, loss = re.fullmatch(r"step ([\d,]+) · loss ([\d.]+)", text).groups()
        assert int(step.replace(",", "")) == line["step"]
        assert float(loss) == pytest.approx(line["loss"], rel=1e-3)


@browser.needs_browser
def test_page_without_labels_has_no_comparison_and_no_class_colors(tmp_path):
    diverged = evidence(accuracies=None, most_frequent=None, metrics=metrics(math.nan, 0.4))
    html = page.render(contents(diverged, labeled=False))
    result, console = browser.run_script(html, READ, tmp_path)
    assert not console
    assert result["sections"] == SECTIONS
    assert result["warnings"] == ["not_finite"]
    assert result["points"] == 45
    assert result["colors"] == 1
    assert not result["legend"]
    assert not result["table"]
    assert not result["different"]
    assert "not finite" in result["readouts"][0]


def test_settings_that_differ_are_shown_beside_those_of_the_paper():
    html = page.render(contents(evidence(config_seed=5, config_temperature=0.2)))
    [differing] = re.findall(r'<div id="differing">(.*?)</div>', html, re.DOTALL)
    rows = re.findall(r"<code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td>", differing)
    # The paper does not state a seed.
    assert rows == [("queue_size", "4096", "65536"), ("temperature", "0.2", "0.07")]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"class_names": None}, "the images have no labels. Look at the nearest neighbors"),
        ({"held_out": False}, "no test images are held out."),
        ({}, "all training images have the same label."),
        ({"evidence": evidence(finite=False)}, "the features are not finite."),
    ],
)
def test_page_without_a_comparison_names_the_reason(changes, reason):
    html = page.render(dataclasses.replace(contents(), results=None, **changes))
    assert f"No comparison: {reason}" in html


@pytest.mark.parametrize("is_monitored", [True, False])
def test_baselines_are_in_the_chart_of_the_monitor_if_they_are_of_its_images(is_monitored):
    html = page.render(dataclasses.replace(contents(evidence()), is_monitored=is_monitored))
    script_data = json.loads(re.search(r'id="data">(.*?)</script>', html, re.DOTALL)[1])
    [lines] = [chart["lines"] for chart in script_data["curves"] if "kNN" in chart["title"]]
    assert bool(lines) == is_monitored


def test_curves_with_many_lines_are_averaged():
    run_evidence = evidence(metrics=metrics(5.0, 0.4, steps=7000, every=2))
    assert "mean of 7 lines" in page.render(contents(run_evidence))
    [chart] = [chart for chart in charts(run_evidence) if chart["title"] == "InfoNCE loss"]
    [series] = chart["series"]
    losses = [line["loss"] for line in run_evidence.metrics if "loss" in line]
    assert series["steps"] == list(range(14, 7001, 14))
    np.testing.assert_allclose(
        series["values"], np.reshape(losses, [-1, 7]).mean(axis=1), rtol=1e-5
    )


def test_page_without_metrics_says_so():
    html = page.render(contents(evidence(metrics=[])))
    assert "metrics.jsonl has no lines" in html
    assert 'id="charts"' not in html
