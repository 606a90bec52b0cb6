// Pictures of moments: asked for in batches, one batch at a time, kept in a store that does not grow.
(function () {
  "use strict";
  const Haven = (window.HavenVlm = window.HavenVlm || {});
  const { React } = window.PluginApi;
  const h = React.createElement;
  const KEPT = 240;
  const BATCH = 48;
  const PAUSE_MS = 250; // each batch is a process: wait until scrolling rests
  const DATA_URL = /^data:image\/(jpeg|png|webp);base64,[A-Za-z0-9+/=]*$/;

  function keyOf(id, t) {
    return id + "@" + t.toFixed(3);
  }

  const pictures = new Map(); // key → data URL, or null where there is none; the least recently wanted first
  const listeners = new Set();
  let wanted = [];
  let timer = 0;
  let busy = false;

  function keep(key, image) {
    pictures.delete(key);
    pictures.set(key, image);
    while (pictures.size > KEPT) pictures.delete(pictures.keys().next().value);
  }

  /** Ask for the moments that are wanted now; what was wanted before and is out of sight is not asked for any more. */
  function want(id, times) {
    for (const t of times) {
      const key = keyOf(id, t);
      if (pictures.has(key)) keep(key, pictures.get(key));
    }
    const missing = times.filter((t) => !pictures.has(keyOf(id, t)));
    wanted = [...wanted.filter((one) => one.id === id && !missing.includes(one.t)), ...missing.map((t) => ({ id, t }))].slice(-BATCH);
    clearTimeout(timer);
    if (wanted.length) timer = setTimeout(load, PAUSE_MS);
  }

  async function load() {
    if (busy || !wanted.length) return;
    busy = true;
    const id = wanted[0].id;
    const times = wanted.filter((one) => one.id === id).map((one) => one.t);
    wanted = wanted.filter((one) => one.id !== id);
    try {
      const reply = await Haven.stash.operation("thumbnails", { id, times });
      for (const t of times) keep(keyOf(id, t), null);
      for (const one of Haven.text.list(reply.thumbnails, BATCH)) {
        const image = typeof one.image === "string" && DATA_URL.test(one.image) ? one.image : null;
        keep(keyOf(id, Haven.text.number(one.t)), image);
      }
    } catch (error) {
      for (const t of times) keep(keyOf(id, t), null); // no picture is no reason to fail, nor to ask for ever
    } finally {
      busy = false;
      for (const listener of Array.from(listeners)) listener({});
      if (wanted.length) timer = setTimeout(load, PAUSE_MS);
    }
  }

  /** React hook: have these moments' pictures loaded; returns (t) → data URL, null = none, undefined = not yet. */
  function usePictures(id, times) {
    const [, renew] = React.useState({});
    const list = times.map((t) => t.toFixed(3)).join(" ");
    React.useEffect(() => {
      listeners.add(renew);
      return () => {
        listeners.delete(renew);
      };
    }, []);
    React.useEffect(() => {
      if (list) want(id, list.split(" ").map(Number));
    }, [id, list]);
    return (t) => pictures.get(keyOf(id, Number(t.toFixed(3))));
  }

  /** A picture's place: always of the same size, so that nothing moves when it comes. */
  function Picture({ image, alt }) {
    return image
      ? h("img", { className: "haven-picture", src: image, alt })
      : h("span", { className: "haven-picture haven-picture-missing" }, image === null ? "no picture" : "…");
  }

  Haven.thumbnails = { usePictures, Picture };
})();
