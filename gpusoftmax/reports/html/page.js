// Draws the plots, and sorts and filters tables. Bundled with Vega by page.py.

const dark = matchMedia("(prefers-color-scheme: dark)");

// "currentColor" is that of the text around a plot, in the light, in the dark and in print
const colours = { labelColor: "currentColor", titleColor: "currentColor" };
const lines = { gridColor: "currentColor", gridOpacity: 0.15, domainColor: "currentColor", tickColor: "currentColor" };
const config = {
  background: "transparent",
  font: "system-ui, sans-serif",
  view: { stroke: "currentColor", strokeOpacity: 0.3 },
  axis: { ...colours, ...lines },
  legend: colours,
  rule: { color: "currentColor" },
};

async function draw() {
  const drawn = [...document.querySelectorAll(".chart")].map(async (place) => {
    const spec = JSON.parse(place.dataset.spec);
    place.setAttribute("role", "img");
    place.setAttribute("aria-label", spec.description);
    const options = { renderer: "svg", actions: false, config, tooltip: { theme: dark.matches ? "dark" : "light" } };
    const { view } = await vegaEmbed(place, spec, options);
    return view;
  });
  await Promise.all(drawn);
  document.documentElement.dataset.drawn = "yes";
}

function number(text) {
  const value = Number.parseFloat(text.replace("%", ""));
  return Number.isNaN(value) ? null : value;
}

function compare(a, b) {
  const [x, y] = [number(a), number(b)];
  return x === null || y === null ? a.localeCompare(b) : x - y;
}

function sortBy(table, column) {
  const header = table.tHead.rows[0].cells[column];
  const falling = header.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  header.setAttribute("aria-sort", falling ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => (falling ? -1 : 1) * compare(a.cells[column].textContent, b.cells[column].textContent));
  table.tBodies[0].append(...rows);
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((cell, column) => {
    cell.querySelector("button").addEventListener("click", () => sortBy(table, column));
  });
}

for (const field of document.querySelectorAll("input[data-filters]")) {
  field.addEventListener("input", () => {
    const wanted = field.value.toLowerCase();
    for (const row of document.getElementById(field.dataset.filters).tBodies[0].rows) {
      row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
    }
  });
}

draw();
