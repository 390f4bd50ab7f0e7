// The plots of the reading of an experiment.
(() => {
  "use strict";
  const { css, escapeText, legend, plot, redraw, wrapped } = report;
  const data = JSON.parse(document.getElementById("values").textContent);

  function effects() {
    const traces = data.effects.map((one, index) => ({ x: [100 * one.effect], y: [index], mode: "markers",
      marker: { size: 11, color: one.color, symbol: one.guardrail ? "square" : "circle" },
      error_x: { type: "data", symmetric: false, array: [100 * (one.high - one.effect)],
        arrayminus: [100 * (one.effect - one.low)], color: one.color, thickness: 2.5, width: 0 },
      hovertemplate: `<b>${escapeText(one.name)}</b><br>%{x:.2f}% (${escapeText(one.words)})<extra></extra>` }));
    plot("effects", traces, { height: Math.max(300, 110 + 40 * traces.length),
      yaxis: { tickvals: [...data.effects.keys()], ticktext: data.effects.map(one => wrapped(one.name)),
        showgrid: false, zeroline: false, range: [data.effects.length - 0.4, -0.6] },
      xaxis: { title: { text: "difference to the control, %" }, zeroline: true, zerolinecolor: css("--ink"),
        zerolinewidth: 1.5, rangemode: "tozero", nticks: 6 } });
  }
  function units() {
    const day = index => new Date(Date.parse(data.start) + 864e5 * index).toISOString().slice(0, 10);
    const traces = data.units.map(one => ({ x: one.new.map((_, index) => day(index)), y: one.new, name: escapeText(one.arm),
      mode: "lines+markers", line: { color: one.color, width: 2 },
      hovertemplate: `<b>${escapeText(one.arm)}</b>, %{x}<br>%{y:,} new units<extra></extra>` }));
    plot("units", traces, { height: 300, ...legend(), yaxis: { rangemode: "tozero" }, xaxis: { type: "date", nticks: 6 } });
  }
  redraw(() => { effects(); units(); });
})();
