// Images on their way into a message: chosen, pasted or dropped, made small enough, shown small.
import { html, useRef } from "./dom.js";
import { CloseIcon, ImageIcon } from "./icons.js";

const LONGEST_SIDE = 1280; // also what this browser's storage has room for
const SMALL_BYTES = 256 * 1024;
const QUALITY = 0.85;
export const MOST_PICTURES = 8;

// Return an image as a data URL, upright and at most so long a side. Throws for what is no image.
async function pictureOf(file) {
  const bitmap = await createImageBitmap(file);
  try {
    const scale = Math.min(1, LONGEST_SIDE / Math.max(bitmap.width, bitmap.height));
    const canvas = document.createElement("canvas");
    canvas.width = Math.max(1, Math.round(bitmap.width * scale));
    canvas.height = Math.max(1, Math.round(bitmap.height * scale));
    const context = canvas.getContext("2d");
    context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    const exact = canvas.toDataURL("image/png");
    if (exact.length < SMALL_BYTES) return exact;
    // JPEG has no transparency: without a ground it would be black.
    context.globalCompositeOperation = "destination-over";
    context.fillStyle = "white";
    context.fillRect(0, 0, canvas.width, canvas.height);
    return canvas.toDataURL("image/jpeg", QUALITY);
  } finally {
    bitmap.close();
  }
}

// Return {pictures, left}: the images among some files, and why others are left out.
export async function picturesOf(files, room) {
  const pictures = [];
  let left = "";
  for (const file of files) {
    if (pictures.length >= room) left = `At most ${MOST_PICTURES} images in a message.`;
    else {
      try {
        pictures.push(await pictureOf(file));
      } catch {
        left = `${file.name || "This"} is not an image that this browser can read.`;
      }
    }
  }
  return { pictures, left };
}

export const imagesOf = (transfer) => [...(transfer?.files ?? [])].filter((file) => file.type.startsWith("image/"));

export function Pictures({ pictures, remove }) {
  if (!pictures?.length) return null;
  return html`<ul class="pictures" aria-label="Images">
    ${pictures.map((url, index) => html`<li key=${index}>
      <img src=${url} alt=${`Image ${index + 1}`} />
      ${remove && html`<button type="button" class="round" aria-label=${`Remove image ${index + 1}`} title="Remove"
        onClick=${() => remove(index)}><${CloseIcon} /></button>`}
    </li>`)}
  </ul>`;
}

export function PictureButton({ add }) {
  const field = useRef(null);
  const chosen = () => {
    add([...field.current.files]);
    field.current.value = "";
  };
  return html`<input type="file" id="pictures" ref=${field} class="unseen" accept="image/*" multiple tabindex="-1"
      aria-label="Images" onChange=${chosen} />
    <button type="button" class="round" aria-label="Add images" title="Add images (or paste, or drop them)"
      onClick=${() => field.current.click()}><${ImageIcon} /></button>`;
}
