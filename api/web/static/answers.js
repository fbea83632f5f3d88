// Answers on their way: asked for, followed, taken up again after a reload or a lost connection.
import { ApiError, call, read } from "./api.js";
import { conversations, newId, touch } from "./conversations.js";
import { frames, indexOf, updatesOf } from "./sse.js";
import { announce } from "./state.js";

const FIRST_PAUSE_MS = 400;
const LONGEST_PAUSE_MS = 5000;
const PATIENCE_MS = 10 * 60_000; // a job's journal is kept for as long
const TRIES_TO_ASK = 4;
const TRIES_TO_RESUME = 4; // in a row, without a new token
const PASSING = new Set(["store_unavailable", "draining"]); // the job itself goes on

const running = new Map(); // message id -> AbortController

const NUMBERS = ["temperature", "top_p", "top_k", "max_tokens", "seed", "repetition_penalty"];

function partsOf(text, pictures) {
  const images = pictures.map((url) => ({ type: "image_url", image_url: { url } }));
  return text ? [...images, { type: "text", text }] : images;
}

function requestOf(conversation, before) {
  const messages = before.map(({ role, content, pictures }) => ({ role, content: pictures ? partsOf(content, pictures) : content }));
  const system = conversation.system.trim();
  if (system) messages.unshift({ role: "system", content: system });
  const request = {
    model: conversation.model, messages, stream: true, stream_options: { include_usage: true },
  };
  for (const name of NUMBERS) {
    const value = conversation.parameters[name];
    if (value !== undefined && value !== null && value !== "") request[name] = Number(value);
  }
  const stop = conversation.parameters.stop?.split("\n").filter(Boolean);
  if (stop?.length) request.stop = stop;
  return request;
}

// Ask for the answer to all messages of a conversation.
export function ask(conversation) {
  const message = {
    id: newId(), role: "assistant", content: "", tail: "", status: "open", model: conversation.model,
    key: newId(), request: requestOf(conversation, conversation.messages), jobId: "", seen: -1, seenId: "",
    figures: { askedMs: Date.now() }, error: "",
  };
  conversation.messages.push(message);
  touch(conversation, { now: true });
  start(conversation, message);
}

// Go on with what was open when the page was left.
export function resumeAll() {
  for (const conversation of conversations.value.values()) {
    for (const message of conversation.messages) {
      if (message.status === "open" && !running.has(message.id)) start(conversation, message, true);
    }
  }
}

export function isRunning(message) {
  return running.has(message.id);
}

export async function stop(conversation, message) {
  running.get(message.id)?.abort();
  running.delete(message.id);
  end(conversation, message, "stopped");
  announce("Stopped");
  const path = message.jobId ? `/v1/jobs/${message.jobId}` : `/v1/requests/${message.key}`;
  for (let pause = FIRST_PAUSE_MS; pause < LONGEST_PAUSE_MS; pause *= 2) {
    try {
      await call("DELETE", path);
      return;
    } catch (error) {
      // 404: the request itself may still be on its way.
      if (error instanceof ApiError && error.status !== 404 && error.status < 500) return;
      await sleep(pause);
    }
  }
}

function start(conversation, message, resumed = false) {
  const control = new AbortController();
  running.set(message.id, control);
  message.waiting = resumed ? "resuming" : "";
  run(conversation, message, control.signal, resumed).catch((error) => {
    if (control.signal.aborted) return;
    message.error = error.message;
    end(conversation, message, "failed");
  });
}

async function run(conversation, message, signal, resumed) {
  let pause = FIRST_PAUSE_MS;
  let lostMs = 0;
  let asked = 0;
  let refused = 0;
  while (!signal.aborted) {
    const before = message.seen;
    try {
      if (resumed && !message.jobId) await find(message, signal);
      resumed = true;
      if (!message.jobId) asked += 1;
      const response = await open(message, signal);
      message.jobId ||= response.headers.get("x-penstock-jobs") ?? "";
      message.waiting = "";
      lostMs = 0;
      if (await follow(conversation, message, response, signal)) return;
    } catch (error) {
      if (signal.aborted) return;
      if (error instanceof StreamRefused) refused += 1;
      else if (isForgotten(error, message)) askAgain(message);
      else if (error instanceof ApiError && !isPassing(error, message)) throw explained(error, message);
      if (refused >= TRIES_TO_RESUME || (!message.jobId && asked >= TRIES_TO_ASK)) throw givenUp(error);
    }
    if (message.seen > before) {
      refused = 0;
      pause = FIRST_PAUSE_MS;
    }
    lostMs ||= Date.now();
    if (Date.now() - lostMs > PATIENCE_MS) throw new Error("The connection was lost for too long.");
    message.waiting = "reconnecting";
    touch(conversation);
    await backOnline(pause);
    pause = Math.min(pause * 2, LONGEST_PAUSE_MS);
  }
}

// A stream that ended with an error which may pass, such as Redis being away.
class StreamRefused extends Error {}

function isPassing(error, message) {
  // Before a job is known, a refusal is the answer; once it runs, trouble of the way to it passes.
  return Boolean(message.jobId || message.isAskedAgain) && (error.status >= 500 || error.status === 429);
}

// Whether the store has lost the job: its request is sent once more, under the same key, and gives the same answer.
function isForgotten(error, message) {
  return error.status === 404 && Boolean(message.jobId && message.request) && !message.isAskedAgain;
}

function askAgain(message) {
  message.jobId = "";
  message.isAskedAgain = true;
}

function explained(error, message) {
  if (error.status === 404 && message.jobId) {
    return new Error("The rest of this answer is not kept any more. Ask again to get a new one.");
  }
  return error;
}

function givenUp(error) {
  if (!(error instanceof StreamRefused || error instanceof ApiError)) return new Error("The server cannot be reached.");
  return new Error(`This answer cannot be continued. ${error.message.replace(/\.$/, "")}. Ask again to get a new one.`);
}

async function find(message, signal) {
  try {
    message.jobId = (await read(`/v1/requests/${message.key}`, { signal })).job;
  } catch (error) {
    // It never arrived: asking again, under the same key, is safe.
    if (!(error instanceof ApiError && error.status === 404)) throw error;
  }
}

function open(message, signal) {
  const headers = seenId(message) ? { "last-event-id": seenId(message) } : {};
  if (message.jobId) return call("GET", `/v1/jobs/${message.jobId}/events`, { headers, signal });
  headers["idempotency-key"] = message.key;
  return call("POST", "/v1/chat/completions", { body: message.request, headers, signal });
}

// The id of the last event that is in the message: an index and a digest, by which another text is noticed.
function seenId(message) {
  return message.seenId || (message.seen >= 0 ? String(message.seen) : "");
}

// Take updates in; return whether the answer has ended.
async function follow(conversation, message, response, signal) {
  let ended = false;
  message.tail = "";
  for await (const frame of frames(response.body)) {
    if (signal.aborted) return true;
    for (const update of updatesOf(frame)) {
      if (update.kind === "text") {
        addText(message, update);
      } else if (update.kind === "failed") {
        if (PASSING.has(update.code)) throw new StreamRefused(update.message);
        message.error = update.code === "cancelled" ? "The answer was cancelled." : update.message;
        end(conversation, message, update.code === "cancelled" ? "stopped" : "failed");
        return true;
      } else {
        ended = true;
        message.reason = update.reason ?? message.reason;
        if (update.usage) count(message, update.usage);
      }
      touch(conversation);
    }
  }
  if (ended) {
    end(conversation, message, "done");
    announce("The answer is complete");
  }
  return ended;
}

function addText(message, { text, id, tokens }) {
  const now = Date.now();
  message.figures.firstMs ||= now;
  message.figures.lastMs = now;
  if (id === null) {
    message.tail += text; // would be sent again to a stream that is taken up
  } else if (indexOf(id) > message.seen) {
    message.content += text;
    message.seen = indexOf(id);
    message.seenId = id;
    message.figures.tokens = tokens;
  }
}

function count(message, usage) {
  message.figures.tokens = usage.completion_tokens;
  message.figures.promptTokens = usage.prompt_tokens;
  message.figures.cachedTokens = usage.cached_tokens ?? usage.prompt_tokens_details?.cached_tokens;
}

function end(conversation, message, status) {
  running.delete(message.id);
  message.content += message.tail;
  message.tail = "";
  message.status = status;
  message.waiting = "";
  delete message.request;
  touch(conversation, { now: true });
}

function sleep(ms) {
  return new Promise((resolve) => setTimeout(resolve, ms));
}

// A pause that ends early when the network is back.
async function backOnline(ms) {
  let wake;
  const online = new Promise((resolve) => {
    wake = resolve;
    addEventListener("online", wake, { once: true });
  });
  await Promise.race([sleep(ms), online]);
  removeEventListener("online", wake);
}
