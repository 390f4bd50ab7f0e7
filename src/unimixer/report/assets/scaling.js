// The plots and the sortable table of scaling laws, for the choices at the top.
(() => {
  "use strict";
  const { choice, css, escapeText, legend, narrow, plot, redraw, sortable, wrapped } = report;
  const data = JSON.parse(document.getElementById("values").textContent);
  const shown = { size: 0, above: false, reach: "near" };
  const now = () => data.analyses[shown.size];
  const fade = (color, share) => color + Math.round(255 * share).toString(16).padStart(2, "0");
  const four = value => Number(value).toPrecision(4);
  const amount = value => {
    if (now().x === "latency_ms") { return `${Number(value).toPrecision(3)} ms`; }
    const [size, letter] = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "K"], [1, ""]].find(one => value >= one[0])
      || [1, ""];
    return Number((value / size).toPrecision(3)) + letter;
  };
  const known = () => now().form === "error" && now().models.some(one => one.floor > 0);
  const lifted = (model, value) => shown.above && known() ? value - model.floor : value;
  const reach = curve => {
    const last = curve.size[curve.inside - 1], most = { near: 1, twice: 2.001, far: 9 }[shown.reach];
    return curve.size.filter(size => size <= last * most * 1.0001).length;
  };
  function ticks(values) { // round values of one decade and a half at most have too few ticks on a log axis
    const candidates = [], [low, high] = [Math.min(...values), Math.max(...values)];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power += 1) {
      [1, 2, 5].forEach(digit => candidates.push(digit * 10 ** power));
    }
    const inside = candidates.filter(tick => tick >= low / 1.6 && tick <= high * 1.6);
    return inside.length > (narrow.matches ? 6 : 12) ? inside.filter(tick => /^1/.test(tick.toExponential())) : inside;
  }
  function sizes(values) {
    const chosen = ticks(values);
    const words = chosen.map(now().x === "latency_ms" ? String : amount); // the axis says ms
    return { type: "log", tickvals: chosen, ticktext: words, title: { text: now().name } };
  }
  function metric(values) {
    const [low, high] = [Math.min(...values), Math.max(...values)];
    const room = Math.log10(high / low) * 0.12 + 0.001;
    const range = [Math.log10(low) - room, Math.log10(high) + room];
    const words = now().words + (shown.above && known() ? " above the floor" : "");
    const title = { text: words + (now().form === "error" ? ", lower is better" : "") };
    if (high / low > 12) { return { type: "log", range, title, tickformat: ".3~g" }; }
    const step = 10 ** Math.floor(Math.log10((high - low) / 3 || low));
    const fine = [1, 2, 5, 10].map(n => n * step).find(n => (high - low) / n <= 7);
    const chosen = [];
    for (let tick = Math.ceil(low / fine - 1) * fine; tick <= high + fine; tick += fine) {
      if (tick > 0) { chosen.push(Number(tick.toPrecision(6))); }
    }
    return { type: "log", range, title, tickvals: chosen, ticktext: chosen.map(tick => String(tick)) };
  }

  function curves() {
    const traces = [], seen = [], wide = [];
    now().models.forEach(model => {
      const { curve, color } = model, count = reach(curve), inside = Math.min(count, curve.inside);
      const name = escapeText(model.model), group = { legendgroup: name };
      const band = (ends, from, to, share, words) => {
        const low = ends[0].slice(from, to).map(value => Math.max(lifted(model, value), 1e-9));
        const high = ends[1].slice(from, to).map(value => Math.max(lifted(model, value), 1e-9));
        const x = curve.size.slice(from, to);
        traces.push({ ...group, x: [...x, ...[...x].reverse()], y: [...low, ...high.reverse()], fill: "toself",
          fillcolor: fade(color, share), line: { width: 0 }, mode: "lines", hoverinfo: "skip", showlegend: false,
          name: words });
      };
      if (curve.band) { band(curve.band, 0, count, 0.13, "band"); }
      if (curve.run && count > inside) { band(curve.run, inside - 1, count, 0.08, "run"); }
      const line = (from, to, dash) => {
        const low = curve.run ? curve.run[0].slice(from, to) : null;
        traces.push({ ...group, x: curve.size.slice(from, to), name, mode: "lines", showlegend: dash === "solid",
          y: curve.value.slice(from, to).map(value => lifted(model, value)), line: { color: color, width: 2.2, dash },
          text: curve.size.slice(from, to).map(amount),
          customdata: curve.value.slice(from, to).map((value, index) => low === null ? four(value)
            : `${four(value)}, one run ${four(low[index])} to ${four(curve.run[1][from + index])}`),
          hovertemplate: `<b>${name}</b> at %{text}<br>law: %{customdata}<extra></extra>` });
      };
      line(0, inside, "solid");
      if (count > inside) { line(inside - 1, count, "dot"); }
      wide.push(...curve.size.slice(0, count));
      seen.push(...curve.value.slice(0, count).map(value => lifted(model, value)).filter(value => value > 0));
      const runs = model.runs.filter(run => lifted(model, run.value) > 0);
      seen.push(...runs.map(run => lifted(model, run.value)));
      traces.push({ ...group, x: runs.map(run => run.size), y: runs.map(run => lifted(model, run.value)),
        mode: "markers", name, showlegend: false, marker: { color: color, size: 8, opacity: 0.75 },
        text: runs.map(run => `${run.size_words}${run.seed === null ? "" : `, seed ${run.seed}`}`),
        customdata: runs.map(run => [four(run.value), (100 * run.residual).toFixed(2)]),
        hovertemplate: `<b>${name}</b>, %{text}<br>%{customdata[0]}, %{customdata[1]}% from the law<extra></extra>` });
    });
    const low = legend();
    low.legend.y = narrow.matches ? -0.26 : -0.14;
    plot("curves", traces, { height: narrow.matches ? 460 : 520, ...low, xaxis: sizes(wide),
      yaxis: metric(seen), hovermode: "closest" });
  }
  function exponents() {
    const models = now().models, traces = models.map((model, index) => {
      const ends = model.b_interval, marker = { size: 11, color: model.color };
      return { x: [model.b], y: [index], mode: "markers", marker,
        error_x: ends ? { type: "data", symmetric: false, array: [ends[1] - model.b],
          arrayminus: [model.b - ends[0]], color: model.color, thickness: 2.5, width: 0 } : undefined,
        hovertemplate: `<b>${escapeText(model.model)}</b><br>b = ${model.b.toFixed(4)}, `
          + `${ends ? `${ends[0].toFixed(4)} to ${ends[1].toFixed(4)}` : "no interval"}<extra></extra>` };
    });
    plot("exponents", traces, { height: Math.max(300, 110 + 40 * models.length),
      yaxis: { tickvals: [...models.keys()], ticktext: models.map(model => wrapped(model.model)), showgrid: false,
        zeroline: false, range: [models.length - 0.4, -0.6] },
      xaxis: { title: { text: "exponent b" }, zeroline: true, zerolinecolor: css("--ink"), zerolinewidth: 1.5,
        rangemode: "tozero", tickformat: ".2~f", nticks: 6 } });
  }
  function residuals() {
    const models = now().models, x = models.flatMap(model => model.runs.map(run => run.size));
    const traces = models.map(model => ({ x: model.runs.map(run => run.size), mode: "markers",
      y: model.runs.map(run => 100 * run.residual), marker: { color: model.color, size: 8, opacity: 0.75 },
      text: model.runs.map(run => `${run.size_words}${run.seed === null ? "" : `, seed ${run.seed}`}`),
      hovertemplate: `<b>${escapeText(model.model)}</b>, %{text}<br>%{y:.2f}%<extra></extra>` }));
    plot("residuals", traces, { height: Math.max(300, 110 + 40 * models.length), xaxis: sizes(x),
      yaxis: { title: { text: "run less law, %" }, zeroline: true, zerolinecolor: css("--ink"), zerolinewidth: 1.5 } });
  }
  function draw() {
    document.querySelectorAll(".where").forEach(part => { part.textContent = `Over ${now().name}.`; });
    document.querySelectorAll(".law").forEach(part => { part.textContent = now().equation; });
    document.querySelectorAll("input[name=above]").forEach(input => { input.closest("fieldset").hidden = !known(); });
    sortable("table", data.columns, now().models.map(model => model.cells), index => index === 0, escapeText);
    [curves, exponents, residuals].forEach(one => one());
  }
  choice(shown, "size", "size", data.analyses.map((one, index) => [index, one.name]), draw);
  choice(shown, "above", "height", [[false, "as measured"], [true, "above the floor"]], draw);
  choice(shown, "reach", "law", [["near", "at the runs"], ["twice", "to 2 times"], ["far", "to 8 times"]], draw);
  redraw(draw);
})();
