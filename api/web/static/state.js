// Values that components watch.
import { useEffect, useState } from "./dom.js";

const NOTICE_MS = 40; // streams change a message far more often than anyone can see

export class Watched {
  #watchers = new Set();
  #timer = 0;

  constructor(value) {
    this.value = value;
  }

  set(value) {
    this.value = value;
    this.changed();
  }

  // Tell everyone soon, once for many changes. (A timer, as a hidden page gets no frames.)
  changed() {
    this.#timer ||= setTimeout(() => {
      this.#timer = 0;
      for (const watcher of [...this.#watchers]) watcher();
    }, NOTICE_MS);
  }

  watch(watcher) {
    this.#watchers.add(watcher);
    return () => this.#watchers.delete(watcher);
  }
}

export function useWatched(watched) {
  const [, redraw] = useState(0);
  useEffect(() => watched.watch(() => redraw((n) => n + 1)), [watched]);
  return watched.value;
}

// What screen readers are told; shown nowhere.
export const announcement = new Watched("");

export function announce(text) {
  announcement.set(text);
}
