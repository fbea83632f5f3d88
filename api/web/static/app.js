// The page's frame: navigation, theme, key, and which of the two pages is shown.
import { resumeAll } from "./answers.js";
import { key, keyWanted, setKey } from "./api.js";
import { ChatPage } from "./chat.js";
import { html, render, useEffect, useRef, useState } from "./dom.js";
import { FleetPage } from "./fleet.js";
import { look } from "./fleet-view.js";
import { KeyIcon, MoonIcon, SunIcon } from "./icons.js";
import { announcement, useWatched } from "./state.js";

const THEME = "penstock.theme";
const root = document.documentElement;
const dark = matchMedia("(prefers-color-scheme: dark)");

root.dataset.theme = localStorage.getItem(THEME) ?? "";

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : dark.matches;
}

function useRoute() {
  const route = () => (location.hash.startsWith("#/fleet") ? "fleet" : "chat");
  const [page, setPage] = useState(route);
  useEffect(() => {
    const change = () => setPage(route());
    addEventListener("hashchange", change);
    return () => removeEventListener("hashchange", change);
  }, []);
  return page;
}

function ThemeButton() {
  const [shown, setShown] = useState(isDark);
  useEffect(() => {
    const follow = () => setShown(isDark());
    dark.addEventListener("change", follow);
    return () => dark.removeEventListener("change", follow);
  }, []);
  const turn = () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    localStorage.setItem(THEME, root.dataset.theme);
    setShown(isDark());
    dispatchEvent(new Event("themechange"));
  };
  return html`<button type="button" class="icon" onClick=${turn}
    aria-label=${shown ? "Use light colours" : "Use dark colours"}
    title=${shown ? "Light colours" : "Dark colours"}>
    ${shown ? html`<${SunIcon} />` : html`<${MoonIcon} />`}
  </button>`;
}

function KeyDialog({ open, close }) {
  const dialog = useRef(null);
  const field = useRef(null);
  const wanted = useWatched(keyWanted);
  useEffect(() => {
    if (open && !dialog.current.open) dialog.current.showModal();
    if (!open && dialog.current.open) dialog.current.close();
  }, [open]);
  const submit = (event) => {
    event.preventDefault();
    setKey(field.current.value.trim());
    close();
    look();
  };
  return html`<dialog ref=${dialog} class="card dialog" aria-labelledby="key-title" onClose=${close}>
    <form onSubmit=${submit}>
      <h2 id="key-title">API key</h2>
      <p class="hint">
        ${wanted ? "This server asks for a key. " : ""}It is kept in this tab only, until the tab is closed.
      </p>
      <label class="field">Key
        <input ref=${field} id="key-field" type="password" autocomplete="off" spellcheck=${false}
          defaultValue=${key.value} />
      </label>
      <div class="actions">
        <button type="button" class="plain" onClick=${close}>Not now</button>
        <button type="submit" class="primary">Use it</button>
      </div>
    </form>
  </dialog>`;
}

function App() {
  const page = useRoute();
  const given = useWatched(key);
  const wanted = useWatched(keyWanted);
  const told = useWatched(announcement);
  const [asking, setAsking] = useState(false);
  useEffect(() => setAsking(wanted), [wanted]);
  const closeKey = () => {
    setAsking(false);
    keyWanted.set(false);
  };
  const tab = (name, title) => html`<a href=${`#/${name}`} aria-current=${page === name ? "page" : null}>${title}</a>`;
  return html`
    <a class="skip" href="#main" onClick=${(event) => {
      event.preventDefault();
      document.getElementById("main").focus();
    }}>Skip to content</a>
    <header class="bar">
      <span class="brand"><img src="/assets/icon.svg" alt="" width="26" height="26" /><b>Penstock</b></span>
      <nav aria-label="Pages">${tab("chat", "Chat")}${tab("fleet", "Fleet")}</nav>
      <span class="spacer"></span>
      <button type="button" class=${given ? "icon on" : "icon"} onClick=${() => setAsking(true)}
        aria-label="API key" title="API key"><${KeyIcon} /></button>
      <${ThemeButton} />
    </header>
    <main id="main" tabindex="-1" class=${page}>
      ${page === "fleet" ? html`<${FleetPage} />` : html`<${ChatPage} />`}
    </main>
    <div class="unseen" role="status" aria-live="polite">${told}</div>
    <${KeyDialog} open=${asking} close=${closeKey} />
  `;
}

render(html`<${App} />`, document.getElementById("app"));
resumeAll();
