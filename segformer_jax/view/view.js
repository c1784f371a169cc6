// Draws `props.value` in `element`, when `watch` says that it changed: the text of a function.
// demo/view.py describes the value. From a page without a server, `photo` is an ImageBitmap,
// `classes` a Uint16Array, and `mask` a function that returns the PNG as a Blob.
const part = (selector) => element.querySelector(selector);
const [stage, photo, canvas] = [".stage", ".stage .photo", ".stage .classes"].map(part);
const [pointed, legend, opacity] = [part(".pointed"), part(".legend"), part(".opacity input")];

let shown = null; // the value, `map` (class of each pixel) and `rows` (class → its row and element)
let latest = 0;

async function decoded(photo) {
  if (typeof photo !== "string") return photo;
  const image = new Image();
  image.src = photo;
  await image.decode();
  return image;
}

async function inflated(base64) {
  const packed = Uint8Array.from(atob(base64), (letter) => letter.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new DataView(await new Response(stream).arrayBuffer());
}

async function classMap(classes, count) {
  if (typeof classes !== "string") return classes;
  const view = await inflated(classes);
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
  const [map, picture] = value?.classes
    ? [await classMap(value.classes, value.width * value.height), await decoded(value.photo)]
    : [null, null];
  if (turn !== latest) return; // a newer one came while this was decoded
  hidePointed();
  part(".empty").hidden = value !== null;
  part(".message").hidden = !value?.message;
  part(".message").textContent = value?.message ?? "";
  part(".result").hidden = !map;
  shown = null;
  if (!map) return;
  const rows = new Map(value.legend.map((row) => [row.id, { row, item: legendRow(row) }]));
  shown = { ...value, map, rows };
  stage.style.setProperty("--ratio", value.width / value.height);
  for (const layer of [photo, canvas]) [layer.width, layer.height] = [value.width, value.height];
  photo.getContext("2d").drawImage(picture, 0, 0, value.width, value.height);
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

// The photo as it is shown, under the classes at the chosen opacity.
function overlay() {
  const whole = new OffscreenCanvas(shown.width, shown.height);
  const context = whole.getContext("2d");
  context.drawImage(photo, 0, 0);
  context.globalAlpha = opacity.value / 100;
  context.drawImage(canvas, 0, 0);
  return whole.convertToBlob();
}

async function mask() {
  return typeof shown.mask === "string" ? (await fetch(shown.mask)).blob() : shown.mask();
}

async function download(content, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(await content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

stage.addEventListener("pointermove", point);
stage.addEventListener("pointerdown", point);
stage.addEventListener("pointerleave", hidePointed);
opacity.addEventListener("input", setOpacity);
part(".download").addEventListener("click", () => download(mask(), shown.mask_name));
part(".overlay").addEventListener("click", () =>
  download(overlay(), shown.mask_name.replace(/mask\.png$/, "overlay.png")),
);
setOpacity();
watch("value", show);
show();
