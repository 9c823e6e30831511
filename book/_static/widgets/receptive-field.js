// Chapter 5: the receptive field of one output pixel of a stack, by its depth, kernel and strides.
// The data come from the page: {side, depths, kernels, halvings, stacks: {"depth kernel halvings": {r, most, operations,
// profile: the gradient along a row, one number a pixel}}}.
(() => {
  "use strict";

  // The field of a square kernel is the product of a row's profile and a column's, here from black to white by its
  // logarithm over four decades; a frame stands around all that is not zero.
  function paint(canvas, profile) {
    const side = canvas.width;
    const from = Math.floor((side - profile.length) / 2);
    const highest = Math.max(...profile) ** 2;
    const at = (place) => profile[place - from] || 0;
    const context = canvas.getContext("2d");
    const image = context.createImageData(side, side);
    for (let row = 0; row < side; row++) {
      for (let column = 0; column < side; column++) {
        const value = (at(row) * at(column)) / highest;
        const light = value > 0 ? Math.max(0.12, 1 + Math.log10(value) / 4) : 0;
        const rgb = value > 0 ? [60 + 190 * light, 110 * light + 90 * light ** 3, 200 - 140 * light] : [24, 26, 34];
        image.data.set([...rgb.map(Math.round), 255], 4 * (row * side + column));
      }
    }
    context.putImageData(image, 0, 0);
  }

  function start(host, data) {
    const { element } = window.widgets;
    const controls = ["depth", "kernel", "halvings"].map((what) => {
      const values = data[what === "depth" ? "depths" : what === "kernel" ? "kernels" : "halvings"];
      const line = element("div", { className: "widget-controls" }, host);
      const label = element("label", { htmlFor: `receptive-field-${what}` }, line);
      const slider = element(
        "input",
        { type: "range", id: `receptive-field-${what}`, min: 0, max: values.length - 1, step: 1, value: 0 },
        line,
      );
      slider.addEventListener("input", draw);
      return { what, values, label, slider };
    });
    const panel = element("div", { className: "widget-panel" }, element("div", { className: "widget-panels" }, host));
    const canvas = element("canvas", { width: data.side, height: data.side }, panel);
    canvas.setAttribute("role", "img");
    const note = element("div", { className: "widget-note" }, panel);
    note.setAttribute("aria-live", "polite");

    const spoken = {
      depth: (n) => `${n} layer${n === 1 ? "" : "s"}`,
      kernel: (k) => `kernel ${k} × ${k}`,
      halvings: (h) => `${h} stride${h === 1 ? "" : "s"} of 2`,
    };

    function draw() {
      const chosen = controls.map(({ what, values, label, slider }) => {
        const value = values[Number(slider.value)];
        label.textContent = spoken[what](value);
        slider.setAttribute("aria-valuetext", label.textContent);
        return value;
      });
      const stack = data.stacks[chosen.join(" ")];
      paint(canvas, stack.profile);
      note.textContent =
        `It sees ${stack.r} pixels in a row; ${stack.most} of them hold 95 % of the gradient. ` +
        `${stack.operations.toFixed(1)} thousand operations a pixel.`;
      canvas.setAttribute("aria-label", `The field of one output pixel. ${note.textContent}`);
    }

    controls[0].slider.value = 3;
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("receptive-field", start));
})();
