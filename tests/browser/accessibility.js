// Looks for what a screen reader stumbles over; returns a sentence for each.
() => {
  const found = [];
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (e) => (e.getAttribute("aria-label") || e.textContent || e.title || "").trim();
  const seen = (e) => e.offsetParent !== null || e.getClientRects().length > 0;
  const shown = (e) => e.outerHTML.slice(0, 120);
  for (const e of all("button, a[href]")) if (seen(e) && !name(e)) found.push(`no name: ${shown(e)}`);
  for (const e of all("input, select")) {
    if (seen(e) && !e.closest("label") && !e.getAttribute("aria-label")) found.push(`no label: ${shown(e)}`);
  }
  for (const e of all("table")) if (!e.caption || !e.caption.textContent.trim()) found.push("a table without a caption");
  for (const e of all("[role=img]")) if (!e.getAttribute("aria-label")) found.push("an image without words");
  for (const tag of ["h1", "main"]) if (all(tag).length !== 1) found.push(`${all(tag).length} of ${tag}`);
  let level = 0;
  for (const e of all("h1, h2, h3, h4")) {
    const own = Number(e.tagName[1]);
    if (own > level + 1) found.push(`h${own} after h${level}: ${e.textContent}`);
    level = own;
  }
  const ids = all("[id]").map((e) => e.id);
  for (const id of new Set(ids)) if (ids.filter((other) => other === id).length > 1) found.push(`twice: #${id}`);
  if (!document.querySelector("header") || !document.documentElement.lang) found.push("no header or no language");
  return found;
}
