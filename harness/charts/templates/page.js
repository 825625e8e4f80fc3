// Charts are drawn when they come into view, and anew when the reader's colours change.
const holder = document.getElementById("charts");
if (holder) {
  const { specs, light, dark } = JSON.parse(holder.textContent);
  const scheme = matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();
  const draw = async (element) => {
    const theme = scheme.matches ? "dark" : "light";
    if (drawn.get(element) === theme) return;
    drawn.set(element, theme);
    await vegaEmbed(element, specs[element.dataset.chart], {
      actions: false, renderer: specs[element.dataset.chart].usermeta?.renderer ?? "svg",
      config: scheme.matches ? dark : light, tooltip: { theme },
    });
    element.dataset.drawn = theme;
  };
  const seen = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) draw(target);
  }, { rootMargin: "300px" });
  for (const element of document.querySelectorAll("[data-chart]")) seen.observe(element);
  scheme.addEventListener("change", () => [...drawn.keys()].forEach(draw));
  addEventListener("beforeprint", () => document.querySelectorAll("[data-chart]").forEach(draw));
}

// Tables: a click on a heading sorts by it, by number where the cells begin with one.
const key = (row, column) => {
  const text = row.cells[column].textContent.trim();
  const number = parseFloat(text.replace(/^[+†*]/, ""));
  return [Number.isNaN(number) ? (text === "fastest" ? 0 : Infinity) : number, text];
};
for (const button of document.querySelectorAll("th button")) {
  button.addEventListener("click", () => {
    const heading = button.parentElement, table = heading.closest("table"), body = table.tBodies[0];
    const column = heading.cellIndex, descending = heading.ariaSort === "ascending";
    for (const other of table.tHead.rows[0].cells) other.ariaSort = "none";
    heading.ariaSort = descending ? "descending" : "ascending";
    const rows = [...body.rows].map((row) => [key(row, column), row]);
    rows.sort(([[a, s]], [[b, t]]) => (a === b ? s.localeCompare(t, undefined, { numeric: true }) : a - b));
    if (descending) rows.reverse();
    body.append(...rows.map(([, row]) => row));
  });
}
