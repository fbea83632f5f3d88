// The fleet as it is now, asked for again and again while somebody looks.
import { read } from "./api.js";
import { Watched } from "./state.js";

export const fleet = new Watched({ view: null, error: "" });

let timer = 0;
let everyMs = 5000;
let asking = null;

export function lookEvery(ms) {
  everyMs = ms;
  look();
}

export function look() {
  clearTimeout(timer);
  asking ??= ask().finally(() => {
    asking = null;
    clearTimeout(timer);
    timer = setTimeout(look, everyMs);
  });
  return asking;
}

async function ask() {
  if (document.hidden && fleet.value.view) return;
  try {
    fleet.set({ view: await read("/admin/fleet"), error: "" });
  } catch (error) {
    if (error.status === 403) return askForModels();
    const message = error.status ? error.message : "The server cannot be reached.";
    fleet.set({ view: fleet.value.view, error: message });
  }
}

// A key that is no administrator's may still ask each model.
async function askForModels() {
  try {
    const { data } = await read("/v1/models");
    const queues = data.map(({ id, capabilities }) => ({
      model: id,
      queue: id,
      capabilities,
      live_workers: 1,
    }));
    fleet.set({ view: { queues, limited: true }, error: "" });
  } catch (error) {
    fleet.set({ view: fleet.value.view, error: error.message });
  }
}

document.addEventListener("visibilitychange", () => document.hidden || look());

// What can be asked: each model once, and its queues by themselves where it has several. Models
// that embed or rank generate no text; a queue without any worker yet may not say what it is for.
export function choices(view) {
  const models = new Map();
  for (const queue of view?.queues ?? []) {
    if (queue.capabilities?.length && !queue.capabilities.includes("generate")) continue;
    models.set(queue.model, [...(models.get(queue.model) ?? []), queue]);
  }
  const found = [];
  for (const [name, queues] of [...models].sort()) {
    const live = queues.filter((queue) => queue.live_workers);
    found.push({ id: name, queues, live: live.length > 0 });
    if (queues.length > 1) {
      for (const queue of queues) {
        found.push({ id: queue.queue, queues: [queue], live: queue.live_workers > 0 });
      }
    }
  }
  return found;
}

export function takesImages(view, model) {
  const chosen = choices(view).find((one) => one.id === model);
  return Boolean(chosen?.queues.some((queue) => queue.capabilities?.includes("image")));
}

export function describe({ queues }) {
  if (queues.every((queue) => queue.device === undefined)) return "";
  const load = queues.reduce((sum, queue) => sum + queue.running + queue.waiting_jobs, 0);
  const slots = queues.reduce((sum, queue) => sum + queue.slots, 0);
  const devices = [...new Set(queues.map((queue) => queue.device))].join(", ");
  const formats = [...new Set(queues.map((queue) => queue.format))].join(", ");
  if (!slots) return `${devices} · no worker`;
  return `${devices} · ${formats} · ${load} of ${slots} slots busy`;
}
