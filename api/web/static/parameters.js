// Which model answers, and how.
import { touch } from "./conversations.js";
import { html } from "./dom.js";
import { choices, describe } from "./fleet-view.js";

const FIELDS = [
  ["temperature", "Temperature", { min: 0, max: 2, step: 0.1 }, "0 always takes the likeliest token"],
  ["top_p", "Top p", { min: 0, max: 1, step: 0.05 }, "Only tokens of this much probability"],
  ["top_k", "Top k", { min: 0, step: 1 }, "Only so many tokens"],
  ["max_tokens", "Longest answer", { min: 1, step: 1 }, "In tokens"],
  ["repetition_penalty", "Repetition penalty", { min: 0.1, max: 10, step: 0.05 }, "Over 1 avoids repeats"],
  ["seed", "Seed", { step: 1 }, "The same seed, the same answer"],
];

export function ModelChoice({ conversation, view }) {
  const offered = choices(view);
  const known = offered.some((one) => one.id === conversation.model);
  const chosen = offered.find((one) => one.id === conversation.model);
  const change = (event) => {
    conversation.model = event.target.value;
    touch(conversation);
  };
  return html`<div class="model">
    <label class="unseen" for="model">Model</label>
    <select id="model" value=${conversation.model} onChange=${change}>
      ${!known && html`<option value=${conversation.model}>${conversation.model || "No model"}</option>`}
      ${offered.map((one) => html`<option key=${one.id} value=${one.id}>${one.id}${one.live ? "" : " (no worker)"}</option>`)}
    </select>
    <span class="hint">${chosen ? describe(chosen) : ""}</span>
  </div>`;
}

export function Parameters({ conversation }) {
  const set = (name) => (event) => {
    conversation.parameters[name] = event.target.value;
    touch(conversation);
  };
  const setSystem = (event) => {
    conversation.system = event.target.value;
    touch(conversation);
  };
  const reset = () => {
    conversation.parameters = {};
    conversation.system = "";
    touch(conversation);
  };
  return html`<section id="parameters" class="parameters" aria-label="System prompt and parameters">
    <label class="field system">System prompt
      <textarea rows="2" value=${conversation.system} placeholder="How the model shall behave" onInput=${setSystem}></textarea>
    </label>
    <div class="grid">
      ${FIELDS.map(([name, title, range, hint]) => html`<label key=${name} class="field" title=${hint}>${title}
        <input type="number" inputmode="decimal" placeholder="model's own" ...${range}
          value=${conversation.parameters[name] ?? ""} onInput=${set(name)} />
      </label>`)}
      <label class="field" title="The answer ends before any of these">Stop at (one a line)
        <textarea rows="1" value=${conversation.parameters.stop ?? ""} onInput=${set("stop")}></textarea>
      </label>
      <button type="button" class="plain reset" onClick=${reset}>Reset</button>
    </div>
  </section>`;
}
