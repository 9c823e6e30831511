// What the interactive figures share. Each file of widgets/ fills one place of a page, once the page has been read:
// it draws with `element` and `shape`, and may have a film that moves its slider and a picture that follows a finger.
window.widgets = (() => {
  "use strict";

  const SVG = "http://www.w3.org/2000/svg";

  function element(tag, properties, parent) {
    const node = Object.assign(document.createElement(tag), properties);
    if (parent) parent.append(node);
    return node;
  }

  function shape(tag, attributes, parent, text) {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    if (text !== undefined) node.textContent = text;
    parent.append(node);
    return node;
  }

  // Moves a slider from one end to the other in so many milliseconds. A hand on the slider stops it.
  function film(slider, duration, draw) {
    let playing = null; // the run that is on, or none

    function play(direction) {
      const last = Number(slider.max);
      const from = direction > 0 ? 0 : last;
      if (Number(slider.value) === last - from) slider.value = from; // at this end already: begin at the other
      let place = Number(slider.value);
      const mine = (playing = {});
      let before = performance.now();
      requestAnimationFrame(function frame(now) {
        if (playing !== mine) return;
        place += (direction * last * Math.max(0, now - before)) / duration;
        before = now;
        slider.value = Math.round(Math.min(last, Math.max(0, place)));
        draw();
        if (direction > 0 ? place < last : place > 0) requestAnimationFrame(frame);
        else playing = null;
      });
    }

    slider.addEventListener("input", () => {
      playing = null;
      draw();
    });
    return {
      stop: () => (playing = null),
      toggle: (direction = 1) => (playing ? (playing = null) : play(direction)),
    };
  }

  // Calls move(x, y), in the picture's own units, where the mouse is pressed on it or a finger lies.
  function follow(picture, move) {
    function moved(event) {
      if (!event.buttons) return;
      const box = picture.getBoundingClientRect();
      const { width, height } = picture.viewBox.baseVal;
      move(((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height);
    }
    picture.addEventListener("pointerdown", moved);
    picture.addEventListener("pointermove", moved);
    picture.classList.add("widget-follows");
  }

  // Once the page is read: start(host, data) on the place of that name, if this page has it.
  function fill(name, start) {
    const host = document.querySelector(`[data-widget="${name}"]`);
    const source = document.getElementById(`${name}-data`);
    if (host && source) start(host, JSON.parse(source.textContent));
  }

  return { element, shape, film, follow, fill };
})();
