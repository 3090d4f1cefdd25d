// Columns are a little higher than what is in them, since figures are not broken.
const LOOSE = 1.06;

// Prepares the article for print: `prepare(sizes)` with the widths of a column and the page, and the
// height of the page, in points.
function prepare({ column, page, height }) {
  const root = document.querySelector("div.body > section");
  if (root === null) return;
  const points = 96 / 72;
  widenTables(column, page);
  const items = measure(root, column, page);
  moveFigures(items, height * points);
}

// A table that is too wide for a column, or would be much taller in it, has the page.
function widenTables(column, page) {
  for (const frame of document.querySelectorAll("div.table")) {
    const outer = frame.closest("figure") || frame;
    const heightAt = width => { frame.style.width = `${width}pt`; return frame.scrollHeight; };
    const tall = heightAt(column);
    const isWide = frame.scrollWidth > frame.clientWidth + 1 || tall > 1.4 * heightAt(page);
    frame.style.width = "";
    outer.classList.toggle("wide", isWide);
  }
}

// Returns the parts of the article in their order, each with its height in pixels.
function measure(root, column, page) {
  const parts = [];
  const collect = parent => {
    for (const child of parent.children) child.tagName === "SECTION" ? collect(child) : parts.push(child);
  };
  collect(root);
  const isWide = part => part.matches("header.front, .wide");
  root.style.cssText = `columns: auto; width: ${column}pt`;
  parts.filter(isWide).forEach(part => { part.style.width = `${page}pt`; });
  const tops = [...parts.map(part => part.getBoundingClientRect().top), root.getBoundingClientRect().bottom];
  root.style.cssText = "";
  parts.forEach(part => { part.style.width = ""; });
  return parts.map((part, i) => ({ part, isWide: isWide(part), height: tops[i + 1] - tops[i] }));
}

// A figure across the page that does not fit under the text before it would leave a gap there: the
// text that follows it goes first, until the page is full.
function moveFigures(items, height) {
  const waiting = [];
  let y = 0; // of the last full width, from the top of its page
  let columns = 0; // the height of the text in columns since then, one column
  const end = () => y + LOOSE * columns / 2;
  const place = ({ height: tall }) => { y = (end() + tall > height ? 0 : end()) + tall; columns = 0; };
  for (const item of items) {
    const isFigure = item.isWide && item.part.matches("figure:not(.table)");
    if (item.part.closest(".appendix")) break;
    if (isFigure && (waiting.length || end() + item.height > height)) waiting.push(item);
    else if (item.isWide) place(item);
    else columns += item.height;
    if (end() < height) continue;
    columns = 2 * (end() - height) / LOOSE;
    y = 0;
    while (waiting.length && end() + waiting[0].height <= height) {
      const figure = waiting.shift();
      if (!/^H\d$/.test(item.part.tagName)) item.part.after(figure.part);
      else item.part.before(figure.part);
      place(figure);
    }
  }
}
