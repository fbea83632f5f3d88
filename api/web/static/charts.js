// The last hour in three plots. uPlot is fetched when they are first shown.
import { read } from "./api.js";
import { html, useEffect, useRef, useState } from "./dom.js";
import { duration, rate } from "./format.js";

const ASK_MS = 10_000;
const HEIGHT = 190;
const SHORTEST = 10;
const YOUNG_S = 15; // API processes tell their counts every 5 s
const SHARES = [["50", "median"], ["95", "95 %"], ["99", "99 %"]];

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

function useHistory() {
  const [history, setHistory] = useState(null);
  useEffect(() => {
    let stopped = false;
    let timer = 0;
    const ask = async () => {
      if (!document.hidden) {
        const answer = await read("/admin/fleet/history").catch(() => null); // the page tells of it
        if (answer && !stopped) setHistory(answer);
      }
      if (!stopped) timer = setTimeout(ask, ASK_MS);
    };
    ask();
    return () => {
      stopped = true;
      clearTimeout(timer);
    };
  }, []);
  return history;
}

// The first minute to draw: a fleet that has just begun fills the plots, and not their last corner.
function begin({ tokens, prompt_tokens: prompts }) {
  const begun = tokens.findIndex((n, index) => n || prompts[index]);
  const latest = Math.max(0, tokens.length - SHORTEST);
  return begun < 0 ? latest : Math.min(Math.max(0, begun - 1), latest);
}

export function Charts() {
  const history = useHistory();
  const [chosen, choose] = useState("");
  const names = Object.keys(history?.queues ?? {}).filter(Boolean);
  const rows = history?.queues[chosen] ?? history?.queues[""];
  const from = rows ? begin(history.queues[""]) : 0;
  const minutes = history?.minutes.slice(from);
  // The present minute is not over: its rate is of the seconds that had passed when it was counted.
  const passed = rows ? history.now_s - history.minutes.at(-1) : 0;
  const present = (n) => (passed < YOUNG_S ? null : n / passed);
  const perSecond = (counts) => [...counts.slice(from, -1).map((n) => n / 60), present(counts.at(-1))];
  const latency = (kind) => SHARES.map(([share, title]) => ({ title, values: rows[`${kind}_p${share}`].slice(from) }));
  return html`<section aria-labelledby="hour">
    <div class="heading">
      <h2 id="hour">The last hour</h2><span class="spacer"></span>
      ${names.length > 1 && html`<label class="unseen" for="of">Of queue</label>
        <select id="of" value=${chosen} onChange=${(event) => choose(event.target.value)}>
          <option value="">All queues</option>${names.map((name) => html`<option value=${name}>${name}</option>`)}
        </select>`}
    </div>
    <div class="plots">
      ${rows && html`
        <${Plot} title="Throughput" unit="tokens/s" minutes=${minutes} text=${(v) => rate(v)}
          series=${[{ title: "answers", values: perSecond(rows.tokens), fill: true }, { title: "prompts", values: perSecond(rows.prompt_tokens) }]} />
        <${Plot} title="Time to first token" unit="" minutes=${minutes} text=${duration} series=${latency("ttft")} />
        <${Plot} title="Inter-token latency" unit="" minutes=${minutes} text=${duration} series=${latency("itl")} />`}
    </div>
  </section>`;
}

function useThemeTurns() {
  const [turns, setTurns] = useState(0);
  useEffect(() => {
    const turn = () => setTurns((n) => n + 1);
    const dark = matchMedia("(prefers-color-scheme: dark)");
    addEventListener("themechange", turn);
    dark.addEventListener("change", turn);
    return () => {
      removeEventListener("themechange", turn);
      dark.removeEventListener("change", turn);
    };
  }, []);
  return turns;
}

function Plot({ title, unit, minutes, series, text }) {
  const place = useRef(null);
  const plot = useRef(null);
  const turns = useThemeTurns();
  const values = [minutes, ...series.map((one) => one.values)];
  const shown = useRef(values);
  shown.current = values;
  useEffect(() => {
    let gone = false;
    let watcher;
    import("./vendor/uplot.js").then(({ default: UPlot }) => {
      if (gone) return;
      plot.current = new UPlot(options(series, text, place.current.clientWidth), shown.current, place.current);
      const fit = () => place.current && plot.current?.setSize({ width: place.current.clientWidth, height: HEIGHT });
      watcher = new ResizeObserver(fit);
      watcher.observe(place.current);
    });
    return () => {
      gone = true;
      watcher?.disconnect();
      plot.current?.destroy();
      plot.current = null;
    };
  }, [turns, series.length]);
  useEffect(() => plot.current?.setData(values));
  const last = (list) => list.findLast((value) => value !== null);
  const now = series.map((one) => [one.title, last(one.values)]);
  return html`<figure class="card plot">
    <figcaption><b>${title}</b>
      <span class="legend">${now.map(([name, value], index) => html`<span key=${name}><i class=${`line line-${index}`}></i>${name} <b>${value === undefined ? "–" : text(value)}</b></span>`)} ${unit && html`<span>${unit}</span>`}</span>
    </figcaption>
    <div ref=${place} aria-hidden="true"></div>
  </figure>`;
}

function options(series, text, width) {
  const grid = { stroke: colour("--line"), width: 1 };
  const axis = { stroke: colour("--faint"), grid, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  return {
    width,
    height: HEIGHT,
    padding: [10, 22, 0, 0],
    legend: { show: false },
    cursor: { y: false, points: { size: 6 } },
    scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.15 : 1] } },
    axes: [
      { ...axis, values: "{HH}:{mm}", space: 70, size: 28 },
      { ...axis, size: 62, values: (_, ticks) => ticks.map((tick) => text(tick)) },
    ],
    series: [
      {},
      ...series.map((one, index) => ({
        label: one.title, stroke: colour(`--plot-${index}`), width: index ? 1.5 : 2, spanGaps: true,
        fill: one.fill ? colour("--plot-fill") : undefined, points: { show: false },
      })),
    ],
  };
}
