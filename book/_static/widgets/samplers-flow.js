// Chapter 7: particles on their way to the ring, by sampler and evaluations, and how far from the ODE's end they land.
// The data come from the page: {evaluations, walks: {sampler: {evaluations: [x1, x2, x1, …] a frame}},
// errors: {sampler: one for each of evaluations, or null}}.
(() => {
  "use strict";

  const SIDE = 320, REACH = 3.2; // the square shows -REACH … REACH
  const WIDTH = 320, HEIGHT = 200, LEFT = 34, BOTTOM = 170; // the chart of errors
  const DURATION = 2500; // milliseconds from noise to data

  function start(host, data) {
    const { element, shape, film } = window.widgets;
    const chosen = { sampler: Object.keys(data.walks)[1], evaluations: data.evaluations[0] };
    const frames = () => data.walks[chosen.sampler][chosen.evaluations];

    function choices(name, values) {
      const row = element("div", { className: "widget-controls", role: "group" }, host);
      row.setAttribute("aria-label", name);
      element("span", { className: "widget-name", textContent: name }, row);
      return values.map((value) => {
        const button = element("button", { type: "button", textContent: value }, row);
        button.addEventListener("click", () => choose(name, value));
        return button;
      });
    }
    const buttons = { sampler: choices("sampler", Object.keys(data.walks)), evaluations: choices("evaluations", data.evaluations) };

    const controls = element("div", { className: "widget-controls" }, host);
    const label = element("label", { htmlFor: "samplers-flow-step" }, controls);
    const slider = element("input", { type: "range", id: "samplers-flow-step", min: 0, step: 1 }, controls);
    const run = element("button", { type: "button", textContent: "Run \u25b6" }, controls);

    const panels = element("div", { className: "widget-pair" }, host);
    const picture = shape("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", class: "widget-plot" }, panels);
    const place = (x) => ((x + REACH) / (2 * REACH)) * SIDE;
    for (let k = 0; k < 8; k += 1) {
      const angle = (2 * Math.PI * k) / 8;
      shape("circle", { cx: place(2 * Math.cos(angle)), cy: place(-2 * Math.sin(angle)), r: (0.3 * SIDE) / (2 * REACH), class: "widget-end" }, picture);
    }
    const count = frames()[0].length / 2;
    const trails = Array.from({ length: count }, () => shape("path", { class: "widget-trail" }, picture));
    const dots = Array.from({ length: count }, () => shape("circle", { r: 4, class: "widget-dot" }, picture));

    const chart = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "widget-plot" }, panels);
    const all = Object.values(data.errors).filter(Boolean).flat().map(Math.log10);
    const [low, high] = [Math.floor(Math.min(...all)), Math.ceil(Math.max(...all))];
    const across = (i) => LEFT + 14 + (i / (data.evaluations.length - 1)) * (WIDTH - LEFT - 34);
    const up = (error) => 10 + ((high - Math.log10(error)) / (high - low)) * (BOTTOM - 20);
    for (let power = low; power <= high; power += 1) {
      shape("line", { x1: LEFT, x2: WIDTH, y1: up(10 ** power), y2: up(10 ** power), class: "widget-axis" }, chart);
      shape("text", { x: LEFT - 16, y: up(10 ** power) + 5, class: "widget-tick" }, chart, `${10 ** power}`.replace("0.", "."));
    }
    data.evaluations.forEach((n, i) => shape("text", { x: across(i), y: BOTTOM + 12, class: "widget-tick" }, chart, n));
    const lines = Object.fromEntries(Object.entries(data.errors).filter(([, row]) => row).map(([name, row]) => [
      name, shape("path", { d: `M ${row.map((e, i) => `${across(i).toFixed(1)},${up(e).toFixed(1)}`).join(" L ")}` }, chart)]));
    const here = shape("circle", { r: 5, class: "widget-dot" }, chart);
    const note = element("p", { className: "widget-note" }, host);

    function draw() {
      const step = Number(slider.value), walk = frames();
      const { sampler, evaluations } = chosen;
      label.textContent = `step ${step} of ${walk.length - 1}`;
      slider.setAttribute("aria-valuetext", label.textContent);
      for (const [name, row] of Object.entries(buttons))
        for (const button of row) button.setAttribute("aria-pressed", button.textContent === String(chosen[name]));
      dots.forEach((dot, i) => {
        const points = walk.slice(0, step + 1).map((frame) => `${place(frame[2 * i]).toFixed(1)},${place(-frame[2 * i + 1]).toFixed(1)}`);
        const [x, y] = points[step].split(",");
        dot.setAttribute("cx", x);
        dot.setAttribute("cy", y);
        trails[i].setAttribute("d", `M ${points.join(" L ")}`);
      });
      for (const [name, line] of Object.entries(lines)) line.setAttribute("class", name === sampler ? "widget-line" : "widget-end");
      const errors = data.errors[sampler], which = data.evaluations.indexOf(evaluations);
      here.style.display = errors ? "" : "none";
      if (errors) {
        here.setAttribute("cx", across(which).toFixed(1));
        here.setAttribute("cy", up(errors[which]).toFixed(1));
      }
      note.textContent = errors
        ? `${sampler}, ${evaluations} evaluations: the typical particle ends ${Number(errors[which].toPrecision(2))} from where the ODE leads it.`
        : `${sampler} draws noise on its way, so its particles have no place where they should end.`;
      picture.setAttribute("aria-label", `Particles of ${sampler} after ${label.textContent}, and the eight blobs`);
      chart.setAttribute("aria-label", `Error against evaluations. ${note.textContent}`);
    }

    function choose(name, value) {
      const share = Number(slider.value) / Number(slider.max);
      walking.stop();
      chosen[name] = value;
      slider.max = frames().length - 1;
      slider.value = Math.round(share * Number(slider.max));
      draw();
    }

    slider.max = frames().length - 1;
    slider.value = slider.max; // begin with the result
    const walking = film(slider, DURATION, draw);
    run.addEventListener("click", () => walking.toggle());
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("samplers-flow", start));
})();
