"use strict";
(() => {
  const all = JSON.parse(document.getElementById("numbers").textContent);
  const $ = (id) => document.getElementById(id);
  const pick = ["experiment", "data", "wd", "layer", "metric", "x"];
  const axisTitle = { tau: "τ = Σ lr / (1 − momentum)", step: "step", epoch: "epoch", layer: "layer (its input)" };
  const fmt = (v) => (v === null || v === undefined ? "–" : Number(v).toPrecision(3).replace(/\.?0+(e|$)/, "$1"));

  function fill(select, values, label = (v) => v, preferred = null) {
    const before = select.value;
    select.replaceChildren(...values.map((v) => new Option(label(v), v)));
    const keys = values.map(String);
    if (keys.includes(before)) select.value = before;
    else if (preferred !== null && keys.includes(String(preferred))) select.value = preferred;
  }

  const runsHere = () => all.experiments[$("experiment").value][$("data").value];
  const chosen = () => runsHere().filter((r) => $("wd").value === "all" || String(r.wd) === $("wd").value);
  const unique = (list) => [...new Set(list)];

  function options() {
    const experiments = Object.keys(all.experiments);
    const first = experiments.find((e) => e.startsWith("prevalence-")) || experiments[0];
    fill($("experiment"), experiments, undefined, first);
    fill($("data"), Object.keys(all.experiments[$("experiment").value]), (d) => all.labels[$("experiment").value][d]);
    const decays = unique(runsHere().map((r) => r.wd)).sort((a, b) => b - a);
    fill($("wd"), ["all", ...decays], (v) => (v === "all" ? "all" : `λ = ${v}`));
    const layers = Object.keys(runsHere()[0].layers);
    const inner = layers.filter((name) => !name.includes(":"));
    fill($("layer"), layers, undefined, inner[inner.length - 1]);
    const metrics = unique(chosen().flatMap((r) => Object.keys(r.layers[$("layer").value] || {}))).sort();
    fill($("metric"), metrics, undefined, metrics.includes("nrc1") ? "nrc1" : "noise");
    $("layer").disabled = $("x").value === "layer";
  }

  function curve(run, metric) {
    if ($("x").value !== "layer") return { x: run[$("x").value], y: (run.layers[$("layer").value] || {})[metric] };
    const names = Object.keys(run.layers).filter((name) => !name.includes(":") && run.layers[name][metric]);
    return { x: names, y: names.map((name) => run.layers[name][metric].at(-1)) };
  }

  function mean(curves, log) {
    const x = curves[0].x;
    const y = x.map((_, i) => {
      const v = curves.map((c) => c.y[i]).filter((value) => value !== null && value !== undefined);
      if (v.length < curves.length) return null;
      if (log && v.every((value) => value > 0)) return Math.exp(v.reduce((a, b) => a + Math.log(b), 0) / v.length);
      return v.reduce((a, b) => a + b, 0) / v.length;
    });
    return { x, y };
  }

  function colour(wd, decays, dark, ink) {
    if (wd === 0) return ink;
    const positive = decays.filter((v) => v > 0);
    const share = positive.length > 1 ? positive.indexOf(wd) / (positive.length - 1) : 0.35;
    const place = dark ? 1 - 0.7 * share : 0.88 * share;
    return all.viridis[Math.round(place * (all.viridis.length - 1))];
  }

  function draw() {
    options();
    const css = getComputedStyle(document.documentElement);
    const ink = css.getPropertyValue("--text").trim(), line = css.getPropertyValue("--line").trim();
    const dark = matchMedia("(prefers-color-scheme: dark)").matches;
    const metric = $("metric").value, logy = $("logy").checked, layerwise = $("x").value === "layer";
    const decays = unique(runsHere().map((r) => r.wd)).sort((a, b) => b - a);
    const runs = chosen().filter((r) => (curve(r, metric).y || []).length);
    const traces = [];
    const groups = unique(runs.map((r) => `${r.wd}|${r.protocol}`));
    const protocols = unique(runs.map((r) => r.protocol));
    for (const key of groups) {
      const mine = runs.filter((r) => `${r.wd}|${r.protocol}` === key);
      const { wd, protocol } = mine[0];
      const shade = colour(wd, decays, dark, ink);
      const name = `λ = ${wd}` + (protocols.length > 1 ? `, ${protocol}` : "");
      const dash = wd === 0 ? "dash" : protocols.indexOf(protocol) > 0 ? "dot" : "solid";
      const mode = layerwise || mine[0].step.length < 8 ? "lines+markers" : "lines";
      const about = (seed) => `${name}, ${seed}<br>%{x}: %{y:.4g}<extra></extra>`;
      if (mine.length > 1)
        for (const r of mine)
          traces.push({ ...curve(r, metric), mode, line: { color: shade, width: 1, dash }, opacity: 0.5, showlegend: false, hovertemplate: about(`seed ${r.seed}`) });
      const curves = mine.map((r) => curve(r, metric));
      traces.push({ ...mean(curves, logy), mode, name, line: { color: shade, width: 2.6, dash }, hovertemplate: about(mine.length > 1 ? `mean of ${mine.length} seeds` : `seed ${mine[0].seed}`) });
      const nulls = mine.map((r) => curve(r, `${metric}_null`)).filter((c) => (c.y || []).length);
      if (nulls.length)
        traces.push({ ...mean(nulls, logy), mode: "lines", name: `${name}, null`, line: { color: shade, width: 1.4, dash: "dot" }, hovertemplate: about("null") });
    }
    const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true, exponentformat: "power" };
    const narrow = $("plot").clientWidth < 560;
    const legend = narrow ? { orientation: "h", y: -0.25 } : {};
    Plotly.react($("plot"), traces, {
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, family: getComputedStyle(document.body).fontFamily, size: 13 },
      margin: { l: 60, r: 15, t: 36, b: 50 }, modebar: { bgcolor: "rgba(0,0,0,0)", color: ink, activecolor: ink }, hovermode: "closest", showlegend: true, legend,
      xaxis: { ...axis, exponentformat: "none", separatethousands: true, title: { text: axisTitle[$("x").value] }, type: layerwise ? "category" : $("logx").checked ? "log" : "linear" },
      yaxis: { ...axis, title: { text: metric }, type: logy ? "log" : "linear" },
    }, { responsive: true, displaylogo: false, modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]] });
    const log = $("logx").checked && !layerwise ? " (the start, at 0, has no place on a log axis)" : "";
    $("about").textContent = `${metric}: ${all.about[metric.replace(" (test)", "")] || "see the README"}${log}`;
    table(runs, metric);
  }

  function table(runs, metric) {
    const layerwise = $("x").value === "layer";
    $("first").textContent = layerwise ? "First layer" : "Start";
    $("last").textContent = layerwise ? "Last layer" : "End";
    $("values").querySelector("tbody").replaceChildren(...runs.map((r) => {
      const y = curve(r, metric).y, known = y.filter((v) => v !== null);
      const row = document.createElement("tr");
      const ends = [y[0], known.length ? Math.min(...known) : null, known.length ? Math.max(...known) : null, y.at(-1)];
      row.append(...[r.wd, r.protocol, r.seed, ...ends.map(fmt)].map((v) => {
        const cell = document.createElement("td");
        cell.textContent = v;
        return cell;
      }));
      return row;
    }));
  }

  if (!Object.keys(all.experiments).length) {
    $("controls").hidden = true;
    $("about").textContent = "There are no finished runs yet.";
    return;
  }
  for (const id of pick) $(id).addEventListener("change", draw);
  for (const id of ["logx", "logy"]) $(id).addEventListener("change", draw);
  $("controls").addEventListener("submit", (event) => event.preventDefault());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
  draw();
})();
