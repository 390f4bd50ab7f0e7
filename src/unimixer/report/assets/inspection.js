// Mixing matrices under a slider for the temperature, with the value under the pointer.
(() => {
  "use strict";
  const stops = [[0,0,4],[28,16,68],[79,18,123],[129,37,129],[181,54,122],[229,80,100],[251,135,97],[254,194,135],
                 [252,253,191]];
  const panels = JSON.parse(document.getElementById("values").textContent);
  const slider = document.getElementById("temperature"), words = document.getElementById("temperature-words");
  const oneScale = document.getElementById("one-scale"), tip = document.getElementById("tip");
  const shown = document.getElementById("panels-shown");

  function color(share) {
    const position = Math.min(Math.max(share, 0), 1) * (stops.length - 1), first = Math.min(Math.floor(position), 7);
    return stops[first].map((value, i) => value + (position - first) * (stops[first + 1][i] - value));
  }
  function values(at) {
    if (!at.values) {
      const text = atob(at.codes), decoded = new Float64Array(text.length / 2);
      for (let i = 0; i < decoded.length; i++) {
        const code = text.charCodeAt(2 * i) + 256 * text.charCodeAt(2 * i + 1);
        decoded[i] = at.low + code / 65535 * (at.high - at.low);
      }
      at.values = decoded;
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
    numbers.forEach((value, i) => image.data.set([...color((value - low) / (high - low || 1)), 255], 4 * i));
    context.putImageData(image, 0, 0);
    panel.caption.textContent = panel.words + ", " + low.toPrecision(2) + " to " + high.toPrecision(2);
  }
  function range(first, step) { return step === 1 ? String(first) : first * step + "-" + (first * step + step - 1); }
  function point(panel, event) {
    const at = current(panel), box = panel.canvas.getBoundingClientRect();
    const column = Math.min(Math.floor((event.clientX - box.left) / box.width * at.columns), at.columns - 1);
    const row = Math.min(Math.floor((event.clientY - box.top) / box.height * at.rows), at.rows - 1);
    if (row < 0 || column < 0) { return; }
    const value = values(at)[row * at.columns + column];
    tip.textContent = "to " + panel.unit + " " + range(row, at.step) + " from " + range(column, at.step) + ": "
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
  const layers = new Map();
  panels.forEach(panel => {
    [panel.layer, panel.words] = panel.title.split(": ");
    if (!layers.has(panel.layer)) {
      const layer = document.createElement("div"), heading = document.createElement("h3");
      layer.className = "layer";
      heading.textContent = panel.layer;
      layer.append(heading);
      shown.append(layer);
      layers.set(panel.layer, layer);
    }
    const figure = document.createElement("figure");
    panel.canvas = document.createElement("canvas");
    panel.caption = document.createElement("figcaption");
    panel.canvas.setAttribute("role", "img");
    panel.canvas.setAttribute("aria-label", panel.title);
    panel.canvas.addEventListener("pointermove", event => point(panel, event));
    panel.canvas.addEventListener("pointerdown", event => point(panel, event));
    panel.canvas.addEventListener("pointerleave", () => { tip.style.visibility = "hidden"; });
    figure.append(panel.canvas, panel.caption);
    layers.get(panel.layer).append(figure);
  });
  slider.value = Math.max(0, panels[0].at.findIndex(at => at.words.includes("trained")));
  slider.addEventListener("input", drawAll);
  oneScale.addEventListener("change", drawAll);
  drawAll();
})();
