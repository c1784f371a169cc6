// The page: takes photos, has the worker segment them, and shows what it finds.
import { Camera } from "./camera.js";
import { isolate } from "./isolation.js";
import { connect } from "./view.js";

const MOST_PIXELS = 36e6;
const SIMD = [ // a module with one instruction of WebAssembly's SIMD, i8x16.popcnt
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
];

const part = (selector) => document.querySelector(selector);
const say = (text) => (part("#status").textContent = text);
const props = { value: null };
let redraw;
connect(part(".view"), props, (_, draw) => (redraw = draw));

function show(value) {
  props.value = value;
  redraw();
}

function fail(message) {
  say("");
  show({ message: `${message}.` });
}

const worker = new Worker("worker.js", { type: "module" });
const waiting = new Map(); // of the tasks: what to do with the answer

function ask(task, moved = []) {
  const id = crypto.randomUUID?.() ?? String(Math.random());
  return new Promise((resolve, reject) => {
    waiting.set(id, { resolve, reject });
    worker.postMessage({ id, ...task }, moved);
  });
}

worker.onmessage = ({ data: { id, answer, error } }) => {
  const { resolve, reject } = waiting.get(id);
  waiting.delete(id);
  if (error) reject(Object.assign(new Error(error.message), { name: error.name }));
  else resolve(answer);
};

worker.onerror = (event) => {
  fail(`The page stopped (${event.message ?? "its worker was closed"}): load it again`);
};

function reasonOf(error, name) {
  if (error.name === "RangeError" || /alloc|memory/i.test(error.message)) {
    return (
      `${name} needs more memory than this browser gives the page: close other tabs, or take a ` +
      "smaller photo"
    );
  }
  if (["InvalidStateError", "EncodingError"].includes(error.name)) return unreadable(name);
  return error.message;
}

const unreadable = (name) =>
  `${name} is not a picture that this browser can read: choose a JPEG, PNG or WebP`;

// Reads the size only; the pixels are decoded by the worker.
async function check(blob, name) {
  const image = new Image();
  image.src = URL.createObjectURL(blob);
  try {
    await new Promise((resolve, reject) => {
      image.onload = resolve;
      image.onerror = () => reject(new Error(unreadable(name)));
    });
  } finally {
    URL.revokeObjectURL(image.src);
  }
  const pixels = image.naturalWidth * image.naturalHeight;
  if (pixels > MOST_PIXELS) {
    const [own, most] = [pixels, MOST_PIXELS].map((count) => (count / 1e6).toFixed(1));
    throw new Error(`${name} has ${own} megapixels, and the most are ${most}: make it smaller`);
  }
}

function sayEngine({ kind, threads }) {
  const count = threads === 1 ? "one thread" : `${threads} threads`;
  const ways = {
    webgpu: "The network runs by WebGPU (experimental: not tested on a graphics card).",
    wasm: `The network runs by WebAssembly on ${count}.`,
  };
  const slow = self.crossOriginIsolated
    ? ""
    : " More threads need headers that this server does not send, and a service worker, " +
      "which this browser does not allow here.";
  part("#engine").textContent = ways[kind] + slow;
}

function showAnswer(answer, name) {
  sayEngine(answer.engine);
  const mask = () => ask({ task: "mask" });
  show({ ...answer, mask, mask_name: `${name}.mask.png` });
}

async function segment(blob, name) {
  camera.stop();
  say(`Segmenting ${name} …`);
  const start = performance.now();
  try {
    await check(blob, name);
    await opening;
    const answer = await ask({ task: "segment", source: blob, use: "photo" });
    showAnswer(answer, name.replace(/\.[^.]*$/, ""));
    say(`${name}: ${((performance.now() - start) / 1000).toFixed(2)} s.`);
  } catch (error) {
    fail(reasonOf(error, name));
  }
}

const camera = new Camera(part("video"), { ask, show: showAnswer, say });

async function toggleCamera() {
  if (camera.films) {
    camera.stop();
    return say("The camera is off.");
  }
  const button = part("#camera");
  button.textContent = "Stop the camera";
  try {
    await opening;
    await camera.film();
  } catch (error) {
    fail(reasonOf(error, "The camera"));
  } finally {
    button.textContent = "Start the camera";
  }
}

async function example() {
  const file = part("#example").dataset.file;
  await segment(await (await fetch(file)).blob(), file);
}

function take(list) {
  const file = [...list].find((item) => item instanceof File);
  if (file) segment(file, file.name);
}

function listen() {
  const drop = part(".drop");
  const over = (is) => (event) => {
    event.preventDefault();
    drop.classList.toggle("over", is);
  };
  part("#file").addEventListener("change", (event) => {
    take(event.target.files);
    event.target.value = ""; // so that the same file can be chosen again
  });
  document.addEventListener("dragover", over(true));
  document.addEventListener("dragleave", over(false));
  document.addEventListener("drop", (event) => {
    over(false)(event);
    take(event.dataTransfer.files);
  });
  document.addEventListener("paste", (event) => take(event.clipboardData.files));
  part("#camera").addEventListener("click", toggleCamera);
  part("#example")?.addEventListener("click", example);
}

async function open() {
  if (!WebAssembly.validate(new Uint8Array(SIMD))) {
    throw new Error(
      "This browser is too old: it lacks WebAssembly's SIMD; update it, or use another",
    );
  }
  await isolate();
  say("Loading the model …");
  const settings = await (await fetch("settings.json")).json();
  sayEngine(await ask({ task: "open", settings }));
  say("Ready.");
}

const opening = open();
opening.catch((error) => fail(reasonOf(error, "The model")));
listen();
