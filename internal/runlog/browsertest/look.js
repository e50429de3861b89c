// What a reader would trip over in the page as it is laid out now: a list of
// lines, and how much was looked at.
(() => {
  const faults = [];
  const seen = {texts: 0, charts: 0, tables: 0, pictures: 0};
  const root = document.documentElement, width = root.clientWidth;
  const fault = (what, of) => faults.push(what + ": " + String(of).trim().replace(/\s+/g, " ").slice(0, 80));
  const shown = e => e.checkVisibility ? e.checkVisibility({visibilityProperty: true, opacityProperty: true}) : true;
  const named = e => e.getAttribute("aria-label") || e.getAttribute("alt") || e.textContent || e.outerHTML;
  // A box that scrolls shows all of what it holds, though not at once.
  const scrolls = e => e instanceof Element && e !== root && e !== document.body && /auto|scroll/.test(getComputedStyle(e).overflowX);

  // Nothing is wider than the window.
  if (root.scrollWidth > width) fault("the page is " + root.scrollWidth + " wide, the window " + width, document.title);
  for (const e of document.body.querySelectorAll("*")) {
    if (!shown(e) || e.closest("svg") && e.tagName !== "svg") continue;
    const r = e.getBoundingClientRect();
    if (r.width && (r.right > width + 1 || r.left < -1) && !inScroll(e.parentElement)) fault("outside of the window (" + Math.round(r.left) + " to " + Math.round(r.right) + " of " + width + ")", named(e));
  }
  function inScroll(e) {
    for (let p = e; p; p = p.parentElement) if (scrolls(p)) return true;
    return false;
  }

  // Texts: in their boxes, not on one another, large enough, in colours that can
  // be told from what is behind, and short words whole.
  const luminance = c => {
    const [r, g, b] = c.map(v => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
  const known = new Map();
  const colour = text => { // any way of CSS to write one, as [r, g, b, a]
    if (!known.has(text)) {
      canvas.clearRect(0, 0, 1, 1);
      canvas.fillStyle = text;
      canvas.fillRect(0, 0, 1, 1);
      known.set(text, [...canvas.getImageData(0, 0, 1, 1).data]);
    }
    return known.get(text);
  };
  const behind = e => {
    for (let p = e; p; p = p.parentElement) {
      const c = colour(getComputedStyle(p).backgroundColor);
      if (c[3] > 127) return c.slice(0, 3);
    }
    return matchMedia("(prefers-color-scheme: dark)").matches ? [18, 18, 18] : [255, 255, 255];
  };
  const contrast = (a, b) => {
    const [x, y] = [luminance(a), luminance(b)].sort((p, q) => q - p);
    return (x + 0.05) / (y + 0.05);
  };
  const boxes = [];
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let n; (n = walker.nextNode());) {
    const e = n.parentElement, text = n.data.trim();
    if (!text || !shown(e) || /^(STYLE|SCRIPT|TITLE|title)$/.test(e.tagName)) continue;
    const range = document.createRange();
    range.selectNodeContents(n);
    const rects = [...range.getClientRects()].filter(r => r.width > 0.5 && r.height > 0.5);
    if (!rects.length) continue;
    seen.texts++;
    const style = getComputedStyle(e), svg = e.closest("svg");
    const scale = svg && e.getScreenCTM ? Math.hypot(e.getScreenCTM().a, e.getScreenCTM().b) : e.offsetWidth > 20 ? e.getBoundingClientRect().width / e.offsetWidth : 1;
    const size = parseFloat(style.fontSize) * scale;
    if (size < 11) fault("text of " + size.toFixed(1) + " pixels", text);
    const ink = colour(svg ? style.fill : style.color).slice(0, 3), ratio = contrast(ink, behind(e));
    if (ratio < 4.5) fault("contrast " + ratio.toFixed(2), text);
    for (let p = e; p && p !== root; p = p.parentElement) {
      const s = getComputedStyle(p);
      if (p.tagName !== "svg" && !/hidden|clip/.test(s.overflowX + s.overflowY) || p === document.body) continue;
      const box = p.getBoundingClientRect();
      if (rects.some(r => r.left < box.left - 1 || r.right > box.right + 1 || r.top < box.top - 1 || r.bottom > box.bottom + 1)) fault("cut", text);
    }
    if (!inScroll(e) && rects.some(r => r.left < -0.5 || r.right > width + 0.5)) fault("cut by the window", text);
    for (const m of n.data.matchAll(/\p{L}{2,}/gu)) {
      if (m[0].length > 24) continue;
      range.setStart(n, m.index);
      range.setEnd(n, m.index + m[0].length);
      const lines = new Set([...range.getClientRects()].filter(r => r.width > 0.5).map(r => Math.round(r.top)));
      if (lines.size > 1 && !(style.overflowWrap === "anywhere" && /[0-9]/.test(text) && /^[0-9a-f]+$/i.test(m[0]))) fault("broken inside a word", m[0] + " of " + text);
    }
    if (!inScroll(e)) for (const r of rects) boxes.push([r, text, e]);
  }
  boxes.sort((a, b) => a[0].top - b[0].top);
  for (let i = 0; i < boxes.length; i++) {
    for (let k = i + 1; k < boxes.length && boxes[k][0].top < boxes[i][0].bottom - 2; k++) {
      const [a, s, e] = boxes[i], [b, t, f] = boxes[k];
      const x = Math.min(a.right, b.right) - Math.max(a.left, b.left), y = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (x > 1 && y > 3 && e !== f) fault("one text on another", s + " | " + t);
    }
  }

  // Pictures are there, and pictures and charts are said in words.
  for (const i of document.images) {
    seen.pictures++;
    if (!i.complete || !i.naturalWidth) fault("a picture is not loaded", named(i));
    if (!(i.getAttribute("alt") || "").trim()) fault("a picture without words", i.outerHTML);
  }
  for (const s of document.querySelectorAll("svg")) {
    if (s.closest("[aria-hidden=true]")) continue;
    if (s.getAttribute("role") !== "img" || !(s.getAttribute("aria-label") || "").trim()) fault("a drawing without words", s.outerHTML);
  }
  for (const c of document.querySelectorAll("figure.chart")) {
    seen.charts++;
    if (!/[0-9]/.test([...c.querySelectorAll("td, .bars .v")].map(e => e.textContent).join(""))) fault("a chart without its figures", named(c));
    for (const p of c.querySelectorAll("path[class]")) {
      const s = getComputedStyle(p);
      if (!p.classList.contains("grid") && contrast(colour(s.stroke), behind(p.closest("svg").parentElement)) < 3) fault("a curve that is hard to see", p.getAttribute("class"));
      const b = p.getBoundingClientRect(), plot = p.closest("svg").getBoundingClientRect();
      if (p.closest(".plot") && (b.left < plot.left - 6 || b.right > plot.right + 6 || b.top < plot.top - 6 || b.bottom > plot.bottom + 6)) fault("a curve leaves its plot", p.getAttribute("class"));
    }
    for (const i of c.querySelectorAll(".bar > *")) {
      const b = i.getBoundingClientRect(), bar = i.parentElement.getBoundingClientRect();
      if (b.left < bar.left - 2 || b.right > bar.right + 2) fault("a bar leaves its box", i.parentElement.parentElement.textContent);
    }
  }
  // Tables have heads, and what scrolls can be reached with the keyboard.
  for (const t of document.querySelectorAll("table")) {
    seen.tables++;
    if (!t.querySelector("th[scope]")) fault("a table without heads", t.textContent);
  }
  for (const e of document.querySelectorAll("*")) {
    if (e === root || e === document.body || !shown(e)) continue;
    if (scrolls(e) && e.scrollWidth > e.clientWidth + 1 && e.tabIndex < 0) fault("scrolls, but not by the keyboard", named(e));
    if (e.tabIndex >= 0 && !(e.getAttribute("aria-label") || e.textContent.trim())) fault("takes the focus and has no name", e.outerHTML);
  }
  if (!root.lang) fault("no language", document.title);
  if (!document.querySelector("meta[name=viewport]")) fault("no viewport for telephones", document.title);
  if (document.querySelectorAll("h1").length !== 1 || !document.title) fault("not one title", document.title);
  return {faults: [...new Set(faults)], seen};
})()
