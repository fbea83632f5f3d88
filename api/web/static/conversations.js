// Conversations, kept in this browser: one entry of localStorage each.
//
//   {id, title, createdMs, updatedMs, model, system, parameters, messages: [message]}
//   message: {id, role: "user" | "assistant", content, ...}
//   a user's may also have pictures: [data URL]
//   an assistant's also: status: "open" | "done" | "stopped" | "failed"; tail: text that a resumed
//   stream would send again; key, request, jobId, seen: what resuming needs; figures, error, model.
import { Watched } from "./state.js";

const PREFIX = "penstock.conversation.";
const SAVE_MS = 300;

export const conversations = new Watched(load());
export const storageTrouble = new Watched("");

const unsaved = new Set();
let timer = 0;

function load() {
  const found = new Map();
  for (const name of Object.keys(localStorage)) {
    if (!name.startsWith(PREFIX)) continue;
    try {
      const conversation = JSON.parse(localStorage.getItem(name));
      found.set(conversation.id, conversation);
    } catch {
      // Not ours, or of another release: left alone.
    }
  }
  return found;
}

export function sorted() {
  return [...conversations.value.values()].sort((a, b) => b.updatedMs - a.updatedMs);
}

export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export function create(settings = {}) {
  const now = Date.now();
  const conversation = {
    id: newId(), title: "", createdMs: now, updatedMs: now,
    model: "", system: "", parameters: {}, messages: [], ...settings,
  };
  conversations.value.set(conversation.id, conversation);
  conversations.changed();
  return conversation;
}

// To be called after every change of a conversation.
export function touch(conversation, { now = false } = {}) {
  conversation.updatedMs = Date.now();
  if (conversation.messages.length) unsaved.add(conversation.id);
  conversations.changed();
  if (now) save();
  else timer ||= setTimeout(save, SAVE_MS);
}

export function remove(conversation) {
  conversations.value.delete(conversation.id);
  unsaved.delete(conversation.id);
  localStorage.removeItem(PREFIX + conversation.id);
  conversations.changed();
}

function save() {
  clearTimeout(timer);
  timer = 0;
  for (const id of unsaved) {
    try {
      localStorage.setItem(PREFIX + id, JSON.stringify(conversations.value.get(id)));
      unsaved.delete(id);
      storageTrouble.set("");
    } catch {
      storageTrouble.set("This browser's storage is full: delete conversations, or this one is lost.");
      return;
    }
  }
}

addEventListener("pagehide", save);
document.addEventListener("visibilitychange", () => document.hidden && save());

// Another tab has written. What this tab is busy with stays as it is.
addEventListener("storage", ({ key, newValue }) => {
  if (!key?.startsWith(PREFIX)) return;
  const id = key.slice(PREFIX.length);
  if (unsaved.has(id)) return;
  if (newValue === null) conversations.value.delete(id);
  else conversations.value.set(id, JSON.parse(newValue));
  conversations.changed();
});
