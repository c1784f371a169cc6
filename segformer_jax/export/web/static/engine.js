// Runs the network: on the GPU by WebGPU where that works, else by WebAssembly.

const HERE = new URL("./", import.meta.url).href;
const MOST_THREADS = 8;

// Software that only imitates a GPU is slower than WebAssembly.
async function hasGpu() {
  try {
    const adapter = await navigator.gpu?.requestAdapter();
    return Boolean(adapter) && !adapter.info?.isFallbackAdapter;
  } catch {
    return false;
  }
}

export class Engine {
  // `model` is the ONNX file's bytes.
  constructor(model) {
    this.model = model;
    this.sessions = new Map(); // by use: the size that it is for, and the session
    this.threads = self.crossOriginIsolated
      ? Math.min(navigator.hardwareConcurrency, MOST_THREADS)
      : 1;
  }

  // Prepares for inputs of this size.
  async start(size) {
    if (await hasGpu()) {
      try {
        await this.#startWith("webgpu", size);
        return;
      } catch (error) {
        console.warn("WebGPU failed, WebAssembly is used:", error);
      }
    }
    await this.#startWith("wasm", size);
  }

  // Returns { logits, shape } of normalised pixels (3, height, width). Each `use` keeps a session
  // for its last size; a session that knows its size runs faster.
  async run(values, size, use) {
    try {
      return await this.#run(values, size, use);
    } catch (error) {
      if (this.kind !== "webgpu") throw error;
      console.warn("WebGPU failed, WebAssembly is used:", error);
      await this.#startWith("wasm", size);
      return await this.#run(values, size, use);
    }
  }

  async #startWith(kind, size) {
    this.sessions.clear();
    this.kind = kind;
    this.ort = await import(`./ort.${kind}.min.mjs`);
    this.ort.env.wasm.wasmPaths = HERE;
    this.ort.env.wasm.numThreads = this.threads;
    await this.#session(...size, "photo");
    if (kind === "webgpu") await this.#run(new Float32Array(3 * size[0] * size[1]), size, "photo");
  }

  async #run(values, [height, width], use) {
    const session = await this.#session(height, width, use);
    const input = new this.ort.Tensor("float32", values, [1, 3, height, width]);
    const { logits } = await session.run({ pixel_values: input });
    return { logits: logits.data, shape: logits.dims.slice(1) };
  }

  async #session(height, width, use) {
    const size = `${height}×${width}`;
    const kept = this.sessions.get(use);
    if (kept?.size === size) return kept.session;
    this.sessions.delete(use);
    await kept?.session.release();
    const session = await this.ort.InferenceSession.create(this.model, {
      executionProviders: [this.kind],
      freeDimensionOverrides: { height, width },
    });
    this.sessions.set(use, { size, session });
    return session;
  }
}
