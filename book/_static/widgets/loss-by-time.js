// Chapter 4: one network under several trainings. Above, its loss by time over the floor; below, its regret.
// The data come from the page: {times, floor: one number a time, runs: [{name, regret: one number a time}, …]}.
(() => {
  "use strict";

  const WIDTH = 640, HEIGHT = 452, LEFT = 46, RIGHT = 630;
  const LOSS = { top: 24, bottom: 214, most: 1.2 }; // the panel above, from 0
  const REGRET = { top: 264, bottom: 414, powers: [-5, 0] }; // the panel below, in powers of ten
  const LEAST = 10 ** REGRET.powers[0];

  function start(host, data) {
    const { element, shape } = window.widgets;
    const last = data.times.length - 1;
    const across = (t) => LEFT + ((RIGHT - LEFT) * Math.log(t)) / Math.log(data.times[last]);
    const up = (loss) => LOSS.bottom - (loss / LOSS.most) * (LOSS.bottom - LOSS.top);
    const [low, high] = REGRET.powers;
    const upRegret = (regret) =>
      REGRET.bottom - ((Math.log10(Math.max(regret, LEAST)) - low) / (high - low)) * (REGRET.bottom - REGRET.top);
    const line = (row, height) => row.map((value, i) => `${across(data.times[i]).toFixed(2)},${height(value).toFixed(2)}`);

    const controls = element("div", { className: "widget-controls" }, host);
    const buttons = data.runs.map((run, i) => {
      const button = element("button", { type: "button", textContent: run.name }, controls);
      button.addEventListener("click", () => choose(i));
      return button;
    });
    const times = element("div", { className: "widget-controls" }, host);
    const label = element("label", { htmlFor: "loss-by-time-t" }, times);
    const slider = element("input", { type: "range", id: "loss-by-time-t", min: 0, max: last, step: 1 }, times);
    slider.value = Math.round(last / 3);
    const numbers = element("output", { htmlFor: "loss-by-time-t", className: "widget-numbers" }, times);

    const picture = shape("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "widget-plot" }, host);
    const text = (x, y, content, anchor = "middle") => {
      shape("text", { x, y, class: "widget-tick", style: `text-anchor: ${anchor}` }, picture).textContent = content;
    };
    text(LEFT, 14, "loss: the floor, dashed, and the regret on it", "start");
    text(LEFT, REGRET.top - 10, "regret, in powers of ten; dashed: the simple loss", "start");
    for (const panel of [LOSS, REGRET]) {
      shape("line", { x1: LEFT, x2: RIGHT, y1: panel.bottom, y2: panel.bottom, class: "widget-axis" }, picture);
    }
    for (const t of [1, 10, 100, 1000]) text(across(t), HEIGHT - 20, `t = ${t}`, t === 1000 ? "end" : "middle");
    for (const loss of [0, 0.5, 1]) text(LEFT - 8, up(loss) + 5, String(loss), "end");
    for (const power of [-4, -2, 0]) {
      text(LEFT - 8, upRegret(10 ** power) + 5, power < -2 ? `1e${power}` : String(10 ** power), "end");
    }
    const floor = line(data.floor, up);
    shape("path", { d: `M ${floor.join(" L ")}`, class: "widget-end" }, picture);
    const simple = data.runs.find((run) => run.name === "simple");
    shape("path", { d: `M ${line(simple.regret, upRegret).join(" L ")}`, class: "widget-end" }, picture);
    const strip = shape("path", { class: "widget-curve widget-strip" }, picture);
    const below = shape("path", { class: "widget-curve widget-regret", style: "fill: none" }, picture);
    const mark = shape("line", { y1: LOSS.top, y2: REGRET.bottom, class: "widget-axis" }, picture);

    let chosen = data.runs.indexOf(simple);

    function choose(run) {
      chosen = run;
      draw();
    }

    function draw() {
      const run = data.runs[chosen];
      const index = Number(slider.value);
      const [t, least, regret] = [data.times[index], data.floor[index], run.regret[index]];
      buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === chosen)));
      const loss = line(run.regret.map((value, i) => value + data.floor[i]), up);
      strip.setAttribute("d", `M ${loss.join(" L ")} L ${[...floor].reverse().join(" L ")} Z`);
      below.setAttribute("d", `M ${line(run.regret, upRegret).join(" L ")}`);
      mark.setAttribute("x1", across(t));
      mark.setAttribute("x2", across(t));
      label.textContent = `t = ${t}`;
      numbers.textContent = `floor ${least.toFixed(3)} + regret ${regret.toFixed(4)} = loss ${(least + regret).toFixed(3)}`;
      slider.setAttribute("aria-valuetext", `t = ${t}: ${numbers.textContent}`);
      picture.setAttribute("aria-label", `Loss and regret by time of the network trained with: ${run.name}`);
    }

    slider.addEventListener("input", draw);
    draw();
  }

  document.addEventListener("DOMContentLoaded", () => window.widgets.fill("loss-by-time", start));
})();
