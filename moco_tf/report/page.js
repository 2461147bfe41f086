"use strict";

const DATA = JSON.parse(document.getElementById("data").textContent);
const SVG = "http://www.w3.org/2000/svg";

function svg(name, attributes, parent) {
  const element = document.createElementNS(SVG, name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  parent.append(element);
  return element;
}

function html(name, attributes, parent, text) {
  const element = document.createElement(name);
  for (const key in attributes) element.setAttribute(key, attributes[key]);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

// --- curves ---

function formatValue(value, chart) {
  if (chart.percent) return (100 * value).toFixed(1) + " %";
  return value === 0 ? "0" : Number(value.toPrecision(4)).toString();
}

// About `count` round numbers between `low` and `high`.
function ticks(low, high, count) {
  const rough = (high - low) / count || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough);
  const values = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i++) values.push(i * step || 0);
  return values;
}

function plotChart(chart, parent) {
  const figure = html("figure", { class: "chart" }, parent);
  html("h3", {}, figure, chart.title);
  const readout = html("div", { class: "readout", "aria-live": "polite" }, figure);
  const picture = svg("svg", { role: "img", "aria-label": chart.title, tabindex: 0 }, figure);
  const steps = [...new Set(chart.series.flatMap((s) => s.steps))].sort((a, b) => a - b);
  const values = chart.series.flatMap((s) => s.values).filter((v) => v !== null);
  values.push(...chart.lines.map((line) => line.value));
  let low = Math.min(...values);
  let high = Math.max(...values);
  if (chart.from_zero) low = Math.min(0, low);
  if (high === low) high = low + (Math.abs(low) || 1);
  const last = Math.max(steps[steps.length - 1], 1);
  const height = 260, left = 52, right = 24, top = 10, bottom = 30;
  let width, selected = null;  // The selected step.

  const x = (step) => left + ((width - left - right) * step) / last;
  const y = (value) => height - bottom - ((height - top - bottom) * (value - low)) / (high - low);

  function render() {
    width = Math.max(figure.clientWidth, 240);
    picture.setAttribute("viewBox", `0 0 ${width} ${height}`);
    picture.replaceChildren();
    for (const tick of ticks(low, high, 5)) {
      svg("line", { class: "grid", x1: left, x2: width - right, y1: y(tick), y2: y(tick) }, picture);
      const label = svg("text", { x: left - 6, y: y(tick) + 4, "text-anchor": "end" }, picture);
      label.textContent = chart.percent ? `${Number((100 * tick).toFixed(6))} %` : Number(tick.toPrecision(6));
    }
    for (const tick of ticks(0, last, width / 110)) {
      const label = svg("text", { x: x(tick), y: height - 10, "text-anchor": "middle" }, picture);
      label.textContent = tick.toLocaleString("en");
    }
    for (const line of chart.lines) {
      svg("line", { class: "reference", x1: left, x2: width - right, y1: y(line.value), y2: y(line.value) }, picture);
      const above = y(line.value) > top + 16;
      const label = svg("text", { x: width - right - 2, y: y(line.value) + (above ? -4 : 13), "text-anchor": "end" }, picture);
      label.textContent = `${line.name} ${formatValue(line.value, chart)}`;
    }
    chart.series.forEach((series, i) => {
      let path = "", pen = "M";
      series.steps.forEach((step, j) => {
        if (series.values[j] === null) return void (pen = "M");
        path += `${pen}${x(step).toFixed(1)} ${y(series.values[j]).toFixed(1)}`;
        pen = "L";
      });
      svg("path", { class: `curve series-${i}`, d: path }, picture);
      if (series.steps.length > 40) return;
      series.steps.forEach((step, j) => {
        if (series.values[j] !== null) svg("circle", { class: `dot-${i}`, cx: x(step), cy: y(series.values[j]), r: 3 }, picture);
      });
    });
    if (selected !== null) plotMarks();
  }

  function plotMarks() {
    removeMarks();
    svg("line", { class: "pointer mark", x1: x(selected), x2: x(selected), y1: top, y2: height - bottom }, picture);
    chart.series.forEach((series, i) => {
      const value = series.values[series.steps.indexOf(selected)];
      if (typeof value === "number") svg("circle", { class: `dot-${i} mark`, cx: x(selected), cy: y(value), r: 4 }, picture);
    });
  }

  function removeMarks() {
    picture.querySelectorAll(".mark").forEach((mark) => mark.remove());
  }

  function showValues(step) {
    readout.replaceChildren(`step ${step.toLocaleString("en")}`);
    chart.series.forEach((series, i) => {
      const index = series.steps.indexOf(step);
      if (index < 0) return;
      readout.append(" \u00b7 ");
      html("span", { class: `key-${i}` }, readout, `${series.name} `);
      html("b", {}, readout, series.values[index] === null ? "not finite" : formatValue(series.values[index], chart));
    });
  }

  function select(step) {
    selected = step;
    plotMarks();
    showValues(step);
  }

  function deselect() {
    selected = null;
    removeMarks();
    showValues(steps[steps.length - 1]);
  }

  picture.addEventListener("pointermove", (event) => {
    const box = picture.getBoundingClientRect();
    const pointer = ((((event.clientX - box.left) / box.width) * width - left) / (width - left - right)) * last;
    select(steps.reduce((best, step) => (Math.abs(step - pointer) < Math.abs(best - pointer) ? step : best)));
  });
  picture.addEventListener("pointerleave", deselect);
  picture.addEventListener("blur", deselect);
  picture.addEventListener("keydown", (event) => {
    const offset = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!offset) return;
    event.preventDefault();
    const index = selected === null ? steps.length : steps.indexOf(selected);
    select(steps[Math.min(Math.max(index + offset, 0), steps.length - 1)]);
  });
  render();
  deselect();
  new ResizeObserver(render).observe(figure);
}

// --- map ---

// The color of a class: hues are spread over the color wheel, and similar hues differ in lightness.
function classColor(label) {
  const count = DATA.map.classes.length;
  return `--hue: ${Math.round((360 * label) / count)}; --strength: ${[75, 60, 85][label % 3]}%; --lift: ${[0, -12, 12][label % 3]}%`;
}

function tile(index, size, parent) {
  const { columns, side } = DATA.map;
  const scale = size / side;
  const style = [
    `--size: ${size}px`,
    `background-position: ${-(index % columns) * size}px ${-Math.floor(index / columns) * size}px`,
    `background-size: ${columns * side * scale}px auto`,
  ];
  return html("span", { class: scale >= 2 ? "tile pixelated" : "tile", style: style.join("; "), "data-image": index }, parent);
}

function className(index) {
  return DATA.map.labels ? DATA.map.classes[DATA.map.labels[index]] : null;
}

function plotMap() {
  const { positions, labels, classes, names, neighbors, cosines, side } = DATA.map;
  const plane = document.getElementById("plane");
  const tooltip = document.getElementById("tooltip");
  const panel = document.getElementById("chosen");
  const margin = 25, size = 1000, largeTile = side * Math.max(1, Math.round(128 / side));
  const picture = svg("svg", { viewBox: `0 0 ${size} ${size}`, role: "img", "aria-label": "Map of the features" }, plane);
  const lines = svg("g", {}, picture);
  const centers = positions.map(([x, y]) => [margin + (size - 2 * margin) * x, margin + (size - 2 * margin) * (1 - y)]);
  const circles = centers.map(([cx, cy], i) => {
    const circle = svg("circle", { cx, cy, r: centers.length > 500 ? 6 : 9 }, picture);
    if (labels) circle.setAttribute("style", classColor(labels[i]));
    return circle;
  });

  // The index of the image whose point is nearest to the pointer, or null if none is near.
  function imageAt(event) {
    const box = picture.getBoundingClientRect();
    const x = ((event.clientX - box.left) / box.width) * size;
    const y = ((event.clientY - box.top) / box.height) * size;
    let nearest = null, leastDistance = (20 * size) / box.width;
    centers.forEach(([px, py], i) => {
      const distance = Math.hypot(px - x, py - y);
      if (distance < leastDistance) [nearest, leastDistance] = [i, distance];
    });
    return nearest;
  }

  function describe(index, parent) {
    if (labels) html("strong", {}, parent, className(index));
    html("div", { class: "small-name" }, parent, names[index]);
  }

  function showTooltip(event) {
    const index = imageAt(event);
    tooltip.hidden = index === null;
    if (index === null) return;
    tooltip.replaceChildren();
    tile(index, largeTile, tooltip);
    describe(index, tooltip);
    const box = plane.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    // Right of or below the pointer if there is space, and on the other side otherwise.
    const offset = (pointer, space, length) =>
      pointer + 16 + length > space ? Math.max(0, pointer - 16 - length) : pointer + 16;
    tooltip.style.left = `${offset(x, box.width, tooltip.offsetWidth)}px`;
    tooltip.style.top = `${offset(y, box.height, tooltip.offsetHeight)}px`;
  }

  function choose(index) {
    circles.forEach((circle, i) => {
      circle.classList.toggle("chosen", i === index);
      circle.classList.toggle("neighbor", neighbors[index].includes(i));
    });
    lines.replaceChildren();
    for (const other of neighbors[index]) {
      svg("line", { x1: centers[index][0], y1: centers[index][1], x2: centers[other][0], y2: centers[other][1] }, lines);
    }
    panel.replaceChildren();
    tile(index, largeTile, panel);
    describe(index, html("div", { class: "description" }, panel));
    html("p", { class: "note" }, panel, "Nearest images on the map by cosine similarity:");
    const tiles = html("div", { class: "tiles" }, panel);
    neighbors[index].forEach((other, i) => {
      const differs = labels && labels[other] !== labels[index];
      const button = html("button", { type: "button", class: differs ? "other" : "", title: names[other] }, tiles);
      tile(other, 64, button);
      const name = labels ? ` ${differs ? "\u2260 " : ""}${className(other)}` : "";
      html("span", {}, button, `${cosines[index][i].toFixed(3)}${name}`);
      button.addEventListener("click", () => choose(other));
    });
  }

  picture.addEventListener("pointermove", showTooltip);
  picture.addEventListener("pointerleave", () => (tooltip.hidden = true));
  picture.addEventListener("click", (event) => {
    const index = imageAt(event);
    if (index !== null) choose(index);
  });

  if (!labels) return;
  const legend = document.getElementById("legend");
  let pressed = null;
  const fade = (label) => circles.forEach((c, i) => c.classList.toggle("faded", label !== null && labels[i] !== label));
  const counts = classes.map((_, label) => labels.filter((l) => l === label).length);
  const largest = [...classes.keys()].filter((l) => counts[l]).sort((a, b) => counts[b] - counts[a]);
  for (const label of largest.slice(0, DATA.map.max_legend_classes).sort((a, b) => a - b)) {
    const button = html("button", { type: "button", "aria-pressed": "false" }, legend);
    html("i", { style: classColor(label) }, button);
    button.append(`${classes[label]} ${counts[label]}`);
    button.addEventListener("pointerenter", () => fade(label));
    button.addEventListener("pointerleave", () => fade(pressed));
    button.addEventListener("click", () => {
      pressed = pressed === label ? null : label;
      legend.querySelectorAll("button").forEach((b) => b.setAttribute("aria-pressed", b === button && pressed === label));
      fade(pressed);
    });
  }
  if (largest.length > DATA.map.max_legend_classes) {
    html("span", { class: "note" }, legend, `and ${largest.length - DATA.map.max_legend_classes} other classes`);
  }
}

const charts = document.getElementById("charts");
if (charts) DATA.curves.forEach((chart) => plotChart(chart, charts));
if (DATA.map) plotMap();
