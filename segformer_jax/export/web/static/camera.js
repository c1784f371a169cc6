// Films: segments one frame of the camera after the other, at most ten a second.

const FRAME = 100; // milliseconds

const REASONS = {
  NotFoundError: "There is no camera: connect one, or choose a photo",
  NotAllowedError: "The camera is not allowed: allow it for this page in the browser's settings",
  NotReadableError: "The camera is used by another program: close that first",
};

async function opened(video) {
  if (!navigator.mediaDevices) {
    throw new Error("The camera needs a page from https:// or from this machine");
  }
  try {
    const wanted = { facingMode: "environment", width: { ideal: 640 }, height: { ideal: 480 } };
    video.srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
  } catch (error) {
    throw new Error(REASONS[error.name] ?? `The camera can't be opened: ${error.message}`);
  }
  await video.play();
}

const pause = (time) => new Promise((then) => setTimeout(then, Math.max(0, time)));

export class Camera {
  // `ask` puts a task to the worker, `show` shows its answer, `say` tells the visitor a sentence.
  constructor(video, { ask, show, say }) {
    Object.assign(this, { video, ask, show, say, films: false });
  }

  async film() {
    this.films = true;
    try {
      await opened(this.video);
      if (!this.films) return; // it was stopped meanwhile
      this.say("Measuring how large a frame may be …");
      const size = await this.#ask("tune");
      await this.#frames(`${size.width} × ${size.height} pixels`);
    } finally {
      this.stop();
    }
  }

  stop() {
    this.films = false;
    for (const track of this.video.srcObject?.getTracks() ?? []) track.stop();
    this.video.srcObject = null;
  }

  async #frames(size) {
    for (let count = 0, since = performance.now(); this.films; count++) {
      const start = performance.now();
      if (start - since > 1000) {
        const rate = (1000 * count) / (start - since);
        this.say(`Filming: ${rate.toFixed(1)} frames a second at ${size}.`);
        [count, since] = [0, start];
      }
      const answer = await this.#ask("segment");
      if (this.films) this.show(answer, "camera");
      await pause(FRAME - (performance.now() - start));
    }
  }

  async #ask(task) {
    const source = await createImageBitmap(this.video);
    return this.ask({ task, source, use: "film" }, [source]);
  }
}
