// Chapter 2: one digit, noised to the time that a slider chooses, under every schedule at once.
// The data come from the page: {pixels, side, times, alpha_bar: {schedule: one number a time}, start}.
(() => {
  "use strict";

  // A small generator with a seed (mulberry32), so that the picture is the same on every visit.
  function uniform(seed) {
    return () => {
      seed = (seed + 0x6d2b79f5) | 0;
      let z = Math.imul(seed ^ (seed >>> 15), 1 | seed);
      z = (z + Math.imul(z ^ (z >>> 7), 61 | z)) ^ z;
      return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
    };
  }

  // Standard normal numbers, two at a time (Box and Muller).
  function normals(count, seed) {
    const random = uniform(seed);
    const out = new Float64Array(count);
    for (let i = 0; i < count; i += 2) {
      const radius = Math.sqrt(-2 * Math.log(1 - random()));
      const angle = 2 * Math.PI * random();
      out[i] = radius * Math.cos(angle);
      if (i + 1 < count) out[i + 1] = radius * Math.sin(angle);
    }
    return out;
  }

  const minus = (text) => text.replace("-", "\u2212");
  const threeDigits = (x) => (x >= 0.1 ? x.toFixed(4) : x >= 0.001 ? x.toFixed(5) : minus(x.toExponential(2)));
  const logSnr = (alphaBar) => Math.log(alphaBar / (1 - alphaBar));

  // x_t = a x_0 + b eps, from [-1, 1] to grey levels, clipped as an image has to be.
  function paint(canvas, x0, eps, alphaBar) {
    const a = Math.sqrt(alphaBar);
    const b = Math.sqrt(1 - alphaBar);
    const context = canvas.getContext("2d");
    const image = context.createImageData(canvas.width, canvas.height);
    for (let i = 0; i < x0.length; i++) {
      const grey = Math.round(127.5 * (Math.min(1, Math.max(-1, a * x0[i] + b * eps[i])) + 1));
      image.data.set([grey, grey, grey, 255], 4 * i);
    }
    context.putImageData(image, 0, 0);
  }

  function start(host, data) {
    const { element } = window.widgets;
    const x0 = data.pixels.map((byte) => byte / 127.5 - 1);
    let seed = 2;
    let eps = normals(x0.length, seed);

    const controls = element("div", { className: "widget-controls" }, host);
    const label = element("label", { htmlFor: "forward-slider-t" }, controls);
    const last = data.times.length - 1;
    const slider = element("input", { type: "range", id: "forward-slider-t", min: 0, max: last, step: 1 }, controls);
    slider.value = Math.max(0, data.times.indexOf(data.start));
    const again = element("button", { type: "button", textContent: "New noise" }, controls);

    const grid = element("div", { className: "widget-panels" }, host);
    const panels = Object.entries(data.alpha_bar).map(([name, alphaBar]) => {
      const panel = element("div", { className: "widget-panel" }, grid);
      const canvas = element("canvas", { width: data.side, height: data.side }, panel);
      canvas.setAttribute("role", "img");
      element("strong", { textContent: name }, panel);
      const numbers = ["ᾱ", "log-SNR"].map((what) => {
        const line = element("div", { textContent: `${what} ` }, panel);
        return element("span", {}, line);
      });
      return { name, alphaBar, canvas, numbers };
    });

    function draw() {
      const index = Number(slider.value);
      const t = data.times[index];
      label.textContent = `t = ${t}`;
      slider.setAttribute("aria-valuetext", `t = ${t} of ${data.times[last]}`);
      for (const { name, alphaBar, canvas, numbers } of panels) {
        const here = alphaBar[index];
        const lambda = logSnr(here);
        paint(canvas, x0, eps, here);
        numbers[0].textContent = threeDigits(here);
        numbers[1].textContent = Number.isFinite(lambda) ? minus(lambda.toFixed(2)) : "∞";
        canvas.setAttribute("aria-label", `The digit at t = ${t} under the ${name} schedule`);
      }
    }

    slider.addEventListener("input", draw);
    again.addEventListener("click", () => {
      eps = normals(x0.length, ++seed);
      draw();
    });
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("forward-slider", start));
})();
