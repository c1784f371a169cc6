// Starts the service worker of headers.js, and loads the page again, once, so that its headers hold.

const MARK = "segformer-jax: loaded again";

export async function isolate() {
  if (self.crossOriginIsolated) return sessionStorage.removeItem(MARK);
  if (!navigator.serviceWorker || sessionStorage.getItem(MARK)) return;
  try {
    await navigator.serviceWorker.register("headers.js");
    await navigator.serviceWorker.ready;
  } catch {
    return; // the page says that it runs on one thread
  }
  sessionStorage.setItem(MARK, "yes");
  location.reload();
  await new Promise(() => {}); // until it is loaded
}
