// What the pages with plots share: plots in the colors of the page, sortable tables, choices, and redrawing when the
// reader's colors, the width or the medium change.
const report = (() => {
  "use strict";
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const narrow = matchMedia("(max-width: 40rem)");

  const css = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const escapeText = text => {
    const holder = document.createElement("span");
    holder.textContent = text;
    return holder.innerHTML;
  };
  const lines = (text, width) => text.split(" ").reduce((found, word) => {
    const longer = [...found.slice(-1), word].join(" "); // of the last line; a word that is too long is cut
    const pieces = longer.length > width ? [...found.slice(-1), ...word.match(new RegExp(`.{1,${width}}`, "gu")) || []] : [longer];
    return [...found.slice(0, -1), ...pieces];
  }, []);
  const wrapped = (text, width = 24) => lines(text, width).map(escapeText).join("<br>");
  const rows = names => Math.max(210,
    110 + names.length * Math.max(34, ...names.map(name => 8 + 15 * lines(name, 24).length)));

  function layout(more) {
    const ink = css("--ink"), line = css("--line");
    const axis = { gridcolor: line, linecolor: line, zerolinecolor: line, automargin: true, tickfont: { size: 12 } };
    const { xaxis, yaxis, ...rest } = more;
    return {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12.5, family: "system-ui, sans-serif" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: css("--soft"), activecolor: ink },
      margin: { l: 8, r: 16, t: 30, b: 8 }, showlegend: false, hoverlabel: { align: "left" },
      xaxis: { ...axis, ...xaxis }, yaxis: { ...axis, ...yaxis }, ...rest,
    };
  }
  function plot(id, traces, more) {
    const element = document.getElementById(id);
    const empty = !traces.some(trace => trace.x.length);
    element.closest("figure").hidden = empty;
    if (empty) { Plotly.purge(element); return; }
    const config = { responsive: true, displaylogo: false, displayModeBar: "hover",
      modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      toImageButtonOptions: { format: "svg", filename: id } };
    const { height, ...others } = more;
    element.style.height = height + "px"; // not in the layout, where a resized window would lose it
    Plotly.react(element, traces, layout(others), config);
  }
  const legend = () => ({ showlegend: true,
    legend: { orientation: "h", y: -0.26, yanchor: "top", x: 0, font: { size: 11.5 }, itemwidth: 30 } });

  const orders = new Map();
  function sortable(id, columns, lines, text, shownCell) {
    const order = orders.get(id), element = document.getElementById(id), rows = [...lines];
    if (order) {
      const value = cell => parseFloat(cell.replace(/,/g, "").replace("\u2212", "-").replace("<", ""));
      const unit = cell => ({ K: 1e3, M: 1e6, B: 1e9 })[cell.slice(-1)] || 1;
      rows.sort((a, b) => {
        const [x, y] = [a[order.column], b[order.column]];
        const [u, v] = [value(x) * unit(x), value(y) * unit(y)];
        const by = text(order.column) ? x.localeCompare(y) : Number.isNaN(u) ? 1 : Number.isNaN(v) ? -1 : u - v;
        return order.down && !Number.isNaN(u) && !Number.isNaN(v) ? -by : by;
      });
    }
    const head = columns.map((name, index) => {
      const sorted = order && order.column === index ? ` aria-sort="${order.down ? "descending" : "ascending"}"` : "";
      return `<th${text(index) ? " class=text" : ""}${sorted}><button type="button">${escapeText(name)}</button></th>`;
    });
    const cell = (value, index) => `<td${text(index) ? " class=text" : ""}>${shownCell(value, index)}</td>`;
    const body = rows.map(line => `<tr>${line.map(cell).join("")}</tr>`);
    element.innerHTML = `<table><thead><tr>${head.join("")}</tr></thead><tbody>${body.join("")}</tbody></table>`;
    element.querySelectorAll("th button").forEach((button, index) => button.addEventListener("click", () => {
      orders.set(id, { column: index, down: order && order.column === index ? !order.down : !text(index) });
      sortable(id, columns, lines, text, shownCell);
    }));
  }
  function choice(shown, name, title, values, changed) {
    const group = document.createElement("fieldset");
    group.className = "control";
    group.hidden = values.length < 2;
    group.innerHTML = `<legend>${title}</legend>` + values.map(([value, words], index) =>
      `<label><input type="radio" name="${name}" value="${escapeText(String(value))}"${index ? "" : " checked"}>`
      + `<span>${escapeText(words)}</span></label>`).join("");
    group.addEventListener("change", event => {
      const index = [...group.querySelectorAll("input")].indexOf(event.target);
      shown[name] = values[index][0];
      changed();
    });
    document.getElementById("controls").append(group);
  }
  function redraw(draw) {
    [dark, narrow, matchMedia("print")].forEach(query => query.addEventListener("change", draw));
    addEventListener("beforeprint", () => document.querySelectorAll("details").forEach(part => { part.open = true; }));
    draw();
  }

  return { choice, css, escapeText, legend, narrow, plot, redraw, rows, sortable, wrapped };
})();
