// Folds are <details>, which need no script to open. Here: a link into a closed one opens it, paper has no closed ones,
// and what scrolls within one can be reached with Tab.
(() => {
  "use strict";

  function reveal() {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const closed = [];
    for (let fold = target?.closest("details"); fold; fold = fold.parentElement.closest("details")) {
      if (!fold.open) closed.push(fold);
    }
    closed.forEach((fold) => { fold.open = true; });
    if (closed.length) target.scrollIntoView();
  }

  // The theme does the same when the page loads, but nothing in a closed fold has a width.
  function setTabStops(fold) {
    for (const box of fold.querySelectorAll("pre, .cell_output > .output, .pst-scrollable-table-container")) {
      box.tabIndex = box.scrollWidth > box.clientWidth ? 0 : -1;
    }
  }

  addEventListener("hashchange", reveal);
  document.addEventListener("DOMContentLoaded", reveal);
  document.addEventListener("toggle", (event) => event.target.open && setTabStops(event.target), true);

  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details.fold:not(.plumbing, [open])")];
    opened.forEach((fold) => { fold.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach((fold) => { fold.open = false; }));
})();
