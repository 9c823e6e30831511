// MathJax, and only where and when it is needed: it loads after the page can be used, and it typesets a formula when
// that comes near the screen. Typesetting a chapter at once keeps a slow phone busy for ten seconds and more.
(() => {
  "use strict";
  const WAITING = ".math.notranslate:not(.typeset)";
  const NEAR = "1200px 0px"; // above and below the screen
  const AT_ONCE = 12; // formulas, before the browser may do something else
  const source = new URL("mathjax/tex-chtml.js", document.currentScript.src);

  let ready = null; // a promise: MathJax is there
  let target = null; // the place that a link leads to, until the reader moves
  const queue = new Map(); // formulas to typeset, with how far each is from the screen
  let working = Promise.resolve();

  function load() {
    ready ??= new Promise((resolve, reject) => {
      document.head.append(Object.assign(document.createElement("script"), { src: source, onload: resolve, onerror: reject }));
    }).then(() => window.MathJax.startup.promise);
    return ready;
  }

  async function render(batch) {
    if (!batch.length) return;
    batch.forEach((formula) => {
      queue.delete(formula);
      formula.classList.add("typeset");
    });
    await load();
    await MathJax.typesetPromise(batch);
    setTabStops(batch);
  }

  // MathJax would make every formula a Tab stop; only those are that have to be scrolled.
  function setTabStops(batch) {
    for (const formula of batch) {
      const box = formula.querySelector("mjx-container[display=true]");
      if (box && box.scrollWidth > box.clientWidth) box.tabIndex = 0;
    }
  }

  async function work() {
    while (queue.size) {
      const nearest = [...queue].sort(([, one], [, other]) => one - other).slice(0, AT_ONCE);
      await render(nearest.map(([formula]) => formula));
      // What is typeset above a target moves it, where the browser does not hold it by itself.
      target?.scrollIntoView({ behavior: "instant" });
      await new Promise((resolve) => setTimeout(resolve));
    }
    target = null;
  }

  function then(step) {
    working = working.then(step).catch((error) => console.error(error));
    return working;
  }

  const observer = new IntersectionObserver(
    (entries) => {
      for (const { target: formula, isIntersecting, boundingClientRect: box } of entries) {
        if (!isIntersecting) continue;
        observer.unobserve(formula);
        queue.set(formula, Math.max(0, -box.bottom, box.top - innerHeight));
      }
      if (queue.size) then(work);
    },
    { rootMargin: NEAR },
  );

  function aim() {
    target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  }

  document.addEventListener("DOMContentLoaded", () => {
    aim();
    const formulas = document.querySelectorAll(WAITING);
    formulas.forEach((formula) => observer.observe(formula));
    // Once the page stands, be ready for the first formula, and for print.
    if (formulas.length) addEventListener("load", () => (window.requestIdleCallback ?? setTimeout)(load));
  });
  addEventListener("hashchange", aim);
  for (const move of ["wheel", "touchmove", "keydown", "pointerdown"]) {
    addEventListener(move, () => { target = null; }, { passive: true });
  }

  // For print, and for whoever needs the whole page at once, such as a test.
  addEventListener("beforeprint", () => {
    const waiting = [...document.querySelectorAll(WAITING)];
    waiting.forEach((formula) => formula.classList.add("typeset"));
    if (waiting.length && window.MathJax?.typeset) MathJax.typeset(waiting);
  });
  window.typesetAll = () => then(() => render([...document.querySelectorAll(WAITING)]));
})();
