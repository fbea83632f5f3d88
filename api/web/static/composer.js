// Where a message is written. Enter sends, Shift+Enter makes a line.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./dom.js";
import { SendIcon, StopIcon } from "./icons.js";

const MOST_ROWS = 8;

export function Composer({ send, stop, ready }) {
  const [text, setText] = useState("");
  const field = useRef(null);
  useLayoutEffect(() => {
    field.current.rows = Math.min(text.split("\n").length, MOST_ROWS);
  }, [text]);
  // Not where a finger points: a keyboard would cover half of the screen.
  useEffect(() => {
    if (!matchMedia("(pointer: coarse)").matches) field.current.focus({ preventScroll: true });
  }, []);
  const submit = (event) => {
    event?.preventDefault();
    if (!text.trim() || stop || !ready) return;
    send(text.trim());
    setText("");
    field.current.focus();
  };
  const pressed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape" && stop) stop();
  };
  return html`<form class="composer" onSubmit=${submit}>
    <div class="box">
      <label class="unseen" for="message">Message</label>
      <textarea id="message" ref=${field} rows="1" placeholder="Message" value=${text} enterkeyhint="send"
        onInput=${(event) => setText(event.target.value)} onKeyDown=${pressed}></textarea>
      ${stop
        ? html`<button type="button" class="round" onClick=${stop} aria-label="Stop the answer" title="Stop (Esc)"><${StopIcon} /></button>`
        : html`<button type="submit" class="round primary" disabled=${!text.trim() || !ready} aria-label="Send" title="Send (Enter)"><${SendIcon} /></button>`}
    </div>
    <p class="hint foot">Models make mistakes: check what matters.</p>
  </form>`;
}
