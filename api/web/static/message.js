// One message, with what can be done to it and what it cost.
import { html, useState } from "./dom.js";
import { duration, rate } from "./format.js";
import { CopyIcon, PenIcon, RedoIcon } from "./icons.js";
import { copyText, Markdown } from "./markdown.js";
import { Pictures } from "./pictures.js";
import { announce } from "./state.js";

const WAITING = { reconnecting: "Connection lost, trying again…", resuming: "Taking the answer up again…" };

export function Message({ message, busy, last, redo }) {
  return message.role === "user"
    ? html`<${Asked} message=${message} busy=${busy} redo=${redo} />`
    : html`<${Answer} message=${message} busy=${busy} last=${last} redo=${redo} />`;
}

function Copy({ text }) {
  const copy = async () => {
    await copyText(text);
    announce("Copied");
  };
  return html`<button type="button" class="icon small" aria-label="Copy" title="Copy" onClick=${copy}><${CopyIcon} /></button>`;
}

function Asked({ message, busy, redo }) {
  const [draft, setDraft] = useState(null);
  if (draft !== null) {
    return html`<article class="asked editing" aria-label="Your message, being edited">
      <textarea aria-label="Your message" rows=${Math.min(draft.split("\n").length + 1, 12)} value=${draft}
        ref=${(field) => field && document.activeElement !== field && field.focus()}
        onInput=${(event) => setDraft(event.target.value)}></textarea>
      <div class="actions">
        <button type="button" class="plain" onClick=${() => setDraft(null)}>Cancel</button>
        <button type="button" class="primary" disabled=${!draft.trim()} onClick=${() => {
          setDraft(null);
          redo(message, draft.trim());
        }}>Send</button>
      </div>
    </article>`;
  }
  return html`<article class="asked" aria-label="You">
    <${Pictures} pictures=${message.pictures} />
    ${message.content && html`<div class="bubble">${message.content}</div>`}
    <div class="tools">
      <${Copy} text=${message.content} />
      <button type="button" class="icon small" disabled=${busy} aria-label="Edit" title="Edit and ask again"
        onClick=${() => setDraft(message.content)}><${PenIcon} /></button>
    </div>
  </article>`;
}

function Answer({ message, busy, last, redo }) {
  const open = message.status === "open";
  const text = message.content + message.tail;
  return html`<article class=${open ? "answer open" : "answer"} aria-label=${`Answer of ${message.model}`}
    aria-busy=${open} data-status=${message.status}>
    ${text ? html`<${Markdown} text=${text} />` : open && !message.waiting && html`<p class="thinking"><i></i><i></i><i></i><span class="unseen">Waiting</span></p>`}
    ${open && message.waiting && html`<p class="note">${WAITING[message.waiting]}</p>`}
    ${message.status === "failed" && html`<p class="note wrong" role="alert">${message.error}</p>`}
    ${message.status === "stopped" && html`<p class="note">Stopped.</p>`}
    ${message.reason === "length" && !open && html`<p class="note">Cut off at the limit of tokens.</p>`}
    <div class="tools">
      ${!open && html`<${Copy} text=${message.content} />`}
      ${!open && last && html`<button type="button" class="icon small" disabled=${busy} aria-label="Ask again"
        title="Ask again" onClick=${() => redo(message)}><${RedoIcon} /></button>`}
      <${Figures} message=${message} />
    </div>
  </article>`;
}

function Figures({ message }) {
  const { askedMs, firstMs, lastMs, tokens, promptTokens } = message.figures;
  const parts = [];
  if (message.status !== "open") parts.push(message.model);
  if (tokens) parts.push(`${tokens} tokens`);
  if (tokens > 1 && lastMs > firstMs) parts.push(`${rate(((tokens - 1) * 1000) / (lastMs - firstMs))} tokens/s`);
  if (firstMs) parts.push(html`<abbr title="Time to the first token">TTFT</abbr> ${duration((firstMs - askedMs) / 1000)}`);
  if (promptTokens) parts.push(`${promptTokens} prompt tokens`);
  return html`<span class="figures">${parts.map((part, index) => html`<span key=${index}>${part}</span>`)}</span>`;
}
