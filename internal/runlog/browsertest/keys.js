// Where the keyboard is now: the element's number among all that take the focus,
// whether that can be seen, and what it is.
(() => {
  const all = [...document.querySelectorAll("a[href],button,input,select,textarea,summary,[tabindex]")].filter(e => e.tabIndex >= 0 && e.checkVisibility());
  const e = document.activeElement, s = getComputedStyle(e), r = e.getBoundingClientRect();
  return {
    at: all.indexOf(e), of: all.length, name: (e.getAttribute("aria-label") || e.textContent).trim().slice(0, 60),
    seen: s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1 && r.bottom > 0 && r.top < innerHeight,
    summary: e.tagName === "SUMMARY" && !e.parentElement.open,
    wide: e.scrollWidth > e.clientWidth + 1, scrolled: e.scrollLeft,
  };
})()
