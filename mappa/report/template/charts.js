"use strict";
// The charts, by Plotly, which the page carries along; its lines are in `charts`.

const NONCE = document.currentScript.nonce;
const SEATS = ["#4c78a8", "#c9772f", "#4f9a54", "#9a6aa8", "#8a6d5a", "#4aa3a0", "#b8567a", "#7d8a3c"];
let charts = {};
function drawCharts() {
  if (!window.Plotly) return;
  const css = getComputedStyle(document.documentElement);
  const ink = css.getPropertyValue("--ink"), quiet = css.getPropertyValue("--quiet"), line = css.getPropertyValue("--line");
  for (const name of ["curve", "tokens", "phases"]) {
    const figure = $(`chart-${name}`).parentElement;
    figure.hidden = !charts[name];
    if (!charts[name]) continue;
    let seat = 0;
    const traces = charts[name].map((given) => {
      const colour = given.held ? ink : SEATS[seat++ % SEATS.length];
      const trace = { name: given.name + (given.other ? " (the other run)" : ""), x: given.x, y: given.y };
      if (name === "phases") return { ...trace, type: "bar", marker: { color: colour } };
      const dash = given.other ? "dot" : "solid";
      Object.assign(trace, { mode: "lines+markers", line: { color: colour, width: given.held ? 2.5 : 1.5, dash }, marker: { size: given.held ? 7 : 4 } });
      if (given.low) {
        const up = given.high.map((high, i) => high - given.y[i]), down = given.low.map((low, i) => given.y[i] - low);
        trace.error_y = { type: "data", symmetric: false, array: up, arrayminus: down, color: colour, thickness: 1.2, width: 3 };
      }
      return trace;
    });
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, tickcolor: line };
    const layout = {
      margin: { l: 42, r: 8, t: 6, b: 34 }, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)", barmode: "stack",
      font: { color: quiet, size: 12, family: "system-ui, sans-serif" }, hovermode: "x unified", hoverlabel: { bgcolor: css.getPropertyValue("--card"), font: { color: ink } },
      xaxis: { ...axis, title: { text: "epoch", standoff: 4 }, rangemode: "tozero", tickformat: "d", ...whole(traces) }, yaxis: { ...axis, rangemode: "tozero" },
      showlegend: name !== "tokens" || traces.length > 1, legend: { orientation: "h", y: -0.22, font: { size: 11 } },
    };
    if (name === "curve") layout.yaxis.range = [0, 1.02];
    window.Plotly.react($(`chart-${name}`), traces, layout, { responsive: true, displaylogo: false, displayModeBar: false });
  }
}
function whole(traces) {  // few epochs: a tick each, none between
  const longest = Math.max(...traces.flatMap((trace) => trace.x));
  return longest <= 8 ? { dtick: 1 } : {};
}
async function loadCharts() {
  const script = el("script", { nonce: NONCE });
  script.textContent = await unpack("plotly");
  document.head.append(script);
  drawCharts();
}
