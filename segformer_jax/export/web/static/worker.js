// Segments pictures beside the page, which stays responsive: answers `{ id, task, … }` by
// `{ id, answer }` or `{ id, error }`, one after the other.
import { classMap, countsOf, shrunk } from "./class_map.js";
import { Engine } from "./engine.js";
import { networkInput, targetSize } from "./input.js";
import { indexPng } from "./png.js";

const LONGEST_SIDE = 2048; // pixels, of the shown picture; the mask keeps the photo's size
const USUAL = [480, 640]; // height and width of a photo, to prepare for
const FRAME = 85; // milliseconds; a tenth of a second less what drawing takes
const SHARES = [1, 0.85, 0.7, 0.6, 0.5, 0.4, 0.33, 0.25]; // of the model's sides, to film at

let settings;
let engine;
let filmSize;
let last; // { map, size } of the photo

async function open(given) {
  settings = given.settings;
  const model = await fetch("model.onnx");
  if (!model.ok) throw new Error(`The server has no model.onnx (${model.status})`);
  engine = new Engine(new Uint8Array(await model.arrayBuffer()));
  await engine.start(targetSize(settings.size, ...USUAL));
  return [engineState(), []];
}

const engineState = () => ({ kind: engine.kind, threads: engine.threads });

function pixelsOf(bitmap) {
  const canvas = new OffscreenCanvas(bitmap.width, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  if (settings.white) {
    context.fillStyle = "white";
    context.fillRect(0, 0, bitmap.width, bitmap.height);
  }
  context.drawImage(bitmap, 0, 0);
  return context.getImageData(0, 0, bitmap.width, bitmap.height).data;
}

async function classesOf(bitmap, inputSize, use) {
  const size = [bitmap.height, bitmap.width];
  if (Math.min(...inputSize) < settings.least) {
    throw new Error(`The photo is too small: its sides need at least ${settings.least} pixels`);
  }
  const { resample, byte_values } = settings;
  const values = networkInput(pixelsOf(bitmap), size, inputSize, resample, byte_values);
  const { logits, shape } = await engine.run(values, inputSize, use);
  return classMap(logits, shape, size);
}

function legendOf(map) {
  return countsOf(map).map(([id, pixels]) => ({
    id,
    ...settings.labels[id],
    pixels,
    share: pixels / map.length,
  }));
}

function shownSize([height, width]) {
  const scale = Math.min(1, LONGEST_SIDE / Math.max(height, width));
  return [height, width].map((side) => Math.max(1, Math.round(side * scale)));
}

// The data of view.js for a Blob, or for a frame of the camera, an ImageBitmap.
async function segment({ source, use }) {
  const bitmap =
    source instanceof ImageBitmap
      ? source
      : await createImageBitmap(source, {
          imageOrientation: "from-image",
          colorSpaceConversion: "none",
        });
  const size = [bitmap.height, bitmap.width];
  const inputSize = use === "film" ? filmSize : targetSize(settings.size, ...size);
  const map = await classesOf(bitmap, inputSize, use);
  last = { map, size };
  const [height, width] = shownSize(size);
  const same = height === size[0];
  const classes = same ? map.slice() : shrunk(map, size, [height, width]);
  const how = { resizeHeight: height, resizeWidth: width, resizeQuality: "high" };
  const photo = same ? bitmap : await createImageBitmap(bitmap, how);
  if (!same) bitmap.close();
  const answer = { photo, height, width, classes, legend: legendOf(map), engine: engineState() };
  return [answer, [photo, classes.buffer]];
}

// Finds the largest size at which a frame like this one takes at most `FRAME` milliseconds.
async function tune({ source }) {
  const whole = targetSize(settings.size, source.height, source.width);
  let most = 1;
  for (const share of SHARES) {
    if (share > most && share !== SHARES.at(-1)) continue;
    filmSize = whole.map((side) => Math.max(settings.least, 32 * Math.round((share * side) / 32)));
    const time = await frameTime(source);
    if (time <= FRAME) break;
    most = 1.2 * share * Math.sqrt(FRAME / time); // larger ones take too long anyway
  }
  source.close();
  return [{ height: filmSize[0], width: filmSize[1] }, []];
}

// The middle one of three times, in milliseconds.
async function frameTime(source) {
  await classesOf(source, filmSize, "film"); // the first run prepares
  const times = [];
  for (let run = 0; run < 3; run++) {
    const start = performance.now();
    await classesOf(source, filmSize, "film");
    times.push(performance.now() - start);
  }
  return times.sort((one, other) => one - other)[1];
}

async function mask() {
  const colours = settings.labels.map((row) => row.colour);
  return [await indexPng(last.map, last.size, colours), []];
}

const TASKS = { open, segment, tune, mask };
let before = Promise.resolve();

self.onmessage = ({ data: { id, task, ...given } }) => {
  before = before.then(async () => {
    try {
      const [answer, moved] = await TASKS[task](given);
      self.postMessage({ id, answer }, moved);
    } catch (error) {
      const message = String(error.message ?? error); // the runtime may throw a number
      self.postMessage({ id, error: { name: error.name, message } });
    }
  });
};
