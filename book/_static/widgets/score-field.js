// Chapter 3: the exact score of the noisy ring as arrows, particles that flow back through it, and one point to try.
// The data come from the page: {times, a, b: one number a time, means: [[x1, x2], ...], std: of a blob,
// particles: [x1, x2, x1, ...] a time}.
(() => {
  "use strict";

  const SIDE = 420, REACH = 3.2; // the square shows -REACH ... REACH, both ways
  const CELL = (2 * REACH) / 14; // one arrow in each
  const DURATION = 6000; // milliseconds from noise to data
  const STEP = 0.1; // of an arrow key

  const place = (x) => ((x + REACH) / (2 * REACH)) * SIDE;
  const round = (x) => x.toFixed(2).replace("-", "\u2212");

  // The score of a mixture of equal blobs under noise: each pulls with the probability that the point is its own.
  function scoreAt(x, y, a, b, means, std) {
    const variance = a * a * std * std + b * b;
    const pulls = means.map(([m, n]) => [a * m - x, a * n - y]);
    const nearest = Math.min(...pulls.map(([m, n]) => m * m + n * n));
    const weights = pulls.map(([m, n]) => Math.exp((nearest - m * m - n * n) / (2 * variance)));
    const total = weights.reduce((sum, w) => sum + w);
    return [0, 1].map((axis) => pulls.reduce((sum, pull, k) => sum + weights[k] * pull[axis], 0) / total / variance);
  }

  function start(host, data) {
    const { element, shape, film, follow } = window.widgets;
    const last = data.times.length - 1;
    const controls = element("div", { className: "widget-controls" }, host);
    const label = element("label", { htmlFor: "score-field-t" }, controls);
    const slider = element("input", { type: "range", id: "score-field-t", min: 0, max: last, step: 1, value: 0 }, controls);
    const run = element("button", { type: "button", textContent: "Back to data \u25b6" }, controls);

    const picture = shape("svg", { viewBox: `0 0 ${SIDE} ${SIDE}`, role: "img", tabindex: 0, class: "widget-plot widget-square" }, host);
    const blobs = data.means.map(() => shape("circle", { class: "widget-end" }, picture));
    const grid = Array.from({ length: 14 }, (_, i) => -REACH + (i + 0.5) * CELL);
    const arrows = grid.flatMap((x) => grid.map((y) => ({ x, y, path: shape("path", { class: "widget-arrow" }, picture) })));
    const dots = data.particles[0].filter((_, i) => i % 2).map(() => shape("circle", { r: 3.5, class: "widget-dot" }, picture));
    const pull = shape("line", { class: "widget-cut" }, picture);
    const guess = shape("circle", { r: 6, class: "widget-guess" }, picture);
    const probe = shape("circle", { r: 5, class: "widget-probe" }, picture);
    const note = element("p", { className: "widget-note" }, host);
    note.setAttribute("aria-live", "polite");

    const tried = { x: 0.6, y: 1.4 };

    // An arrow along the score, as long as it is strong for a noisy blob of this width, bent so as to stay in its cell.
    function arrow(x, y, score, width) {
      const size = Math.hypot(...score) || 1;
      const length = (0.9 * CELL * width * size) / (0.5 + width * size);
      const [dx, dy] = score.map((part) => (part / size) * length);
      const [left, right] = [0.5, -0.5].map((turn) => {
        const [c, s] = [Math.cos(turn), Math.sin(turn)];
        return `${place(x + dx - 0.35 * (c * dx - s * dy)).toFixed(1)},${place(-(y + dy - 0.35 * (s * dx + c * dy))).toFixed(1)}`;
      });
      const tip = `${place(x + dx).toFixed(1)},${place(-(y + dy)).toFixed(1)}`;
      return `M ${place(x).toFixed(1)},${place(-y).toFixed(1)} L ${tip} M ${left} L ${tip} L ${right}`;
    }

    function draw() {
      const index = Number(slider.value);
      const [t, a, b] = [data.times[index], data.a[index], data.b[index]];
      label.textContent = `t = ${t}`;
      slider.setAttribute("aria-valuetext", `t = ${t}`);
      const width = Math.sqrt((a * data.std) ** 2 + b * b);
      blobs.forEach((blob, k) => {
        const [m, n] = data.means[k];
        for (const [name, value] of [["cx", place(a * m)], ["cy", place(-a * n)], ["r", place(2 * width) - place(0)]]) {
          blob.setAttribute(name, value.toFixed(1));
        }
      });
      for (const { x, y, path } of arrows) path.setAttribute("d", arrow(x, y, scoreAt(x, y, a, b, data.means, data.std), width));
      dots.forEach((dot, i) => {
        dot.setAttribute("cx", place(data.particles[index][2 * i]).toFixed(1));
        dot.setAttribute("cy", place(-data.particles[index][2 * i + 1]).toFixed(1));
      });
      const score = scoreAt(tried.x, tried.y, a, b, data.means, data.std);
      const [gx, gy] = [tried.x + b * b * score[0], tried.y + b * b * score[1]].map((part) => part / a);
      for (const [node, names, x, y] of [[probe, ["cx", "cy"], tried.x, tried.y], [guess, ["cx", "cy"], gx, gy],
                                         [pull, ["x1", "y1"], tried.x, tried.y], [pull, ["x2", "y2"], gx, gy]]) {
        node.setAttribute(names[0], place(x).toFixed(1));
        node.setAttribute(names[1], place(-y).toFixed(1));
      }
      note.textContent =
        `At (${round(tried.x)}, ${round(tried.y)}) the score is (${round(score[0])}, ${round(score[1])}), ` +
        `and the best guess of the clean point (${round(gx)}, ${round(gy)}).`;
      picture.setAttribute("aria-label", `The score of the noisy ring at t = ${t}. ${note.textContent} The arrow keys move the point`);
    }

    function move(x, y) {
      tried.x = Math.min(REACH, Math.max(-REACH, x));
      tried.y = Math.min(REACH, Math.max(-REACH, y));
      draw();
    }

    follow(picture, (x, y) => move((x / SIDE) * 2 * REACH - REACH, REACH - (y / SIDE) * 2 * REACH));
    picture.addEventListener("keydown", (event) => {
      const way = { ArrowLeft: [-STEP, 0], ArrowRight: [STEP, 0], ArrowUp: [0, STEP], ArrowDown: [0, -STEP] }[event.key];
      if (!way) return;
      event.preventDefault();
      move(tried.x + way[0], tried.y + way[1]);
    });
    const walk = film(slider, DURATION, draw);
    run.addEventListener("click", () => walk.toggle());
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("score-field", start));
})();
