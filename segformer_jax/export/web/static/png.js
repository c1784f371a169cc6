// Writes a class map as a PNG of class indices, as `Segmentation.save` does.

const SIGNATURE = [137, 80, 78, 71, 13, 10, 26, 10];

const CRC = new Uint32Array(256).map((_, byte) => {
  for (let bit = 0; bit < 8; bit++) byte = byte & 1 ? (byte >>> 1) ^ 0xedb88320 : byte >>> 1;
  return byte;
});

function crc(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = CRC[(value ^ byte) & 255] ^ (value >>> 8);
  return ~value >>> 0;
}

function chunk(kind, content) {
  const bytes = new Uint8Array(12 + content.length);
  const view = new DataView(bytes.buffer);
  view.setUint32(0, content.length);
  bytes.set(new TextEncoder().encode(kind), 4);
  bytes.set(content, 8);
  view.setUint32(8 + content.length, crc(bytes.subarray(4, 8 + content.length)));
  return bytes;
}

async function deflated(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new CompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// The rows of the picture, each behind a 0, the number of PNG's "no filter".
function rowsOf(map, [height, width], bytesEach) {
  const length = 1 + width * bytesEach;
  const bytes = new Uint8Array(height * length);
  for (let row = 0, from = 0; row < height; row++) {
    let to = row * length + 1;
    for (let column = 0; column < width; column++, from++) {
      if (bytesEach === 2) bytes[to++] = map[from] >> 8;
      bytes[to++] = map[from] & 255;
    }
  }
  return bytes;
}

// A palette of `colours`, "#rrggbb" by class; grey with 16 bits if the network has more than 255.
export async function indexPng(map, [height, width], colours) {
  const wide = colours.length > 255;
  const header = new Uint8Array(13);
  const view = new DataView(header.buffer);
  view.setUint32(0, width);
  view.setUint32(4, height);
  header[8] = wide ? 16 : 8; // bits
  header[9] = wide ? 0 : 3; // grey, or a palette
  const palette = new Uint8Array(3 * 256); // black where there is no class
  for (const [id, colour] of wide ? [] : colours.entries()) {
    palette.set([1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)), 3 * id);
  }
  const parts = [
    new Uint8Array(SIGNATURE),
    chunk("IHDR", header),
    ...(wide ? [] : [chunk("PLTE", palette)]),
    chunk("IDAT", await deflated(rowsOf(map, [height, width], wide ? 2 : 1))),
    chunk("IEND", new Uint8Array(0)),
  ];
  return new Blob(parts, { type: "image/png" });
}
