// Starts the service worker of headers.js and loads the page again, once, so that its headers hold.

const MARK = "segformer-jax: loaded again";

export async function isolate() {
  try {
    if (self.crossOriginIsolated) return sessionStorage.removeItem(MARK);
    if (!navigator.serviceWorker || sessionStorage.getItem(MARK)) return;
    await navigator.serviceWorker.register("headers.js");
    await navigator.serviceWorker.ready;
    sessionStorage.setItem(MARK, "yes");
  } catch (error) {
    console.warn("One thread only:", error); // the page says so, too
    return;
  }
  location.reload();
  await new Promise(() => {}); // until it is loaded
}
