"use strict";
// The viewer of wells: a stretch of depth of one well in panels below each other, drawn from bytes that the page carries.
// A link to #well=train-3&row=1200&zoom=2 shows row 1200 of training well 3 in the middle, two pixels wide a row.

const viewer = document.getElementById("viewer");
const part = (name) => viewer.querySelector(`[data-part="${name}"]`);
const colours = JSON.parse(document.getElementById("colours").textContent);
const rgb = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const KIND = Object.fromEntries(Object.entries(colours.kinds).map(([name, hex]) => [name, rgb(hex)]));
const INFERNO = colours.probability.map(rgb), VIRIDIS = colours.deviation.map(rgb);
const MASK = 1, TRUTH = 2, REPAIRED = 4, MISSING = 8;
const LARGEST = 16; // pixels a row
const HEIGHT = 96; // pixels of a panel

let well = null; // what is shown: the page's data, and thickness, probability, label and perhaps deviation as bytes, depth by depth
let panels = []; // canvases with the functions that colour a column's stretch of depth
let first = 0, zoom = 1, turn = 0; // the row at the left edge, pixels a row, columns by which the pipe is turned
let wanted = 0, queued = false;

async function bytes(uri, columns) {
  const image = new Image();
  image.src = uri;
  await image.decode();
  const canvas = document.createElement("canvas");
  canvas.width = image.width;
  canvas.height = image.height;
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, image.width, image.height).data;
  const result = new Uint8Array(columns * image.height);
  for (let i = 0; i < result.length; i++) result[i] = pixels[4 * i];
  return result;
}

async function open(id, row, scale) {
  const turned = ++wanted;
  const data = JSON.parse(document.getElementById("data-" + id).textContent);
  const parts = data.tiles[0].map(() => new Uint8Array(data.rows * data.columns));
  let at = 0;
  for (const tile of data.tiles) {
    const own = await Promise.all(tile.map((uri) => bytes(uri, data.columns)));
    if (turned !== wanted) return; // another well was asked for meanwhile
    own.forEach((array, i) => parts[i].set(array, at));
    at += own[0].length;
  }
  for (let i = 1; i < parts.length; i++) parts[i].forEach((value, place) => (parts[i][place] = Math.round(value / 17)));
  well = { ...data, id, thickness: parts[0], probability: parts[1], label: parts[2], deviation: parts[3] };
  turn = 0;
  shown = -1;
  part("turn").max = data.columns - 1;
  part("turn").value = 0;
  part("well").value = id;
  part("worst").hidden = !data.scores;
  build();
  zoom = scale ? clamp(scale, whole(), LARGEST) : Math.max(whole(), 1);
  first = row === undefined ? 0 : row - width() / zoom / 2;
  draw();
}

// Panels: each has a title and a function that says the colour of column c over rows [from, to).
function build() {
  const list = [["Thickness, dark where thin", thickness]];
  if (well.truth) list.push(["Truth", (c, from, to) => (any(c, from, to) & TRUTH ? KIND.marked : KIND.defect_free)]);
  list.push(["Probability", (c, from, to) => INFERNO[most(well.probability, c, from, to)]]);
  if (well.deviation) list.push(["Disagreement of the networks", (c, from, to) => VIRIDIS[most(well.deviation, c, from, to)]]);
  list.push([well.truth ? "Mask: found, missed, false alarm" : "Mask", kind]);
  panels = list.map(([title, colour]) => ({ colour, canvas: panel(title, HEIGHT) }));
  const holder = part("panels");
  holder.replaceChildren();
  list.forEach(([title], i) => {
    const label = document.createElement("div");
    label.className = "panel-title";
    label.textContent = title;
    holder.append(label, panels[i].canvas);
  });
}

function panel(title, height) {
  const canvas = document.createElement("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${title} of ${part("well").selectedOptions[0].textContent.trim()}, depth to the right`);
  canvas.style.height = height + "px";
  return canvas;
}

const source = (c, row) => row * well.columns + ((c + turn) % well.columns);

function thickness(c, from, to) {
  let sum = 0, there = 0, repaired = 0;
  for (let row = from; row < to; row++) {
    const place = source(c, row), label = well.label[place];
    if (label & MISSING) continue;
    there += 1;
    repaired += label & REPAIRED ? 1 : 0;
    sum += well.thickness[place];
  }
  const grey = Math.round(sum / there);
  return 2 * repaired > there ? KIND.repaired : [grey, grey, grey];
}

function missing(c, from, to) {
  let row = from;
  while (row < to && well.label[source(c, row)] & MISSING) row++;
  return row === to;
}

function any(c, from, to) {
  let bits = 0;
  for (let row = from; row < to; row++) bits |= well.label[source(c, row)];
  return bits;
}

function most(steps, c, from, to) {
  let step = 0;
  for (let row = from; row < to; row++) step = Math.max(step, steps[source(c, row)]);
  return step;
}

function kind(c, from, to) {
  const bits = any(c, from, to);
  if (!well.truth) return bits & MASK ? KIND.marked : KIND.defect_free;
  if (bits & MASK) return bits & TRUTH ? KIND.found : KIND.false;
  return bits & TRUTH ? KIND.missed : KIND.defect_free;
}

const clamp = (value, low, high) => Math.min(Math.max(value, low), high);
const width = () => part("panels").clientWidth;
const whole = () => Math.min(1, width() / well.rows); // the zoom at which the whole well fits

function draw() {
  if (queued || !well) return;
  queued = true;
  requestAnimationFrame(() => {
    queued = false;
    zoom = clamp(zoom, whole(), LARGEST);
    first = clamp(first, 0, Math.max(0, well.rows - width() / zoom));
    const dense = window.devicePixelRatio || 1;
    const across = Math.max(1, Math.round(width() * dense));
    for (const { canvas, colour } of panels) paint(canvas, across, Math.round(HEIGHT * dense), well.columns, first, zoom * dense, colour);
    drawMap(dense);
    tell();
  });
}

function paint(canvas, across, high, rows, start, scale, colour) {
  const image = new ImageData(across, rows);
  for (let x = 0; x < across; x++) {
    const from = Math.floor(start + x / scale);
    if (from >= well.rows) break;
    const to = clamp(Math.floor(start + (x + 1) / scale), from + 1, well.rows);
    for (let c = 0; c < rows; c++) {
      if (missing(c, from, to)) continue; // the page shows through
      const own = colour(c, from, to), at = 4 * (c * across + x);
      [image.data[at], image.data[at + 1], image.data[at + 2]] = own;
      image.data[at + 3] = 255;
    }
  }
  const small = document.createElement("canvas");
  small.width = across;
  small.height = rows;
  small.getContext("2d").putImageData(image, 0, 0);
  canvas.width = across;
  canvas.height = high;
  const context = canvas.getContext("2d");
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, across, high);
}

// The map: the whole well in one line, its patches' scores where they are known, and where in it the panels are.
let mapOf = "", map = null;

function drawMap(dense) {
  const canvas = part("map"), across = Math.max(1, Math.round(canvas.clientWidth * dense)), high = Math.round(28 * dense);
  const key = [well.id, across, turn].join();
  if (key !== mapOf) {
    map = document.createElement("canvas");
    paint(map, across, high, well.columns, 0, across / well.rows, kind);
    mapOf = key;
  }
  canvas.width = across;
  canvas.height = high;
  const context = canvas.getContext("2d");
  context.drawImage(map, 0, 0);
  const [left, right] = [first, first + width() / zoom].map((row) => (row / well.rows) * across);
  context.fillStyle = "rgba(120, 120, 130, 0.55)";
  context.fillRect(0, 0, left, high);
  context.fillRect(right, 0, across - right, high);
  context.strokeStyle = "#ffffff";
  context.lineWidth = dense;
  context.strokeRect(left + dense / 2, dense / 2, Math.max(right - left - dense, 1), high - dense);
}

function tell() {
  const last = Math.min(well.rows, first + width() / zoom);
  part("zoom").value = Math.round(1000 * Math.log(zoom / whole()) / Math.log(LARGEST / whole()));
  part("where").textContent =
    `rows ${Math.round(first).toLocaleString("en")} to ${Math.round(last).toLocaleString("en")} of ${well.rows.toLocaleString("en")}` +
    `, ${zoom >= 1 ? zoom.toFixed(1) + " px a row" : (1 / zoom).toFixed(1) + " rows a px"}`;
  Object.assign(viewer.dataset, { shown: well.id, first: first.toFixed(1), zoom: zoom.toFixed(4) });
}

function zoomTo(scale, x = width() / 2) {
  const row = first + x / zoom;
  zoom = clamp(scale, whole(), LARGEST);
  first = row - x / zoom;
  draw();
}

function read(event) {
  const box = event.target.getBoundingClientRect();
  const row = Math.floor(first + (event.clientX - box.left) / zoom);
  const c = Math.floor(((event.clientY - box.top) / box.height) * well.columns);
  if (row < 0 || row >= well.rows || c < 0 || c >= well.columns) return;
  const place = source(c, row), column = place % well.columns, depth = Math.floor(row / well.patch);
  const phase = column % well.names[depth].length, bits = well.label[place], name = well.names[depth][phase];
  const value = well.low + (well.thickness[place] / 255) * (well.high - well.low);
  const words = [name || "no patch here", `row ${row % well.patch}`, `${Math.round((360 * column) / well.columns)}\u00b0 around`];
  if (name) {
    words.push(bits & REPAIRED ? "not measured" : `scaled thickness ${value.toFixed(2)}`, `probability ${(well.probability[place] / 15).toFixed(2)}`);
    if (well.deviation) words.push(`networks differ by ${(well.deviation[place] / 30).toFixed(2)}`);
    if (bits & MASK) words.push("marked");
    if (bits & TRUTH) words.push("truly corroded");
    if (well.scores) words.push(`patch score ${well.scores[depth][phase].toFixed(3)}`);
  }
  part("pixel").textContent = words.join(", ");
}

// The next patch along depth that scores less than one half; at the end it starts anew. Near the ends of a well it cannot come into the
// middle, so that the one shown last counts while it is in view.
let shown = -1;

function nextWorst() {
  const depths = well.scores.length, start = (shown + 0.5) * well.patch;
  const inView = shown >= 0 && start >= first && start <= first + width() / zoom;
  const from = inView ? shown : Math.floor((first + width() / zoom / 2) / well.patch);
  for (let step = 1; step <= depths; step++) {
    const depth = (from + step) % depths;
    if (!well.scores[depth].some((score) => score >= 0 && score < 0.5)) continue;
    shown = depth;
    viewer.dataset.bad = depth;
    return goTo((depth + 0.5) * well.patch, Math.max(zoom, 4));
  }
}

function goTo(row, scale) {
  zoom = clamp(scale, whole(), LARGEST);
  first = row - width() / zoom / 2;
  draw();
}

function follow() {
  const asked = new URLSearchParams(location.hash.slice(1));
  const id = asked.get("well");
  if (!id || !document.getElementById("data-" + id)) return false;
  const row = asked.has("row") ? Number(asked.get("row")) : undefined;
  open(id, row, Number(asked.get("zoom")) || undefined);
  viewer.scrollIntoView({ block: "start" });
  return true;
}

part("well").addEventListener("change", (event) => open(event.target.value));
part("zoom").addEventListener("input", (event) => zoomTo(whole() * (LARGEST / whole()) ** (event.target.value / 1000)));
part("turn").addEventListener("input", (event) => ((turn = Number(event.target.value)), draw()));
part("fit").addEventListener("click", () => zoomTo(0));
part("worst").addEventListener("click", nextWorst);
window.addEventListener("resize", draw);
window.addEventListener("hashchange", follow);

const fingers = new Map();
const holder = part("panels");
holder.addEventListener("pointerdown", (event) => {
  fingers.set(event.pointerId, event.clientX);
  holder.setPointerCapture(event.pointerId);
});
holder.addEventListener("pointermove", (event) => {
  if (!well) return;
  if (!fingers.has(event.pointerId)) return event.target.tagName === "CANVAS" && read(event);
  const before = [...fingers.values()];
  first -= (event.clientX - fingers.get(event.pointerId)) / zoom / before.length;
  fingers.set(event.pointerId, event.clientX);
  if (before.length === 2) {
    const after = [...fingers.values()], left = holder.getBoundingClientRect().left;
    const spread = Math.abs(after[0] - after[1]) / Math.max(1, Math.abs(before[0] - before[1]));
    return zoomTo(zoom * spread, (after[0] + after[1]) / 2 - left);
  }
  draw();
});
for (const end of ["pointerup", "pointercancel"]) holder.addEventListener(end, (event) => fingers.delete(event.pointerId));
holder.addEventListener(
  "wheel",
  (event) => {
    const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
    if (!well || !(event.ctrlKey || event.metaKey || sideways)) return; // an ordinary wheel scrolls the page
    event.preventDefault();
    if (event.ctrlKey || event.metaKey) return zoomTo(zoom * Math.exp(-event.deltaY / 200), event.clientX - holder.getBoundingClientRect().left);
    first += sideways / zoom;
    draw();
  },
  { passive: false },
);
part("map").addEventListener("pointerdown", (event) => {
  part("map").setPointerCapture(event.pointerId);
  jump(event);
});
part("map").addEventListener("pointermove", (event) => event.buttons && jump(event));

function jump(event) {
  const box = part("map").getBoundingClientRect();
  first = ((event.clientX - box.left) / box.width) * well.rows - width() / zoom / 2;
  draw();
}

viewer.addEventListener("keydown", (event) => {
  if (!well || event.target.matches("select, input")) return;
  const page = width() / zoom;
  const moves = { ArrowLeft: -page / 8, ArrowRight: page / 8, PageUp: -page, PageDown: page, Home: -Infinity, End: Infinity };
  if (event.key in moves) first = clamp(first + moves[event.key], 0, well.rows);
  else if (event.key === "+" || event.key === "=") zoomTo(zoom * 1.5);
  else if (event.key === "-") zoomTo(zoom / 1.5);
  else return;
  event.preventDefault();
  draw();
});

viewer.hidden = false;
if (!follow()) open(part("well").value);
