// The chat: conversations at the side, messages, and the field to write in.
import { announce, useWatched } from "./state.js";
import { ask, isRunning, stop } from "./answers.js";
import { conversations, create, newId, remove, sorted, storageTrouble, touch } from "./conversations.js";
import { Composer } from "./composer.js";
import { html, useCallback, useEffect, useLayoutEffect, useRef, useState } from "./dom.js";
import { choices, fleet, lookEvery, takesImages } from "./fleet-view.js";
import { MenuIcon, PlusIcon, SlidersIcon, TrashIcon } from "./icons.js";
import { Message } from "./message.js";
import { ModelChoice, Parameters } from "./parameters.js";

const CURRENT = "penstock.current";
const NEAR_END_PX = 80;
const TITLE_CHARACTERS = 60;

function useCurrent() {
  const all = useWatched(conversations);
  const [id, setId] = useState(() => localStorage.getItem(CURRENT));
  const choose = useCallback((chosen) => {
    localStorage.setItem(CURRENT, chosen);
    setId(chosen);
  }, []);
  return [all.get(id), choose];
}

export function ChatPage() {
  const { view, error } = useWatched(fleet);
  const trouble = useWatched(storageTrouble);
  const [current, choose] = useCurrent();
  const [drawer, setDrawer] = useState(false);
  const [tuning, setTuning] = useState(false);
  useEffect(() => lookEvery(5000), []);
  useEffect(() => {
    // Start with a fresh conversation where there is none, and with a model that is there.
    const usable = choices(view);
    const model = (usable.find((one) => one.live) ?? usable[0])?.id ?? "";
    if (!current) choose((sorted().find((one) => !one.messages.length) ?? create({ model })).id);
    else if (!current.messages.length && !usable.some((one) => one.id === current.model) && model) {
      current.model = model;
      touch(current);
    }
  }, [current, view]);
  const fresh = () => {
    const kept = current ? { model: current.model, system: current.system, parameters: { ...current.parameters } } : {};
    const empty = sorted().find((one) => !one.messages.length);
    choose((empty ?? create(kept)).id);
    setDrawer(false);
  };
  return html`
    <${Sidebar} open=${drawer} close=${() => setDrawer(false)} current=${current} choose=${choose} fresh=${fresh} />
    <section class="talk" aria-label="Conversation">
      <div class="talk-bar">
        <button type="button" class="icon narrow-only" aria-label="Conversations" aria-expanded=${drawer}
          onClick=${() => setDrawer(!drawer)}><${MenuIcon} /></button>
        ${current && html`<${ModelChoice} conversation=${current} view=${view} />`}
        <span class="spacer"></span>
        <button type="button" class=${tuning ? "icon on" : "icon"} aria-label="Parameters" title="System prompt and parameters"
          aria-expanded=${tuning} aria-controls="parameters" onClick=${() => setTuning(!tuning)}><${SlidersIcon} /></button>
        <button type="button" class="icon narrow-only" aria-label="New conversation" onClick=${fresh}><${PlusIcon} /></button>
      </div>
      ${tuning && current && html`<${Parameters} conversation=${current} />`}
      ${(error || trouble) && html`<p class="banner" role="alert">${trouble || error}</p>`}
      ${current && html`<${Talk} key=${current.id} conversation=${current} view=${view} />`}
    </section>
  `;
}

function Sidebar({ open, close, current, choose, fresh }) {
  const shown = sorted().filter((one) => one.messages.length);
  const drop = (conversation) => {
    if (!confirm(`Delete “${conversation.title}”?`)) return;
    for (const message of conversation.messages) if (isRunning(message)) stop(conversation, message);
    remove(conversation);
    announce("Conversation deleted");
  };
  return html`
    <div class=${open ? "shade open" : "shade"} onClick=${close}></div>
    <aside class=${open ? "side open" : "side"} aria-label="Conversations"
      onKeyDown=${(event) => event.key === "Escape" && close()}>
      <button type="button" class="primary wide" onClick=${fresh}><${PlusIcon} /> New conversation</button>
      <ul>
        ${shown.map((conversation) => html`<li key=${conversation.id} class=${conversation === current ? "here" : ""}>
          <button type="button" class="title" aria-current=${conversation === current ? "true" : null}
            onClick=${() => {
              choose(conversation.id);
              close();
            }}>
            ${conversation.messages.some(isRunning) && html`<span class="dot live" title="An answer is on its way"></span>`}
            ${conversation.title}</button>
          <button type="button" class="icon small" aria-label=${`Delete ${conversation.title}`}
            onClick=${() => drop(conversation)}><${TrashIcon} /></button>
        </li>`)}
      </ul>
      ${!shown.length && html`<p class="hint">Conversations stay in this browser.</p>`}
    </aside>
  `;
}

function Talk({ conversation, view }) {
  const list = useRef(null);
  const follows = useRef(true);
  const open = conversation.messages.find((message) => message.status === "open");
  useLayoutEffect(() => {
    if (follows.current) list.current.scrollTop = list.current.scrollHeight;
  });
  const scrolled = () => {
    const { scrollTop, scrollHeight, clientHeight } = list.current;
    follows.current = scrollHeight - scrollTop - clientHeight < NEAR_END_PX;
  };
  const send = (text, pictures = []) => {
    conversation.messages.push({ id: newId(), role: "user", content: text, ...(pictures.length && { pictures }) });
    conversation.title ||= text.slice(0, TITLE_CHARACTERS).split("\n")[0] || "An image";
    follows.current = true;
    ask(conversation);
  };
  // Everything from a message on is dropped, then requested again.
  const cut = (message, content) => {
    const at = conversation.messages.indexOf(message);
    for (const later of conversation.messages.slice(at)) if (isRunning(later)) stop(conversation, later);
    conversation.messages.length = message.role === "user" ? at + 1 : at;
    if (content !== undefined) message.content = content;
    follows.current = true;
    ask(conversation);
  };
  const ready = conversation.model && view?.queues.length;
  return html`
    <div class="messages" ref=${list} onScroll=${scrolled} tabindex="0" role="log" aria-live="off" aria-label="Messages">
      ${!conversation.messages.length && html`<${Welcome} view=${view} send=${ready ? send : null} />`}
      ${conversation.messages.map((message, index) => html`<${Message} key=${message.id} message=${message}
        busy=${Boolean(open)} last=${index === conversation.messages.length - 1} redo=${cut} />`)}
    </div>
    <${Composer} send=${send} stop=${open && (() => stop(conversation, open))} ready=${ready}
      sees=${takesImages(view, conversation.model)} />
  `;
}

const IDEAS = [
  "Tell me a short story about a lighthouse.",
  "Explain what a penstock is in two sentences.",
  "Write a Python function that counts words.",
];

function Welcome({ view, send }) {
  if (view && !view.queues.length) {
    return html`<div class="welcome">
      <h1>No model yet</h1>
      <p>Start a worker, and it shows up here:</p>
      <pre>celery -A workers worker -Q bigdl-demo-cpu</pre>
    </div>`;
  }
  return html`<div class="welcome">
    <img src="/assets/icon.svg" alt="" width="56" height="56" />
    <h1>What shall we talk about?</h1>
    <div class="ideas">
      ${IDEAS.map((idea) => html`<button type="button" class="card" disabled=${!send} onClick=${() => send(idea)}>${idea}</button>`)}
    </div>
  </div>`;
}
