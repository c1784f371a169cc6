// Draws `props.value`, as view.py makes it. Opacity, pointing and the legend never ask the server.
const part = (selector) => element.querySelector(selector);
const [stage, image, canvas] = [part(".stage"), part(".stage img"), part(".stage canvas")];
const [pointed, legend, opacity] = [part(".pointed"), part(".legend"), part(".opacity input")];

let shown = null; // the value, `map` (class of each pixel) and `rows` (class → its row and element)
let latest = 0;

async function inflated(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

function classMap(view, count) {
  const map = new Uint16Array(count);
  for (let i = 0; i < count; i++) map[i] = view.getUint16(2 * i, true);
  return map;
}

// All classes in their colours, or one alone.
function paint(only = null) {
  const { width, height, map, rows } = shown;
  const colours = new Uint32Array(65536); // 0, which is transparent, where there is none
  for (const [id, { row }] of rows) {
    const [red, green, blue] = [1, 3, 5].map((at) => parseInt(row.colour.slice(at, at + 2), 16));
    if (only === null || only === id) {
      colours[id] = ((255 << 24) | (blue << 16) | (green << 8) | red) >>> 0; // little-endian
    }
  }
  const pixels = new ImageData(width, height);
  const words = new Uint32Array(pixels.data.buffer);
  for (let i = 0; i < map.length; i++) words[i] = colours[map[i]];
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

function legendRow(row) {
  const item = document.createElement("li");
  item.tabIndex = 0;
  item.dataset.label = row.label;
  const [swatch, name, share, bar, filled] = ["span", "span", "span", "span", "i"].map((tag) =>
    document.createElement(tag),
  );
  [swatch.className, name.className, share.className, bar.className] =
    ["swatch", "name", "share", "bar"];
  swatch.style.background = filled.style.background = row.colour;
  name.textContent = row.label;
  share.textContent = `${(100 * row.share).toFixed(1)} %`;
  filled.style.width = `${100 * row.share}%`;
  bar.append(filled);
  item.append(swatch, name, share, bar);
  for (const event of ["mouseenter", "focus"]) item.addEventListener(event, () => paint(row.id));
  for (const event of ["mouseleave", "blur"]) item.addEventListener(event, () => paint());
  return item;
}

async function show() {
  const turn = ++latest;
  const value = props.value || null;
  const map = value?.classes
    ? classMap(await inflated(value.classes), value.width * value.height)
    : null;
  if (turn !== latest) return; // a newer one came while this was inflated
  hidePointed();
  part(".empty").hidden = value !== null;
  part(".message").hidden = !value?.message;
  part(".message").textContent = value?.message ?? "";
  part(".result").hidden = !map;
  shown = null;
  if (!map) return;
  const rows = new Map(value.legend.map((row) => [row.id, { row, item: legendRow(row) }]));
  shown = { ...value, map, rows };
  image.src = value.photo;
  stage.style.setProperty("--ratio", value.width / value.height);
  [canvas.width, canvas.height] = [value.width, value.height];
  legend.replaceChildren(...[...rows.values()].map(({ item }) => item));
  paint();
}

function hidePointed() {
  pointed.hidden = true;
  legend.querySelector(".here")?.classList.remove("here");
}

function point(event) {
  if (!shown) return;
  const box = canvas.getBoundingClientRect();
  const across = (event.clientX - box.left) / box.width;
  const down = (event.clientY - box.top) / box.height;
  const column = Math.floor(across * shown.width);
  const line = Math.floor(down * shown.height);
  hidePointed();
  const found = shown.rows.get(shown.map[line * shown.width + column]);
  if (!found || column < 0 || column >= shown.width || line < 0 || line >= shown.height) return;
  found.item.classList.add("here");
  pointed.hidden = false;
  pointed.querySelector(".label").textContent = found.row.label;
  pointed.querySelector(".swatch").style.background = found.row.colour;
  const besides = across < 0.7 ? "14px" : "calc(-100% - 14px)";
  const below = down < 0.8 ? "14px" : "calc(-100% - 14px)";
  pointed.style.left = `${100 * across}%`;
  pointed.style.top = `${100 * down}%`;
  pointed.style.transform = `translate(${besides}, ${below})`;
}

function setOpacity() {
  canvas.style.opacity = opacity.value / 100;
  part(".opacity output").textContent = `${opacity.value} %`;
}

async function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await (await fetch(shown.mask)).blob());
  link.download = shown.mask_name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

stage.addEventListener("pointermove", point);
stage.addEventListener("pointerdown", point);
stage.addEventListener("pointerleave", hidePointed);
opacity.addEventListener("input", setOpacity);
part(".download").addEventListener("click", download);
setOpacity();
watch("value", show);
show();
