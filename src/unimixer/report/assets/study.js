// The plots and the sortable table of a study, for the choices at the top.
(() => {
  "use strict";
  const { choice, css, escapeText, legend, narrow, plot, redraw, rows, sortable, wrapped } = report;
  const data = JSON.parse(document.getElementById("values").textContent);
  const shown = { group: 0, task: data.tasks[0], metric: data.metrics[0].key };

  const metric = () => data.metrics.find(one => one.key === shown.metric);
  const colorOf = line => css(line.outcome ? `--${line.outcome}` : "--soft");
  const find = (group, task, key) =>
    data.tables.find(table => table.group === group && table.task === task && table.metric === key);
  const table = () => find(shown.group, shown.task, shown.metric);
  const sign = value => (value > 0 ? "+" : value < 0 ? "\u2212" : "") + Math.abs(value).toFixed(4);
  const quality = part => ({ title: { text: wrapped(`${part} ${metric().name} of ${shown.task}`, 36) }, tickformat: ".4~f" });
  const spread = (lines, color) =>
    ({ type: "data", array: lines.map(line => line.spread || 0), color, thickness: 1.2, width: 4 });
  const tall = traces => 400 + 16 * traces.reduce((sum, one) => sum + one.name.split("<br>").length - 1, 0);
  const names = lines => ({ tickvals: [...lines.keys()], ticktext: lines.map(line => wrapped(line.variant)),
    showgrid: false, zeroline: false, range: [lines.length - 0.4, -0.6] });
  function differences() {
    const lines = table().lines.filter(line => line.compared);
    const traces = lines.map((line, index) => {
      const one = line.compared, color = colorOf(line);
      return { x: [one.estimate], y: [index], mode: "markers",
        error_x: { type: "data", symmetric: false, array: [one.high - one.estimate],
          arrayminus: [one.estimate - one.low], color, thickness: 2.5, width: 0 },
        marker: { size: 11, color: line.outcome ? color : css("--card"), line: { width: 2.5, color } },
        hovertemplate: `<b>${escapeText(line.variant)}</b>: ${escapeText(line.verdict)}<br>${sign(one.estimate)}, `
          + `${sign(one.low)} to ${sign(one.high)}<br>p ${escapeText(line.cells[10])}, `
          + `after Holm ${escapeText(line.cells[11])}<extra></extra>` };
    });
    lines.forEach((line, index) => traces.push({ x: line.compared.by_seed, mode: "markers",
      y: line.compared.by_seed.map(() => index + 0.3), marker: { size: 5, color: css("--soft"), opacity: 0.7 },
      hovertemplate: `<b>${escapeText(line.variant)}</b><br>one seed: %{x:+.4f}<extra></extra>` }));
    plot("differences", traces, { height: rows(lines.map(line => line.variant)), yaxis: names(lines),
      xaxis: { title: { text: wrapped(`${metric().name} of ${shown.task}: difference to ${data.base}`
        + (metric().higher ? "" : ", lower is better"), narrow.matches ? 36 : 72) },
        tickformat: "+.4~f", zeroline: true, zerolinecolor: css("--ink"), zerolinewidth: 1.5,
        nticks: narrow.matches ? 4 : 9 } });
  }
  function seeds() {
    const lines = table().lines.filter(line => line.values.length);
    const traces = lines.flatMap((line, index) => {
      const color = data.colors[line.variant];
      return [
        { x: line.values.map(pair => pair[1]), y: line.values.map(() => index), mode: "markers",
          customdata: line.values.map(pair => pair[0]), marker: { size: 9, color, opacity: 0.65 },
          hovertemplate: `<b>${escapeText(line.variant)}</b><br>seed %{customdata}: %{x:.4f}<extra></extra>` },
        { x: [line.mean], y: [index], mode: "markers",
          marker: { symbol: "line-ns", size: 18, line: { width: 3, color } },
          hovertemplate: `<b>${escapeText(line.variant)}</b><br>mean %{x:.4f}<extra></extra>` }];
    });
    plot("seeds", traces, { height: Math.max(400, rows(lines.map(line => line.variant))), yaxis: names(lines),
      xaxis: { ...quality("test"), nticks: 6 } });
  }
  function budgets() {
    const here = data.groups[shown.group], x = [], byModel = new Map();
    data.groups.forEach((group, number) => {
      const one = find(number, shown.task, shown.metric);
      const same = ["dataset_hash", "model_group", "kind"].every(name => group[name] === here[name]);
      if (!one || !same) { return; }
      x.push(group.budget);
      one.lines.filter(line => line.mean !== null).forEach(line => {
        if (!byModel.has(line.variant)) { byModel.set(line.variant, []); }
        byModel.get(line.variant).push([group.budget, line]);
      });
    });
    const several = new Set(x).size > 1;
    const traces = several ? [...byModel].map(([variant, points]) => {
      points.sort((a, b) => a[0] - b[0]);
      const color = data.colors[variant];
      return { x: points.map(point => point[0]), y: points.map(point => point[1].mean), name: wrapped(variant, 40),
        mode: "lines+markers", line: { color, width: 2 }, marker: { color, size: 7 },
        error_y: spread(points.map(point => point[1]), color),
        hovertemplate: `<b>${escapeText(variant)}</b><br>%{x:.4s}: %{y:.4f} \u00b1 %{error_y.array:.4f}`
          + "<extra></extra>" };
    }) : [];
    plot("budgets", traces, { height: tall(traces), ...legend(),
      xaxis: { type: "log", tickvals: [...new Set(x)], tickformat: ".4~s",
        title: { text: here.kind === "flops" ? "FLOPs a sample" : "dense parameters" } },
      yaxis: quality("test") });
  }
  function search() {
    const here = data.groups[shown.group], key = `${shown.task} ${shown.metric}`;
    const traces = table().lines.flatMap(line => {
      const tries = data.search.filter(row => row.variant === line.variant && row.dataset_hash === here.dataset_hash
        && row.budget_kind === here.kind && row.budget === here.budget && row.sparse_lr === line.sparse_lr
        && row.mixing_lr === line.mixing_lr && typeof row.values[key] === "number");
      const first = Math.min(...tries.map(row => row.seed));
      const tried = tries.filter(row => row.seed === first).sort((a, b) => a.dense_lr - b.dense_lr);
      if (!tried.length) { return []; }
      const color = data.colors[line.variant];
      return [{ x: tried.map(row => row.dense_lr), y: tried.map(row => row.values[key]), name: wrapped(line.variant, 40),
        mode: "lines+markers", line: { color, width: 2 },
        marker: { color, size: tried.map(row => row.dense_lr === line.dense_lr ? 13 : 6),
          symbol: tried.map(row => row.dense_lr === line.dense_lr ? "circle-dot" : "circle") },
        text: tried.map(row => row.dense_lr === line.dense_lr ? ", chosen" : ""),
        hovertemplate: `<b>${escapeText(line.variant)}</b><br>%{x:.1e}%{text}: %{y:.4f}<extra></extra>` }];
    });
    const rates = [...new Set(traces.flatMap(trace => trace.x))];
    plot("search", rates.length > 1 ? traces : [], { height: tall(traces), ...legend(),
      xaxis: { type: "log", tickvals: rates, tickformat: ".0e", title: { text: "learning rate, dense parameters" } },
      yaxis: quality("validation") });
  }
  function speed() {
    const lines = table().lines.filter(line => line.speed !== null && line.mean !== null);
    const traces = lines.map(line => {
      const color = data.colors[line.variant];
      return { x: [line.speed], y: [line.mean], name: wrapped(line.variant, 40), mode: "markers",
        marker: { color, size: 11 },
        error_y: spread([line], color),
        hovertemplate: `<b>${escapeText(line.variant)}</b><br>%{x:,.0f} samples/s, %{y:.4f}<br>`
          + `${line.cells[1]} parameters, ${line.cells[2]} FLOPs a sample<extra></extra>` };
    });
    const best = table().best;
    const shapes = best === null ? [] : [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: best, y1: best,
      line: { color: css("--soft"), dash: "dash", width: 1.5 } }];
    const annotations = shapes.map(() => ({ xref: "paper", x: 1, y: best, text: "the true probabilities",
      yanchor: "top", showarrow: false, font: { size: 11, color: css("--soft") } }));
    plot("speed", traces, { height: tall(traces), ...legend(), shapes, annotations,
      xaxis: { type: "log", tickformat: ".2~s", dtick: "D2", title: { text: "samples a second in training" } },
      yaxis: quality("test") });
  }

  function draw_table() {
    const one = table(), last = data.columns.length - 1;
    const outcomes = new Map(one.lines.map(line => [line.verdict, line.outcome]));
    const cell = (value, index) => index !== last ? escapeText(value)
      : `<span class="badge ${outcomes.get(value)}">${escapeText(value)}</span>`;
    sortable("table", data.columns, one.lines.map(line => line.cells), index => index === 0 || index === last, cell);
    document.getElementById("table-caption").textContent = one.caption;
  }
  function draw() {
    const there = Boolean(table());
    document.getElementById("shown").hidden = !there;
    document.getElementById("not-there").hidden = there;
    document.querySelectorAll(".where").forEach(part => { part.textContent =
      `${data.groups[shown.group].words} \u00b7 ${metric().name} of ${shown.task}`; });
    if (!there) { return; }
    draw_table();
    [differences, seeds, budgets, search, speed].forEach(one => one());
  }
  choice(shown, "group", "data and budget", data.groups.map((group, index) => [index, group.words]), draw);
  choice(shown, "task", "task", data.tasks.map(task => [task, task]), draw);
  choice(shown, "metric", "metric", data.metrics.map(one => [one.key, one.name]), draw);
  redraw(draw);
})();
