// The fleet: what each worker and queue does now, the last hour, and the jobs that are open.
import { call, key } from "./api.js";
import { Charts } from "./charts.js";
import { html, useEffect, useState } from "./dom.js";
import { fleet, look, lookEvery } from "./fleet-view.js";
import { bytes, count, duration, percent, plural, rate } from "./format.js";
import { announce, useWatched } from "./state.js";

const LOOK_MS = 2000;

export function FleetPage() {
  const { view, error } = useWatched(fleet);
  useWatched(key);
  const [failure, setFailure] = useState("");
  useEffect(() => lookEvery(LOOK_MS), []);
  const act = async (path, done) => {
    try {
      await call("POST", path);
      setFailure("");
      announce(done);
    } catch (problem) {
      setFailure(problem.message);
    }
    look();
  };
  if (view?.limited) {
    return html`<h1>Fleet</h1><p class="card empty">This key may chat, but not look at the fleet: give an administrator's.</p>`;
  }
  return html`
    <h1 class="unseen">Fleet</h1>
    ${(error || failure) && html`<p class="banner" role="alert">${failure || error}</p>`}
    ${view && html`
      <${Tiles} view=${view} />
      <${Charts} />
      <${Workers} workers=${view.workers} act=${act} />
      <${Queues} queues=${view.queues} />
      <${Jobs} jobs=${view.jobs} act=${act} />
    `}
    ${!view && !error && html`<p class="hint">Looking…</p>`}
  `;
}

function Tiles({ view }) {
  const sum = (name) => view.queues.reduce((total, queue) => total + queue[name], 0);
  const oldest = Math.max(0, ...view.queues.map((queue) => queue.oldest_age_s));
  const tile = (title, value, note) => html`<div class="card tile"><dt>${title}</dt><dd>${value}</dd><dd class="hint">${note}</dd></div>`;
  return html`<dl class="tiles">
    ${tile("Workers", count(view.workers.length), plural(sum("slots"), "slot"))}
    ${tile("Running", count(sum("running")), sum("slots") ? `${percent(sum("running") / sum("slots"))} of the slots` : "no slots")}
    ${tile("Waiting", count(sum("waiting_jobs")), sum("waiting_jobs") ? `oldest ${duration(oldest)}` : "nobody waits")}
    ${tile("Tokens/s", rate(sum("decode_tokens_per_s")), "decoded now")}
  </dl>`;
}

function Meter({ label, value, most, text }) {
  return html`<div class="meter">
    <span>${label}</span>
    <meter min="0" max=${most || 1} value=${Math.min(value, most || 1)} aria-label=${`${label}: ${text}`}></meter>
    <span class="number">${text}</span>
  </div>`;
}

function Workers({ workers, act }) {
  return html`<section aria-labelledby="workers">
    <h2 id="workers">Workers</h2>
    ${!workers.length && html`<p class="card empty">No worker is live. Start one: <code>celery -A workers worker -Q bigdl-demo-cpu</code></p>`}
    <ul class="workers">${workers.map((worker) => html`<${Worker} key=${worker.id} worker=${worker} act=${act} />`)}</ul>
  </section>`;
}

function stateOf(worker) {
  if (worker.heartbeat_age_s > 5) return ["late", "silent"];
  if (worker.drain_requested && !worker.draining) return ["rest", "draining soon"];
  if (worker.draining) {
    const busy = worker.models.some((model) => model.running + model.waiting > 0);
    return ["rest", busy ? "draining" : "drained"];
  }
  return ["live", "live"];
}

const stateWords = { on_demand: "on demand", failed: "not loadable" };

function Worker({ worker, act }) {
  const [kind, word] = stateOf(worker);
  const path = `/admin/workers/${encodeURIComponent(worker.id)}`;
  const rests = worker.drain_requested;
  const ends = worker.draining && !rests; // by a signal: it will not come back
  return html`<li class="card worker" data-worker=${worker.id}>
    <header>
      <span class=${`dot ${kind}`}></span><b>${worker.host}</b><span class="hint">pid ${worker.pid}</span>
      <span class="badge">${word}</span>
      <span class="spacer"></span>
      <button type="button" class="plain" disabled=${ends} aria-label=${`${rests ? "Resume" : "Drain"} worker ${worker.host} ${worker.pid}`}
        onClick=${() => act(`${path}/${rests ? "resume" : "drain"}`, rests ? "The worker goes on" : "The worker drains")}>
        ${rests ? "Resume" : "Drain"}</button>
    </header>
    ${worker.models.map((model) => html`<div class="served" key=${model.queue}>
      <p><b>${model.model}</b> <span class="chip">${model.device}</span><span class="chip">${model.format}</span><span class="chip">${model.backend}</span>${model.state !== "loaded" && html`<span class="chip" title=${model.load_error || ""}>${stateWords[model.state] ?? model.state}</span>`}</p>
      <${Meter} label="Slots" value=${model.running + model.waiting} most=${model.slots} text=${`${model.running + model.waiting} of ${model.slots}`} />
      <${Meter} label="KV cache" value=${model.kv_use} most=${1} text=${percent(model.kv_use)} />
      <p class="facts">
        <span><b>${rate(model.decode_tokens_per_s)}</b> tokens/s</span>
        <span><b>${rate(model.prefill_tokens_per_s)}</b> prefill/s</span>
        <span><b>${percent(shareOfPrompts(model, model.cached_tokens_total))}</b> cached</span>
        ${model.store?.loaded_tokens_total > 0 && html`<span><b>${percent(shareOfPrompts(model, model.store.loaded_tokens_total))}</b> loaded</span>`}
        ${model.store?.remote_tokens_total > 0 && html`<span><b>${percent(shareOfPrompts(model, model.store.remote_tokens_total))}</b> from other hosts</span>`}
        <span>step <b>${duration(model.step_ms / 1000)}</b></span>
        <span>weights <b>${bytes(model.weights_bytes)}</b></span>
        ${model.load_s > 0 && html`<span>loaded in <b>${duration(model.load_s)}</b></span>`}
        <span><b>${count(model.generated_tokens_total)}</b> tokens so far</span>
      </p>
    </div>`)}
    <footer class="hint">heartbeat ${duration(worker.heartbeat_age_s)} ago · up ${duration((Date.now() - worker.started_ms) / 1000)} · version ${worker.version}</footer>
  </li>`;
}

function shareOfPrompts(model, tokens) {
  return tokens / (model.cached_tokens_total + model.prefilled_tokens_total || 1);
}

function Table({ title, id, heads, children, empty }) {
  return html`<section aria-labelledby=${id}>
    <h2 id=${id}>${title}</h2>
    <div class="card scroll" tabindex="0" role="region" aria-labelledby=${id}>
      ${empty || html`<table><thead><tr>${heads.map((head) => html`<th scope="col" class=${head.startsWith("#") ? "number" : ""}>${head.replace("#", "")}</th>`)}</tr></thead>
        <tbody>${children}</tbody></table>`}
    </div>
  </section>`;
}

function Queues({ queues }) {
  const heads = ["Queue", "Device", "Format", "#Workers", "#Slots", "#Running", "#Waiting", "#Oldest", "#Tokens/s", "#Context"];
  return html`<${Table} title="Queues" id="queues" heads=${heads} empty=${!queues.length && html`<p class="empty">No model was announced within a day.</p>`}>
    ${queues.map((queue) => html`<tr key=${queue.queue} class=${queue.live_workers ? "" : "off"}>
      <th scope="row">${queue.queue}</th><td>${queue.device}</td><td>${queue.format}</td>
      <td class="number">${queue.live_workers}</td><td class="number">${queue.slots}</td>
      <td class="number">${count(queue.running)}</td><td class="number">${count(queue.waiting_jobs)}</td>
      <td class="number">${queue.waiting_jobs ? duration(queue.oldest_age_s) : "–"}</td>
      <td class="number">${rate(queue.decode_tokens_per_s)}</td><td class="number">${count(queue.context_length)}</td>
    </tr>`)}
  <//>`;
}

function Jobs({ jobs, act }) {
  const heads = ["Job", "Queue", "State", "Tenant", "#Age", "#Tokens", "#Weight", ""];
  const cancel = (job) => act(`/admin/jobs/${job.id}/cancel`, "The job is cancelled");
  return html`<${Table} title="Open jobs" id="jobs" heads=${heads} empty=${!jobs.length && html`<p class="empty">Nothing runs and nothing waits.</p>`}>
    ${jobs.map((job) => html`<tr key=${job.id}>
      <th scope="row"><code title=${job.id}>${job.id.slice(0, 8)}</code></th><td>${job.queue}</td>
      <td><span class=${`dot ${job.status === "running" ? "live" : "rest"}`}></span>${job.status}${job.lost ? html` <span class="chip">${plural(job.lost, "worker")} lost</span>` : ""}</td>
      <td>${job.tenant}</td><td class="number">${duration(job.age_s)}</td><td class="number">${count(job.tokens)}</td>
      <td class="number">${count(job.cost_tokens)}</td>
      <td><button type="button" class="plain" aria-label=${`Cancel job ${job.id.slice(0, 8)}`} onClick=${() => cancel(job)}>Cancel</button></td>
    </tr>`)}
  <//>`;
}
