// Resizes RGB pixels as Pillow does, with the same bytes: weights in fixed point, first along the
// rows, then along the columns, each pass rounded to 8 bits. (Of pictures that are more than 100
// times as high as wide, Pillow shrinks the columns first.)

const PRECISION = 22; // bits behind the point of a weight
const HALF = 1 << (PRECISION - 1); // rounds the sum
const sinc = (x) => (x === 0 ? 1 : Math.sin(x * Math.PI) / (x * Math.PI));

function cubic(x) {
  const a = -0.5;
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// Pillow's filters by number: how far each reaches, and its weight at a distance. 0 is nearest.
const FILTERS = {
  1: { reach: 3, weight: (x) => (x >= -3 && x < 3 ? sinc(x) * sinc(x / 3) : 0) }, // lanczos
  2: { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) }, // bilinear
  3: { reach: 2, weight: (x) => cubic(Math.abs(x)) }, // bicubic
  4: { reach: 0.5, weight: (x) => (x > -0.5 && x <= 0.5 ? 1 : 0) }, // box
  5: { reach: 1, weight: (x) => hamming(Math.abs(x)) },
};

function hamming(x) {
  if (x === 0) return 1;
  const [middle, swing] = [0.54, 0.46].map(Math.fround); // Pillow has them in 32 bits
  return x < 1 ? sinc(x) * (middle + swing * Math.cos(x * Math.PI)) : 0;
}

// For each of `count` new places: the first old place that it reads, how many, and their weights.
function weightsOf(old, count, { reach, weight }) {
  const scale = old / count;
  const stretch = Math.max(1, scale);
  const support = reach * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const firsts = new Int32Array(count);
  const lengths = new Int32Array(count);
  const weights = new Int32Array(count * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < count; place++) {
    const center = (place + 0.5) * scale;
    const first = Math.max(0, Math.trunc(center - support + 0.5));
    const length = Math.min(old, Math.trunc(center + support + 0.5)) - first;
    let total = 0;
    for (let i = 0; i < length; i++) {
      exact[i] = weight((i + first - center + 0.5) * (1 / stretch));
      total += exact[i];
    }
    for (let i = 0; i < length; i++) {
      const share = (total === 0 ? exact[i] : exact[i] / total) * (1 << PRECISION);
      weights[place * most + i] = Math.trunc(share + (share < 0 ? -0.5 : 0.5));
    }
    [firsts[place], lengths[place]] = [first, length];
  }
  return { firsts, lengths, weights, most };
}

const clipped = (sum) => Math.min(255, Math.max(0, sum >> PRECISION));

// A pixel has `step` bytes, red first; in the result it has 3.
function alongRows(pixels, step, width, height, newWidth, filter) {
  const { firsts, lengths, weights, most } = weightsOf(width, newWidth, filter);
  const out = new Uint8Array(newWidth * height * 3);
  for (let row = 0, to = 0; row < height; row++) {
    for (let column = 0; column < newWidth; column++, to += 3) {
      let red = HALF;
      let green = HALF;
      let blue = HALF;
      let from = (row * width + firsts[column]) * step;
      for (let i = 0, k = column * most; i < lengths[column]; i++, k++, from += step) {
        red += pixels[from] * weights[k];
        green += pixels[from + 1] * weights[k];
        blue += pixels[from + 2] * weights[k];
      }
      out[to] = clipped(red);
      out[to + 1] = clipped(green);
      out[to + 2] = clipped(blue);
    }
  }
  return out;
}

function alongColumns(pixels, width, height, newHeight, filter) {
  const { firsts, lengths, weights, most } = weightsOf(height, newHeight, filter);
  const line = 3 * width;
  const out = new Uint8Array(line * newHeight);
  const sums = new Int32Array(line);
  for (let row = 0; row < newHeight; row++) {
    sums.fill(HALF);
    for (let i = 0; i < lengths[row]; i++) {
      const from = (firsts[row] + i) * line;
      const weight = weights[row * most + i];
      for (let x = 0; x < line; x++) sums[x] += pixels[from + x] * weight;
    }
    for (let x = 0; x < line; x++) out[row * line + x] = clipped(sums[x]);
  }
  return out;
}

// Positions are summed up step by step, as Pillow does, with its rounding.
function nearestPlaces(old, count) {
  const places = new Int32Array(count);
  const scale = old / count;
  for (let i = 0, position = scale * 0.5; i < count; i++, position += scale) {
    places[i] = Math.min(old - 1, Math.trunc(position));
  }
  return places;
}

function nearest(pixels, width, height, newWidth, newHeight) {
  const [columns, rows] = [nearestPlaces(width, newWidth), nearestPlaces(height, newHeight)];
  const out = new Uint8Array(newWidth * newHeight * 3);
  let to = 0;
  for (const row of rows) {
    for (const column of columns) {
      const from = (row * width + column) * 4;
      for (let c = 0; c < 3; c++) out[to++] = pixels[from + c];
    }
  }
  return out;
}

// Returns RGB of newWidth × newHeight from RGBA of width × height; opacity is dropped.
export function resized(pixels, width, height, newWidth, newHeight, resample) {
  if (resample === 0 || (width === newWidth && height === newHeight)) {
    return nearest(pixels, width, height, newWidth, newHeight);
  }
  const filter = FILTERS[resample];
  const opaque = () => nearest(pixels, width, height, width, height);
  if (height > 100 * width && newHeight < height) {
    const rgb = alongColumns(opaque(), width, height, newHeight, filter);
    return width === newWidth ? rgb : alongRows(rgb, 3, width, newHeight, newWidth, filter);
  }
  const rgb =
    width === newWidth ? opaque() : alongRows(pixels, 4, width, height, newWidth, filter);
  return height === newHeight ? rgb : alongColumns(rgb, newWidth, height, newHeight, filter);
}
