// Turns pixels into the network's input, as `SegformerImageProcessor` does.
import { resized } from "./resize.js";

// Python's `round`: halves go to the even neighbour.
function rounded(x) {
  const below = Math.floor(x);
  if (x - below !== 0.5) return Math.round(x);
  return below % 2 === 0 ? below : below + 1;
}

// Returns [height, width] that a picture is resized to; `images/sizes.py` has the same rule.
export function targetSize(size, height, width) {
  const sides = (h, w) => [Math.max(1, h), Math.max(1, w)];
  if (size === null) return [height, width];
  if ("height" in size) return [size.height, size.width];
  if ("max_height" in size) {
    const scale = Math.min(size.max_height / height, size.max_width / width);
    return sides(Math.trunc(height * scale), Math.trunc(width * scale));
  }
  const [short, long] = [Math.min(height, width), Math.max(height, width)];
  const longest = size.longest_edge;
  let [edge, exact] = [size.shortest_edge, size.shortest_edge];
  if (longest !== undefined && (long / short) * edge > longest) {
    exact = (longest * short) / long;
    edge = rounded(exact);
  }
  if (longest !== undefined && edge === short) return [height, width];
  const other = Math.trunc((exact * long) / short);
  return sides(...(height <= width ? [edge, other] : [other, edge]));
}

// Returns normalised values, channels first, from RGBA pixels.
// `byteValues` has, for each channel, the value of each byte 0…255.
export function networkInput(pixels, [height, width], [newHeight, newWidth], resample, byteValues) {
  const rgb = resized(pixels, width, height, newWidth, newHeight, resample);
  const count = newHeight * newWidth;
  const values = new Float32Array(3 * count);
  for (let channel = 0; channel < 3; channel++) {
    const table = byteValues[channel];
    for (let i = 0; i < count; i++) values[channel * count + i] = table[rgb[3 * i + channel]];
  }
  return values;
}
