"use strict";
// Interactive curves: over steps, epochs or time, smoothed, on a logarithmic scale, with values under the pointer and zoom.
// Without JavaScript, the page shows static pictures instead.
(() => {
  const [WIDTH, HEIGHT, TOP, RIGHT, BOTTOM] = [302, 173, 12, 14, 34];
  const runs = JSON.parse(document.querySelector("main").dataset.runs);
  const longest = Math.max(0, ...runs.flatMap((run) => run.seconds));
  const [unit, seconds] = longest > 7200 ? ["h", 3600] : longest > 180 ? ["min", 60] : ["s", 1];
  const AXES = {
    step: ["optimizer step", (run, step) => step],
    epoch: ["epoch", (run, step) => (run.epoch ? (step + 1) / run.epoch : NaN)],
    time: [`wall clock, ${unit}`, (run, step) => clock(run, step) / seconds],
  };
  const form = document.querySelector(".controls");
  const charts = [...document.querySelectorAll("figure[data-curves]")].map((figure) => {
    const readout = figure.insertBefore(document.createElement("p"), figure.querySelector(".plot").nextSibling);
    readout.className = "readout";
    readout.setAttribute("aria-live", "polite");
    return { ...JSON.parse(figure.dataset.curves), plot: figure.querySelector(".plot"), readout };
  });
  let part = null; // the zoomed range of the axis: from, to

  function clock(run, step) { // seconds from the start to the end of a step, interpolated
    const after = run.steps.findIndex((known) => known >= step);
    if (!run.steps.length) return NaN;
    if (after < 0) return (run.seconds.at(-1) * (step + 1)) / (run.steps.at(-1) + 1);
    const [x, y] = after ? [run.steps[after - 1], run.seconds[after - 1]] : [-1, 0];
    return y + ((run.seconds[after] - y) * (step - x)) / (run.steps[after] - x);
  }

  function smoothed(values, weight) { // exponential moving average, without the bias to its start
    let [sum, mass] = [0, 0];
    return values.map((value) => {
      if (value === null) return null;
      [sum, mass] = [weight * sum + (1 - weight) * value, weight * mass + 1 - weight];
      return sum / mass;
    });
  }

  function ticks(low, high, log) {
    const found = [];
    if (log && high / low > 10) {
      for (let power = Math.floor(Math.log10(low)); 10 ** power <= high; power++)
        found.push(...(high / low > 1000 ? [1] : [1, 2, 5]).map((digit) => digit * 10 ** power));
      return found.filter((value) => value >= low && value <= high);
    }
    const power = 10 ** Math.floor(Math.log10((high - low) / 5));
    const step = power * [1, 2, 5, 10].find((digit) => digit * power >= (high - low) / 5.001);
    for (let n = Math.ceil(low / step); n * step <= high; n++) found.push(n * step);
    return found;
  }

  const text = (value, digits) => {
    const [from, size, unit] = [[1e6, 1e6, "M"], [1e4, 1e3, "k"], [0, 1, ""]].find(([from]) => Math.abs(value) >= from);
    return Number((value / size).toPrecision(digits)) + unit;
  };

  function add(parent, tag, attributes, content = "") {
    const node = parent.appendChild(document.createElementNS("http://www.w3.org/2000/svg", tag));
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.textContent = content;
    return node;
  }

  function range(values) { // of the plotted values, with a margin; never empty
    const [low, high] = [Math.min(...values), Math.max(...values)];
    return low < high ? [low, high] : [low - (Math.abs(low) || 1) / 10, high + (Math.abs(high) || 1) / 10];
  }

  function draw(chart) {
    const [label, place] = AXES[form.elements.axis.value];
    const weight = Number(form.elements.smooth.value);
    const lines = chart.series.map((each) => {
      const line = { ...each, x: each.x.map((step) => place(runs[each.run], step)), smooth: smoothed(each.y, weight) };
      line.seen = line.x.flatMap((x, at) => {
        const inside = Number.isFinite(x) && (!part || (x >= part[0] && x <= part[1]));
        return inside && line.y[at] !== null ? [at] : [];
      });
      return line;
    });
    const values = [...lines.flatMap((line) => line.seen.map((at) => line.smooth[at])), ...chart.chance];
    const [first, last] = range(lines.flatMap((line) => line.seen.map((at) => line.x[at])).concat(0));
    const [left, right] = part || [first, last + (last - first) * 0.02];
    const log = form.elements.log.checked && values.every((value) => value > 0);
    const scale = log ? Math.log : (value) => value;
    const [low, high] = range(values.length ? values : [0]).map(scale);
    const [bottom, top] = [low - (high - low) * 0.05, high + (high - low) * 0.05];
    const undo = log ? Math.exp : (value) => value;

    const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    for (const [name, value] of Object.entries({ viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", tabindex: 0 }))
      svg.setAttribute(name, value);
    svg.setAttribute("aria-label", chart.title);
    chart.plot.replaceChildren(svg);
    const marks = ticks(undo(bottom), undo(top), log);
    const names = marks.map((value) => add(svg, "text", { "text-anchor": "end" }, text(value, 6)));
    const LEFT = Math.max(24, ...names.map((name) => name.getComputedTextLength())) + 6;
    const across = (x) => LEFT + ((x - left) / (right - left)) * (WIDTH - LEFT - RIGHT);
    const down = (y) => TOP + ((top - scale(y)) / (top - bottom)) * (HEIGHT - TOP - BOTTOM);
    marks.forEach((value, at) => {
      names[at].setAttribute("x", LEFT - 4);
      names[at].setAttribute("y", down(value) + 3.5);
      add(svg, "path", { class: "grid", d: `M${LEFT} ${down(value)}H${WIDTH - RIGHT}` });
    });
    for (const value of ticks(left, right, false)) {
      add(svg, "text", { x: across(value), y: HEIGHT - BOTTOM + 13, "text-anchor": "middle" }, text(value, 4));
      add(svg, "path", { class: "grid", d: `M${across(value)} ${TOP}V${HEIGHT - BOTTOM}` });
    }
    add(svg, "text", { x: (LEFT + WIDTH - RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, label);
    const box = { x: LEFT, y: TOP, width: WIDTH - LEFT - RIGHT, height: HEIGHT - TOP - BOTTOM };
    const inner = add(svg, "svg", { ...box, viewBox: Object.values(box).join(" "), role: "none" }); // clips the curves
    for (const value of chart.chance) add(inner, "path", { class: "chance", d: `M${LEFT} ${down(value)}H${WIDTH}` });
    for (const line of lines) {
      const path = (ys) => line.seen.map((at, n) => `${n ? "L" : "M"}${across(line.x[at])} ${down(ys[at])}`).join("");
      const style = { class: "curve", stroke: line.colour };
      if (weight) add(inner, "path", { ...style, d: path(line.y), opacity: 0.25 });
      add(inner, "path", { ...style, d: path(line.smooth), "stroke-dasharray": line.dash });
      if (line.seen.length < 12)
        for (const at of line.seen)
          add(inner, "circle", { cx: across(line.x[at]), cy: down(line.smooth[at]), r: 1.8, fill: style.stroke });
    }
    const cursor = add(inner, "path", { class: "cursor" });
    const chosen = add(inner, "rect", { class: "chosen", y: TOP, height: box.height });
    listen(chart, svg, { lines, left, right, across, cursor, chosen, label, LEFT });
  }

  function listen(chart, svg, { lines, left, right, across, cursor, chosen, label, LEFT }) {
    let [begun, at] = [null, null];
    const under = (event) => {
      const box = svg.getBoundingClientRect();
      const x = ((event.clientX - box.left) / box.width) * WIDTH;
      return Math.min(right, Math.max(left, left + ((x - LEFT) / (WIDTH - LEFT - RIGHT)) * (right - left)));
    };
    const show = (x) => { // the nearest point of each curve
      const near = (line) => line.seen.reduce((a, b) => (Math.abs(line.x[b] - x) < Math.abs(line.x[a] - x) ? b : a));
      const found = lines.filter((line) => line.seen.length).map((line) => [line, near(line)]);
      if (!found.length) return;
      at = found.map(([line, n]) => line.x[n]).reduce((a, b) => (Math.abs(b - x) < Math.abs(a - x) ? b : a));
      cursor.setAttribute("d", `M${across(at)} ${TOP}V${HEIGHT - BOTTOM}`);
      const said = found.map(([line, n]) => `${line.name}: ${text(line.smooth[n], 4)}`);
      chart.readout.textContent = [`${label} ${text(at, 4)}`, ...said].join(" · ");
    };
    svg.onpointermove = (event) => {
      show(under(event));
      if (begun === null) return;
      const ends = [across(begun), across(under(event))].sort((a, b) => a - b);
      chosen.setAttribute("x", ends[0]);
      chosen.setAttribute("width", ends[1] - ends[0]);
    };
    svg.onpointerdown = (event) => {
      begun = under(event);
      svg.setPointerCapture(event.pointerId);
    };
    svg.onpointerup = (event) => {
      const ends = [begun, under(event)].sort((a, b) => a - b);
      if (begun !== null && across(ends[1]) - across(ends[0]) > 5) zoom(ends);
      begun = null;
    };
    svg.ondblclick = () => zoom(null);
    svg.onkeydown = (event) => {
      const points = [...new Set(lines.flatMap((line) => line.seen.map((n) => line.x[n])))].sort((a, b) => a - b);
      if (event.key === "Escape") zoom(null);
      if (event.key === "ArrowRight") show(points.find((x) => at === null || x > at) ?? points.at(-1));
      if (event.key === "ArrowLeft") show(points.findLast((x) => at === null || x < at) ?? points[0]);
    };
  }

  function zoom(to) {
    part = to;
    form.elements.all.hidden = !part;
    charts.forEach(draw);
  }

  form.hidden = false;
  form.elements.axis.forEach((radio) => {
    radio.disabled = !runs.some((run) => Number.isFinite(AXES[radio.value][1](run, 0)));
    radio.onchange = () => zoom(null);
  });
  form.oninput = (event) => event.target.name !== "axis" && charts.forEach(draw);
  form.elements.all.onclick = () => zoom(null);
  charts.forEach(draw);
})();
