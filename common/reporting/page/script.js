"use strict";
// Sorting and filtering of tables, ages of times, and copying; the page works without.
const text = (cell) => cell.textContent.trim().replace(/\s+/g, " ");
const choice = (cell) => cell.dataset.value ?? text(cell); // a cell may have more text than its value
const make = (tag, properties) => Object.assign(document.createElement(tag), properties);

function sortable(table, rows, show) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    if ("plain" in head.dataset) return;
    const numeric = head.classList.contains("n");
    const key = (row) => {
      const value = row.cells[column].dataset.value ?? text(row.cells[column]);
      return numeric ? (value === "" ? -Infinity : Number(value)) : value.toLowerCase();
    };
    const button = make("button", { type: "button" });
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const first = numeric ? "descending" : "ascending";
      const second = numeric ? "ascending" : "descending";
      const order = head.getAttribute("aria-sort") === first ? second : first;
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const keyed = rows.map((row) => [key(row), row]);
      const compare = numeric ? (a, b) => a - b : (a, b) => a.localeCompare(b, undefined, { numeric: true });
      keyed.sort(([a], [b]) => sign * (a === b ? 0 : compare(a, b)));
      rows.splice(0, rows.length, ...keyed.map(([, row]) => row));
      table.tBodies[0].append(...rows);
      show();
    });
  });
}

function choices(table, rows) {
  const heads = [...table.tHead.rows[0].cells];
  return heads.flatMap((head, column) => {
    if (!("filter" in head.dataset)) return [];
    const values = [...new Set(rows.map((row) => choice(row.cells[column])))].filter(Boolean).sort();
    if (values.length < 2) return [];
    const select = make("select", {});
    select.append(new Option("all", ""), ...values.map((value) => new Option(value, value)));
    const label = make("label", { textContent: text(head) });
    label.append(select);
    return [{ label, select, column }];
  });
}

const FEW = 10; // rows that need no filter

function filterable(table) {
  const rows = [...table.tBodies[0].rows];
  if (rows.length < 2) return;
  const page = Number(table.dataset.page) || Infinity;
  const words = new Map();
  const tools = make("div", { className: "tools" });
  const label = make("label", { textContent: "Filter" });
  const input = make("input", { type: "search", autocomplete: "off", spellcheck: false });
  input.setAttribute("aria-label", "Filter: " + text(table.caption));
  label.append(input);
  const selects = rows.length < FEW ? [] : choices(table, rows);
  const output = make("output", {});
  output.setAttribute("role", "status");
  const more = make("button", { type: "button", textContent: "Show all" });
  let limit = page;
  const show = () => {
    const wanted = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    let found = 0;
    for (const row of rows) {
      if (!words.has(row)) words.set(row, text(row).toLowerCase());
      const matches = wanted.every((word) => words.get(row).includes(word))
        && selects.every(({ select, column }) => !select.value || choice(row.cells[column]) === select.value);
      row.hidden = !matches || ++found > limit;
    }
    const shown = Math.min(found, limit);
    const count = (number) => number.toLocaleString("en");
    output.value = shown === rows.length ? `${count(shown)} rows` : `${count(shown)} of ${count(rows.length)} rows`;
    more.hidden = found <= limit;
  };
  more.addEventListener("click", () => { limit = Infinity; show(); });
  input.addEventListener("input", show);
  selects.forEach(({ select }) => select.addEventListener("change", show));
  tools.append(label, ...selects.map((each) => each.label), output, more);
  if (rows.length >= FEW) table.closest(".scroll").before(tools);
  sortable(table, rows, show);
  show();
}

function age(time) {
  const seconds = (Date.now() - new Date(time.dateTime)) / 1000;
  const units = [["day", 86400], ["hour", 3600], ["minute", 60], ["second", 1]];
  const [unit, size] = units.find(([, each]) => Math.abs(seconds) >= each * 2) ?? units[3];
  time.title = text(time);
  time.textContent = new Intl.RelativeTimeFormat("en").format(-Math.round(seconds / size), unit);
}

document.querySelectorAll("table[data-tools]").forEach(filterable);
document.querySelectorAll("time[data-age]").forEach(age);
document.querySelectorAll("[data-late-after]").forEach((mark) => {
  mark.hidden = Date.now() < new Date(mark.dataset.lateAfter);
});
document.querySelectorAll(".command").forEach((command) => {
  const button = make("button", { type: "button", textContent: "Copy" });
  const lines = command.querySelector("pre");
  button.addEventListener("click", () => navigator.clipboard.writeText(lines.textContent).then(
    () => { button.textContent = "Copied"; },
    () => { getSelection().selectAllChildren(lines); button.textContent = "Selected"; }, // within Airflow's page
  ));
  if (navigator.clipboard) command.append(button);
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));
