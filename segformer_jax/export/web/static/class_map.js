// Upsamples logits bilinearly, as torch does, and takes the best class of each pixel.
//
// Between two rows and two columns of the logits lies a cell. Inside it a class is at most its
// largest corner, and the winner at least the largest, over all classes, of the smallest corner.
// Only classes that reach this floor are compared: on a photo mostly one or two.

// For each of `count` pixels: the logits' places before and after it, and the weight of the latter.
function neighbours(old, count) {
  const scale = Math.fround(old / count);
  const low = new Int32Array(count);
  const high = new Int32Array(count);
  const weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const position = Math.max(0, Math.fround(Math.fround((i + 0.5) * scale) - 0.5));
    low[i] = Math.min(Math.trunc(position), old - 1);
    high[i] = Math.min(low[i] + 1, old - 1);
    weight[i] = position - low[i];
  }
  return { low, high, weight };
}

// Where runs of pixels with the same neighbours begin, and the end.
function runs(low) {
  const starts = [];
  for (let i = 0; i < low.length; i++) if (i === 0 || low[i] !== low[i - 1]) starts.push(i);
  return [...starts, low.length];
}

// Writes the classes that can win between four corners to `live`; returns how many there are.
function candidates(logits, labels, plane, corners, live) {
  const [a, b, c, d] = corners;
  let floor = -Infinity;
  for (let label = 0, at = 0; label < labels; label++, at += plane) {
    const least = Math.min(logits[at + a], logits[at + b], logits[at + c], logits[at + d]);
    if (least > floor) floor = least;
  }
  let count = 0;
  for (let label = 0, at = 0; label < labels; label++, at += plane) {
    const most = Math.max(logits[at + a], logits[at + b], logits[at + c], logits[at + d]);
    if (most >= floor) live[count++] = label;
  }
  return count;
}

// The class map (height × width, 16 bits each) of logits (labels, h, w).
// With a single label it is 1 where the logit is above 0.
export function classMap(logits, [labels, h, w], [height, width]) {
  const plane = h * w;
  const [rows, columns] = [neighbours(h, height), neighbours(w, width)];
  const [down, across] = [runs(rows.low), runs(columns.low)];
  const map = new Uint16Array(height * width);
  const live = new Int32Array(labels);

  function fill(top, bottom, left, right, corners, count) {
    const [a, b, c, d] = corners;
    for (let row = top; row < bottom; row++) {
      const y = rows.weight[row];
      for (let column = left; column < right; column++) {
        const x = columns.weight[column];
        let best = -Infinity;
        for (let i = 0; i < count; i++) {
          const at = live[i] * plane;
          const first = logits[at + a] + (logits[at + c] - logits[at + a]) * y;
          const second = logits[at + b] + (logits[at + d] - logits[at + b]) * y;
          const value = first + (second - first) * x;
          if (value > best) {
            best = value;
            map[row * width + column] = labels === 1 ? Number(value > 0) : live[i];
          }
        }
      }
    }
  }

  for (let i = 0; i + 1 < down.length; i++) {
    const [top, bottom] = [down[i], down[i + 1]];
    const [upper, lower] = [rows.low[top] * w, rows.high[top] * w];
    for (let j = 0; j + 1 < across.length; j++) {
      const [left, right] = [across[j], across[j + 1]];
      const [before, after] = [columns.low[left], columns.high[left]];
      const corners = [upper + before, upper + after, lower + before, lower + after];
      const count = candidates(logits, labels, plane, corners, live);
      if (count > 1 || labels === 1) {
        fill(top, bottom, left, right, corners, count);
      } else {
        for (let row = top; row < bottom; row++) {
          map.fill(live[0], row * width + left, row * width + right);
        }
      }
    }
  }
  return map;
}

// Shrinks a class map: each pixel gets the class at its centre, as classes can't be averaged.
export function shrunk(map, [height, width], [newHeight, newWidth]) {
  const small = new Uint16Array(newHeight * newWidth);
  for (let row = 0, to = 0; row < newHeight; row++) {
    const line = Math.trunc(((row + 0.5) * height) / newHeight) * width;
    for (let column = 0; column < newWidth; column++) {
      small[to++] = map[line + Math.trunc(((column + 0.5) * width) / newWidth)];
    }
  }
  return small;
}

// The classes in a map as [class, pixels], largest first; of equals the lower class first.
export function countsOf(map) {
  const counts = new Uint32Array(65536);
  for (let i = 0; i < map.length; i++) counts[map[i]]++;
  const found = [];
  for (let id = 0; id < counts.length; id++) if (counts[id] > 0) found.push([id, counts[id]]);
  return found.sort((one, other) => other[1] - one[1]);
}
