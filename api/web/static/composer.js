// Where a message is written. Enter sends, Shift+Enter makes a line; images are pasted or dropped.
import { html, useEffect, useLayoutEffect, useRef, useState } from "./dom.js";
import { SendIcon, StopIcon } from "./icons.js";
import { imagesOf, MOST_PICTURES, PictureButton, Pictures, picturesOf } from "./pictures.js";
import { announce } from "./state.js";

const MOST_ROWS = 8;

// `sees`: whether the chosen model takes images.
export function Composer({ send, stop, ready, sees }) {
  const [text, setText] = useState("");
  const [pictures, setPictures] = useState([]);
  const [trouble, setTrouble] = useState("");
  const field = useRef(null);
  useLayoutEffect(() => {
    field.current.rows = Math.min(text.split("\n").length, MOST_ROWS);
  }, [text]);
  // Not where a finger points: a keyboard would cover half of the screen.
  useEffect(() => {
    if (!matchMedia("(pointer: coarse)").matches) field.current.focus({ preventScroll: true });
  }, []);
  const complete = (text.trim() || pictures.length) && (sees || !pictures.length);
  const submit = (event) => {
    event?.preventDefault();
    if (!complete || stop || !ready) return;
    send(text.trim(), pictures);
    setText("");
    setPictures([]);
    setTrouble("");
    field.current.focus();
  };
  const add = async (files) => {
    if (!files.length) return;
    if (!sees) return say("This model takes text only.");
    const { pictures: more, left } = await picturesOf(files, MOST_PICTURES - pictures.length);
    setPictures((before) => [...before, ...more].slice(0, MOST_PICTURES));
    say(left || `${more.length === 1 ? "Image" : "Images"} added`, left);
  };
  const say = (news, wrong = news) => {
    setTrouble(wrong);
    announce(news);
  };
  const remove = (index) => {
    setPictures((before) => before.filter((_, at) => at !== index));
    say("Image removed", "");
    field.current.focus();
  };
  const pasted = (event) => {
    const files = imagesOf(event.clipboardData);
    if (!files.length) return;
    event.preventDefault();
    add(files);
  };
  // Text that is dropped is the browser's own matter.
  const over = (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault();
  const dropped = (event) => {
    if (!event.dataTransfer?.types.includes("Files")) return;
    event.preventDefault();
    add(imagesOf(event.dataTransfer));
  };
  const pressed = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
    if (event.key === "Escape" && stop) stop();
  };
  const wrong = trouble || (pictures.length && !sees ? "This model takes text only: remove the images, or choose another." : "");
  return html`<form class="composer" onSubmit=${submit} onDragOver=${over} onDrop=${dropped}>
    <${Pictures} pictures=${pictures} remove=${remove} />
    ${wrong && html`<p class="note wrong" role="alert">${wrong}</p>`}
    <div class="box">
      ${sees && html`<${PictureButton} add=${add} />`}
      <label class="unseen" for="message">Message</label>
      <textarea id="message" ref=${field} rows="1" placeholder="Message" value=${text} enterkeyhint="send"
        onInput=${(event) => setText(event.target.value)} onKeyDown=${pressed} onPaste=${pasted}></textarea>
      ${stop
        ? html`<button type="button" class="round" onClick=${stop} aria-label="Stop the answer" title="Stop (Esc)"><${StopIcon} /></button>`
        : html`<button type="submit" class="round primary" disabled=${!complete || !ready} aria-label="Send" title="Send (Enter)"><${SendIcon} /></button>`}
    </div>
    <p class="hint foot">Models make mistakes: check what matters.</p>
  </form>`;
}
