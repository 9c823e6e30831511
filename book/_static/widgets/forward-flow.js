// Chapter 2: the density of two blobs on its way into the bell, played forwards and back.
// The data come from the page: {times, x, density: one row a time, end: the bell, dots: one row a time}.
(() => {
  "use strict";

  const WIDTH = 640, HEIGHT = 260, FLOOR = 200, TOP = 10; // the curve stands between FLOOR and TOP, the dots below
  const DURATION = 4000; // milliseconds from one end to the other

  function start(host, data) {
    const { element, shape, film } = window.widgets;
    const last = data.times.length - 1;
    const [left, right] = [data.x[0], data.x[data.x.length - 1]];
    const highest = Math.max(...data.density.flat());
    const across = (x) => ((x - left) / (right - left)) * WIDTH;
    const up = (p) => FLOOR - (p / highest) * (FLOOR - TOP);
    const line = (row) => row.map((p, i) => `${across(data.x[i]).toFixed(2)},${up(p).toFixed(2)}`).join(" L ");

    const controls = element("div", { className: "widget-controls" }, host);
    const label = element("label", { htmlFor: "forward-flow-t" }, controls);
    const slider = element("input", { type: "range", id: "forward-flow-t", min: 0, max: last, step: 1 }, controls);
    slider.value = 0;
    const back = element("button", { type: "button", textContent: "\u25c0 Back" }, controls);
    const forwards = element("button", { type: "button", textContent: "Forwards \u25b6" }, controls);

    const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "widget-plot" }, host);
    shape("line", { x1: 0, x2: WIDTH, y1: FLOOR, y2: FLOOR, class: "widget-axis" }, picture);
    for (const x of [-2, -1, 0, 1, 2]) {
      const text = shape("text", { x: across(x), y: HEIGHT - 4, class: "widget-tick" }, picture);
      text.textContent = String(x).replace("-", "\u2212");
    }
    shape("path", { d: `M ${line(data.end)}`, class: "widget-end" }, picture);
    const curve = shape("path", { class: "widget-curve" }, picture);
    const dots = data.dots[0].map((_, i) => shape("circle", { cy: FLOOR + 10 + (i % 4) * 7, r: 3, class: "widget-dot" }, picture));
    element("p", { className: "widget-note", textContent: "Solid: the density of x at time t. Dashed: the bell. Below: some of the crowd." }, host);

    function draw() {
      const index = Number(slider.value);
      const t = data.times[index];
      label.textContent = `t = ${t}`;
      slider.setAttribute("aria-valuetext", `t = ${t} of ${data.times[last]}`);
      picture.setAttribute("aria-label", `The density of the two blobs at t = ${t}, above the bell of the end`);
      curve.setAttribute("d", `M ${across(left)},${FLOOR} L ${line(data.density[index])} L ${across(right)},${FLOOR} Z`);
      dots.forEach((dot, i) => dot.setAttribute("cx", across(data.dots[index][i]).toFixed(2)));
    }

    const move = film(slider, DURATION, draw);
    forwards.addEventListener("click", () => move.toggle(1));
    back.addEventListener("click", () => move.toggle(-1));
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("forward-flow", start));
})();
