// Chapter 0: a cloud of pairs (x_t, x0), cut at what is seen; beside it the slice, a bell that moves and never widens.
// The data come from the page: {signal: {a: [...], b: [...]}, seen: [...], pairs: [[x0, eps], ...], start: {signal, seen}}.
(() => {
  "use strict";

  const SIDE = 320, REACH = 3.2; // the square shows -REACH ... REACH, both ways
  const ASIDE = 150; // the width of the bells, whose height is that of the square
  const FINE = Array.from({ length: 121 }, (_, i) => -REACH + (i * 2 * REACH) / 120);

  const normal = (x, mean, std) => Math.exp(-0.5 * ((x - mean) / std) ** 2) / (std * Math.sqrt(2 * Math.PI));
  const round = (x) => x.toFixed(2).replace("-", "\u2212");

  function start(host, data) {
    const { element, shape, follow } = window.widgets;
    const { a, b } = data.signal;
    const across = (x) => ((x + REACH) / (2 * REACH)) * SIDE;
    const up = (x) => SIDE - across(x);

    const [seen, signal] = ["seen", "signal"].map((what) => {
      const line = element("div", { className: "widget-controls" }, host);
      const label = element("label", { htmlFor: `conditional-gaussian-${what}` }, line);
      const last = (what === "seen" ? data.seen : a).length - 1;
      const slider = element(
        "input",
        { type: "range", id: `conditional-gaussian-${what}`, min: 0, max: last, step: 1, value: data.start[what] },
        line,
      );
      slider.addEventListener("input", draw);
      return { label, slider };
    });

    const panels = element("div", { className: "widget-beside" }, host);
    const picture = shape("svg", { viewBox: `0 0 ${SIDE} ${SIDE + 18}`, role: "img", class: "widget-plot" }, panels);
    for (const x of [-2, 0, 2]) {
      shape("line", { x1: across(x), x2: across(x), y1: 0, y2: SIDE, class: "widget-axis" }, picture);
      shape("line", { x1: 0, x2: SIDE, y1: up(x), y2: up(x), class: "widget-axis" }, picture);
    }
    shape("text", { x: SIDE - 4, y: SIDE + 14, class: "widget-tick", style: "text-anchor: end" }, picture, "what is seen, x\u209c");
    shape("text", { x: 4, y: 14, class: "widget-tick", style: "text-anchor: start" }, picture, "x\u2080");
    const dots = data.pairs.map(([x0]) => shape("circle", { cy: up(x0).toFixed(1), r: 2.5, class: "widget-dot" }, picture));
    const edge = shape("path", { class: "widget-trail" }, picture);
    const line = shape("line", { x1: 0, x2: SIDE, class: "widget-line" }, picture);
    const cut = shape("line", { y1: 0, y2: SIDE, class: "widget-cut" }, picture);
    const guess = shape("circle", { r: 6, class: "widget-guess" }, picture);

    const aside = shape("svg", { viewBox: `0 0 ${ASIDE} ${SIDE + 18}`, role: "img", class: "widget-plot" }, panels);
    const out = (p) => (p / 1.1) * ASIDE; // densities up to 1.1 have room; a higher bell is drawn to its own top
    const path = (p) => FINE.map((x) => `${out(p(x)).toFixed(2)},${up(x).toFixed(2)}`).join(" L ");
    shape("path", { d: `M ${path((x) => normal(x, 0, 1))}`, class: "widget-end" }, aside);
    const bell = shape("path", { class: "widget-curve" }, aside);
    shape("text", { x: ASIDE / 2, y: SIDE + 14, class: "widget-tick" }, aside, "the slice");
    const note = element("p", { className: "widget-note" }, host);
    note.setAttribute("aria-live", "polite");

    function draw() {
      const [of, at] = [Number(signal.slider.value), Number(seen.slider.value)];
      const [alpha, noise, xt] = [a[of], b[of], data.seen[at]];
      const mean = alpha * xt; // Cov(x_t, x0) / Var x_t = a, since both have variance one
      seen.label.textContent = `seen ${round(xt)}`;
      signal.label.textContent = `a = ${round(alpha)}`;
      seen.slider.setAttribute("aria-valuetext", `x t is ${xt}`);
      signal.slider.setAttribute("aria-valuetext", `signal ${alpha}, noise ${noise}`);
      dots.forEach((dot, i) => dot.setAttribute("cx", across(alpha * data.pairs[i][0] + noise * data.pairs[i][1]).toFixed(1)));
      const turn = Array.from({ length: 73 }, (_, i) => (i * Math.PI) / 36);
      const ring = turn.map((w) => `${across(2 * (alpha * Math.cos(w) + noise * Math.sin(w))).toFixed(1)},${up(2 * Math.cos(w)).toFixed(1)}`);
      edge.setAttribute("d", `M ${ring.join(" L ")} Z`);
      line.setAttribute("y1", up(-REACH * alpha).toFixed(2));
      line.setAttribute("y2", up(REACH * alpha).toFixed(2));
      for (const end of ["x1", "x2"]) cut.setAttribute(end, across(xt).toFixed(2));
      guess.setAttribute("cx", across(xt).toFixed(2));
      guess.setAttribute("cy", up(mean).toFixed(2));
      const high = Math.max(1, normal(0, 0, noise) / 1.05);
      bell.setAttribute("d", `M 0,${up(-REACH)} L ${path((x) => normal(x, mean, noise) / high)} L 0,${up(REACH)} Z`);
      note.textContent = `Before the look x\u2080 was 0 \u00b1 1. Now it is ${round(mean)} \u00b1 ${round(noise)}.`;
      picture.setAttribute("aria-label", `A cloud of pairs, its regression line of slope ${round(alpha)}, and a cut at ${round(xt)}`);
      aside.setAttribute("aria-label", `The slice: a bell at ${round(mean)} of standard deviation ${round(noise)}. Dashed: before the look`);
    }

    const nearest = (x) => data.seen.reduce((best, value, i) => (Math.abs(value - x) < Math.abs(data.seen[best] - x) ? i : best), 0);
    follow(picture, (x) => {
      seen.slider.value = nearest((x / SIDE) * 2 * REACH - REACH);
      draw();
    });
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("conditional-gaussian", start));
})();
