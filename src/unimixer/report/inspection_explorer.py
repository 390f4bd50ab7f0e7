"""The part of the page that moves: matrices under a temperature slider, values under the pointer. Plain JavaScript."""

STYLE = """
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.4rem; overflow-wrap: anywhere; }
h2 { font-size: 1.15rem; margin-top: 2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: 0.9rem; }
th, td { text-align: left; padding: 0.15rem 0.7rem; border-bottom: 1px solid #8884; white-space: nowrap; }
td.n { text-align: right; }
td.bar { width: 12rem; }
td.bar span { display: block; height: 0.8rem; background: #b73779; }
figure { margin: 1rem 0; }
img { max-width: 100%; height: auto; background: white; }
figcaption { font-size: 0.9rem; opacity: 0.8; }
#panels-shown { display: flex; flex-wrap: wrap; gap: 1rem; }
#panels-shown figure { margin: 0; }
canvas { image-rendering: pixelated; border: 1px solid #8886; display: block; cursor: crosshair; }
.controls { display: flex; flex-wrap: wrap; gap: 0.5rem 2rem; align-items: center; margin: 1rem 0; }
#tip { position: fixed; pointer-events: none; background: #222; color: #fff; padding: 0.2rem 0.5rem;
       border-radius: 0.25rem; font-size: 0.85rem; visibility: hidden; z-index: 1; }
"""

EXPLORER = """
<noscript><p>With scripts switched off only the pictures below are shown.</p></noscript>
<div class="controls">
  <label>temperature <input type="range" id="temperature" min="0" value="0" step="1"></label>
  <output id="temperature-words" for="temperature"></output>
  <label><input type="checkbox" id="one-scale"> one scale, 0 to 1, for all</label>
</div>
<div id="panels-shown"></div>
<div id="tip" role="status"></div>
"""

SCRIPT = """
(() => {
  "use strict";
  const stops = [[0,0,4],[28,16,68],[79,18,123],[129,37,129],[181,54,122],[229,80,100],[251,135,97],[254,194,135],
                 [252,253,191]];
  const panels = JSON.parse(document.getElementById("panels").textContent);
  const slider = document.getElementById("temperature"), words = document.getElementById("temperature-words");
  const oneScale = document.getElementById("one-scale"), tip = document.getElementById("tip");
  const shown = document.getElementById("panels-shown");

  function colour(share) {
    const place = Math.min(Math.max(share, 0), 1) * (stops.length - 1), first = Math.min(Math.floor(place), 7);
    return stops[first].map((value, i) => value + (place - first) * (stops[first + 1][i] - value));
  }
  function values(at) {
    if (!at.values) {
      const text = atob(at.codes), found = new Float64Array(text.length / 2);
      for (let i = 0; i < found.length; i++) {
        const code = text.charCodeAt(2 * i) + 256 * text.charCodeAt(2 * i + 1);
        found[i] = at.low + code / 65535 * (at.high - at.low);
      }
      at.values = found;
    }
    return at.values;
  }
  function current(panel) { return panel.at[Math.min(Number(slider.value), panel.at.length - 1)]; }
  function draw(panel) {
    const at = current(panel), numbers = values(at), context = panel.canvas.getContext("2d");
    const low = oneScale.checked ? 0 : at.low, high = oneScale.checked ? 1 : at.high;
    panel.canvas.width = at.columns;
    panel.canvas.height = at.rows;
    const image = context.createImageData(at.columns, at.rows);
    numbers.forEach((value, i) => image.data.set([...colour((value - low) / (high - low || 1)), 255], 4 * i));
    context.putImageData(image, 0, 0);
    panel.caption.textContent = panel.title + ", " + low.toPrecision(2) + " to " + high.toPrecision(2);
  }
  function range(first, step) { return step === 1 ? String(first) : first * step + "-" + (first * step + step - 1); }
  function point(panel, event) {
    const at = current(panel), box = panel.canvas.getBoundingClientRect();
    const column = Math.min(Math.floor((event.clientX - box.left) / box.width * at.columns), at.columns - 1);
    const row = Math.min(Math.floor((event.clientY - box.top) / box.height * at.rows), at.rows - 1);
    if (row < 0 || column < 0) { return; }
    const value = values(at)[row * at.columns + column];
    tip.textContent = "to " + panel.what + " " + range(row, at.step) + " from " + range(column, at.step) + ": "
      + (at.step > 1 ? "at most " : "") + value.toPrecision(3);
    tip.style.left = Math.min(event.clientX + 14, innerWidth - 260) + "px";
    tip.style.top = event.clientY + 14 + "px";
    tip.style.visibility = "visible";
  }
  function drawAll() {
    const longest = panels.reduce((a, b) => b.at.length > a.at.length ? b : a);
    words.textContent = current(longest).words;
    panels.forEach(draw);
  }

  slider.max = Math.max(...panels.map(panel => panel.at.length)) - 1;
  panels.forEach(panel => {
    const figure = document.createElement("figure");
    panel.canvas = document.createElement("canvas");
    panel.caption = document.createElement("figcaption");
    const side = panel.what === "block" ? 320 : 120;
    panel.canvas.style.width = panel.canvas.style.height = side + "px";
    panel.caption.style.maxWidth = side + "px";
    panel.canvas.setAttribute("role", "img");
    panel.canvas.setAttribute("aria-label", panel.title);
    panel.canvas.addEventListener("pointermove", event => point(panel, event));
    panel.canvas.addEventListener("pointerdown", event => point(panel, event));
    panel.canvas.addEventListener("pointerleave", () => { tip.style.visibility = "hidden"; });
    figure.append(panel.canvas, panel.caption);
    shown.append(figure);
  });
  slider.value = Math.max(0, panels[0].at.findIndex(at => at.words.includes("trained")));
  slider.addEventListener("input", drawAll);
  oneScale.addEventListener("change", drawAll);
  drawAll();
})();
"""
