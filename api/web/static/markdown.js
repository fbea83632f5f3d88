// Markdown of an answer: block by block, so that a growing text redraws its last block only.
import { html, useMemo } from "./dom.js";
import DOMPurify from "./vendor/dompurify.js";
import hljs from "./vendor/highlight.js";
import { Marked } from "./vendor/marked.js";

const CACHED_BLOCKS = 2000;
const escapes = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };
const escape = (text) => text.replace(/[&<>"]/g, (character) => escapes[character]);

const marked = new Marked({
  gfm: true,
  breaks: false,
  renderer: {
    code({ text, lang }) {
      const language = (lang ?? "").trim().split(/\s/)[0];
      const known = hljs.getLanguage(language);
      const code = known ? hljs.highlight(text, { language }).value : escape(text);
      return (
        `<div class="code"><div class="code-bar"><span>${escape(language || "text")}</span>` +
        `<button type="button" class="copy">Copy</button></div>` +
        `<pre tabindex="0"><code>${code}</code></pre></div>`
      );
    },
    // What the model writes as HTML is shown as text.
    html({ text }) {
      return escape(text);
    },
    // No picture is fetched from anywhere: the address could carry the conversation away.
    image({ href, text }) {
      return `<a href="${escape(href)}">${escape(text || href)}</a>`;
    },
  },
});

DOMPurify.addHook("afterSanitizeAttributes", (node) => {
  if (node.tagName === "A") {
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer");
  }
});

const CLEAN = {
  USE_PROFILES: { html: true },
  FORBID_TAGS: ["style", "form", "img", "picture", "video", "audio", "source", "track", "svg", "math"],
  FORBID_ATTR: ["style", "id", "name"],
};

const cache = new Map();

function clean(block) {
  let made = cache.get(block.raw);
  if (made === undefined) {
    made = DOMPurify.sanitize(marked.parser([block]), CLEAN);
    if (cache.size >= CACHED_BLOCKS) cache.clear();
    cache.set(block.raw, made);
  }
  return made;
}

export function Markdown({ text }) {
  const blocks = useMemo(
    () => marked.lexer(text).filter((block) => block.type !== "space" && block.type !== "def"),
    [text],
  );
  return html`<div class="markdown" onClick=${copy}>
    ${blocks.map(
      (block, index) => html`<div key=${index} dangerouslySetInnerHTML=${{ __html: clean(block) }} />`,
    )}
  </div>`;
}

async function copy({ target }) {
  if (!target.classList?.contains("copy")) return;
  await copyText(target.closest(".code").querySelector("pre").textContent);
  target.textContent = "Copied";
  setTimeout(() => {
    target.textContent = "Copy";
  }, 1500);
}

export async function copyText(text) {
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(text);
    return;
  }
  // Without TLS there is no clipboard but this one.
  const field = document.createElement("textarea");
  field.value = text;
  document.body.append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}
