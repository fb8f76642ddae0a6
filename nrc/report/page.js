"use strict";
(() => {
  // a cell of the scorecard leads into a claim that is folded up
  function unfold() {
    const target = location.hash.length > 1 && document.getElementById(decodeURIComponent(location.hash.slice(1)));
    const claim = target && target.closest("details.claim");
    if (claim && !claim.open) {
      claim.open = true;
      target.scrollIntoView();
    }
  }
  addEventListener("hashchange", unfold);
  unfold();
})();
