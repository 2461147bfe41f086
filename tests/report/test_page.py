"""The report's page as a person sees it, in a real browser."""

import math
import re

import numpy as np
import pytest

from moco_tf.report import page
from tests.report import browser
from tests.report.made import CLASSES, contents, evidence, metrics

SECTIONS = ("warnings", "training", "curves", "accuracy", "map", "neighbours")

LOOK = """
const $$ = (selector) => [...document.querySelectorAll(selector)];
const centre = (element) => {
  const box = element.getBoundingClientRect();
  return { clientX: box.left + box.width / 2, clientY: box.top + box.height / 2, bubbles: true };
};
const picture = document.querySelector("#plane svg");
const points = $$("#plane circle");
found.sections = $$("main section h2").map((h) => h.parentElement.id);
found.warnings = $$(".finding").map((card) => card.dataset.kind);
found.looked = $$(".looked li").map((item) => item.dataset.kind);
found.points = points.length;
found.hues = new Set(points.map((point) => getComputedStyle(point).fill)).size;
found.legend = $$("#legend button").map((button) => button.textContent);
found.charts = $$(".chart h3").map((h) => h.textContent);
found.readouts = $$(".readout").map((line) => line.textContent);
found.rows = $$(".row").map((row) => row.querySelectorAll("img").length);
found.loaded = $$("img").every((image) => image.complete && image.naturalWidth > 0);
found.different = $$(".row figure.different").length;
found.table = $$("#accuracy tr").map((row) => [...row.cells].map((cell) => cell.innerText));
found.wide = document.documentElement.scrollWidth > document.documentElement.clientWidth;
found.title = document.title;
found.heading = document.querySelector("h1").textContent;
"""

TOUCH = (
    LOOK
    + """
// The colour in the middle of what a tile shows of the sheet.
const sheet = new Image();
await new Promise((loaded) => {
  sheet.onload = loaded;
  picture.dispatchEvent(new PointerEvent("pointermove", centre(points[0])));
  sheet.src = getComputedStyle(document.querySelector(".tile")).backgroundImage.slice(5, -2);
});
const shown = (tile) => {
  const style = getComputedStyle(tile);
  const [x, y] = style.backgroundPosition.split(" ").map(parseFloat);
  const scale = sheet.naturalWidth / parseFloat(style.backgroundSize);
  const canvas = document.createElement("canvas").getContext("2d");
  const half = tile.getBoundingClientRect().width / 2;
  canvas.drawImage(sheet, (half - x) * scale, (half - y) * scale, 1, 1, 0, 0, 1, 1);
  return [...canvas.getImageData(0, 0, 1, 1).data.slice(0, 3)];
};
picture.scrollIntoView();
picture.dispatchEvent(new PointerEvent("pointermove", centre(points[17])));
const tooltip = document.getElementById("tooltip");
found.tooltip = { text: tooltip.innerText, size: tooltip.getBoundingClientRect().width };
found.tooltip.colour = shown(tooltip.querySelector(".tile"));
picture.dispatchEvent(new MouseEvent("click", centre(points[17])));
found.near = $$("#chosen .around button").map((button) => button.innerText);
found.near_colours = [];
for (const tile of $$("#chosen .around .tile")) found.near_colours.push(shown(tile));
found.lines = $$("#plane line").length;
$$("#chosen .around button")[2].click();
found.next = document.querySelector("#chosen .words").innerText;
picture.dispatchEvent(new PointerEvent("pointerleave"));
found.hidden = tooltip.getBoundingClientRect().width === 0;
document.querySelector("#legend button").click();
found.faded = $$("#plane circle.faded").length;

const chart = document.querySelector(".chart svg");
const box = chart.getBoundingClientRect();
const at = (share) => ({ clientX: box.left + box.width * share, clientY: box.top + 50 });
chart.dispatchEvent(new PointerEvent("pointermove", at(0)));
found.first = document.querySelector(".readout").textContent;
chart.dispatchEvent(new KeyboardEvent("keydown", { key: "ArrowRight" }));
found.second = document.querySelector(".readout").textContent;
"""
)


def test_the_page_refers_to_nothing_outside_it():
    html = page.render(contents())
    assert html.count("data:image/jpeg;base64,") == 37  # the sheet, 4 queries, 32 neighbours
    for reference in re.findall(
        r"""(?:src|href)\s*=\s*["']?([^"'\s>]*)|url\(["']?([^"')]*)""", html
    ):
        assert "".join(reference).startswith("data:")
    assert "default-src 'none'" in html


def test_names_cannot_become_part_of_the_page():
    html = page.render(contents())
    assert html.count("<script") == html.count("</script") == 2
    assert "<b>left" not in html and "<made>" not in html and "<0>" not in html


@browser.needed
def test_the_browser_tells_of_errors(tmp_path):
    html = page.render(contents()).replace("drawMap();", "drawMap(); nothing.at = all;")
    html = html.replace("</header>", '</header><img src="https://example.com/image.png">')
    _, console = browser.look(html, "found.done = true;", tmp_path)
    assert any("nothing is not defined" in line for line in console)
    assert any("Content Security Policy" in line for line in console)


@browser.needed
def test_a_healthy_run_as_it_is_seen(tmp_path):
    of = contents()
    found, console = browser.look(page.render(of), TOUCH, tmp_path)
    assert not console
    assert tuple(found["sections"]) == SECTIONS
    assert not found["warnings"] and len(found["looked"]) == 8
    assert found["points"] == 45 and found["hues"] == 3
    assert found["legend"] == [f"{name} 15" for name in CLASSES]
    assert found["rows"] == [9] * 4 and found["loaded"] and not found["wide"]
    labels = np.reshape(of.neighbours.found.labels, [4, 8])
    expected = labels != of.neighbours.queries.labels[:, np.newaxis]
    assert found["different"] == expected.sum()
    assert found["heading"] == "runs/<made>" and found["title"] == "runs/<made>: report"

    assert [row[0] for row in found["table"][1:]] == [
        "none: always the most frequent class",
        "raw pixels",
        "random initialisation",
        "trained",
    ]
    assert found["table"][4][1].startswith("60.0 %") and found["table"][4][2].startswith("70.0 %")

    tiles = of.map.images.tiles[:, 0, 0].astype(int)
    assert CLASSES[2] in found["tooltip"]["text"] and '"image" <17>' in found["tooltip"]["text"]
    assert found["tooltip"]["size"] > 100
    assert np.abs(tiles[17] - found["tooltip"]["colour"]).max() < 6  # JPEG
    near = of.map.near[17]
    assert np.abs(tiles[near] - found["near_colours"]).max() < 6
    assert [float(text.split()[0]) for text in found["near"]] == pytest.approx(
        of.map.cosines[17], abs=0.006
    )
    assert found["lines"] == 8 and f"<{near[2]}>" in found["next"]
    assert found["hidden"] and found["faded"] == 30

    assert [title.split(",")[0] for title in found["charts"]] == [
        "InfoNCE loss",
        "Contrastive accuracy",
        "kNN top-1 on held-out images",
        "Learning rate",
    ]
    lines = [line for line in of.evidence.metrics if "loss" in line]
    for readout, step in (("readouts", -1), ("first", 0), ("second", 1)):
        text = found[readout][0] if readout == "readouts" else found[readout]
        number, loss = re.fullmatch(r"step ([\d,]+) · loss ([\d.]+)", text).groups()
        assert int(number.replace(",", "")) == lines[step]["step"]
        assert float(loss) == pytest.approx(lines[step]["loss"], rel=1e-3)


@browser.needed
def test_without_labels_there_is_no_comparison_and_no_colour(tmp_path):
    of = evidence(accuracies=None, most_frequent=None, metrics=metrics(math.nan, 0.4))
    found, console = browser.look(page.render(contents(of, labelled=False)), LOOK, tmp_path)
    assert not console
    assert tuple(found["sections"]) == SECTIONS
    assert found["warnings"] == ["not_finite"]
    assert found["points"] == 45 and found["hues"] == 1 and not found["legend"]
    assert not found["table"] and not found["different"]
    assert "not finite" in found["readouts"][0]


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "queue of 4,096 keys, m = 0.999"),
        ({"config_mechanism": "memory_bank"}, "memory bank of 25,600, 4,096 of them drawn"),
        (
            {"config_mechanism": "end_to_end", "config_queue_size": 0},
            "the batch, 256 keys",
        ),
    ],
)
def test_settings_stand_beside_the_papers_where_they_differ(settings, words):
    html = page.render(contents(evidence(config_seed=5, config_temperature=0.2, **settings)))
    assert words in html
    [differing] = re.findall(r'<div id="differing">(.*?)</div></div>', html)
    rows = re.findall(r"<code>(.*?)</code></td><td>(.*?)</td><td>(.*?)</td>", differing)
    assert ("temperature", "0.2", "0.07") in rows
    keys = {"queue_size", "temperature"} | {key.removeprefix("config_") for key in settings}
    assert {key for key, *_ in rows} == keys  # and no seed, of which the paper says nothing


def test_many_lines_are_drawn_as_their_means():
    of = evidence(metrics=metrics(5.0, 0.4, steps=7000, every=2))
    html = page.render(contents(of))
    assert "the mean of 7 lines" in html
    [chart] = [one for one in page.charts(of) if one["title"] == "InfoNCE loss"]
    [series] = chart["series"]
    losses = [line["loss"] for line in of.metrics if "loss" in line]
    assert series["steps"] == list(range(14, 7001, 14))
    np.testing.assert_allclose(
        series["values"], np.reshape(losses, [-1, 7]).mean(axis=1), rtol=1e-5
    )
