"use strict";

// Sort by the clicked column; cells without a value stay last in either direction.
function sortBy(header) {
  const table = header.closest("table");
  const column = header.cellIndex;
  const direction = header.ariaSort === "ascending" ? -1 : 1;
  for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
  header.ariaSort = direction === 1 ? "ascending" : "descending";
  const valueOf = (row) => row.cells[column].dataset.value;
  const rows = [...table.tBodies[0].rows];
  rows.sort((one, other) => {
    const [a, b] = [valueOf(one), valueOf(other)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined);
    const numbers = a !== "" && b !== "" && !isNaN(a) && !isNaN(b);
    return direction * (numbers ? a - b : a.localeCompare(b));
  });
  table.tBodies[0].append(...rows);
}

// A number links to the runs of its cell: show all of them, not only the one that carries the anchor.
function showRunsBehind() {
  const cell = decodeURIComponent(location.hash.slice(1));
  const behind = document.querySelectorAll(`tr[data-cell="${CSS.escape(cell)}"]`);
  document.querySelectorAll("tr.behind").forEach((row) => row.classList.remove("behind"));
  behind.forEach((row) => row.classList.add("behind"));
  if (behind.length) behind[0].scrollIntoView({ block: "center" });
}

document.querySelectorAll("thead button").forEach((button) => {
  button.addEventListener("click", () => sortBy(button.closest("th")));
});
addEventListener("hashchange", showRunsBehind);
showRunsBehind();
