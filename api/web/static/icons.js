// Icons, drawn for this page.
import { html } from "./dom.js";

const icon = (...paths) => () => html`<svg viewBox="0 0 24 24" width="20" height="20" fill="none"
  stroke="currentColor" stroke-width="1.8" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true">
  ${paths.map((path) => html`<path d=${path} />`)}
</svg>`;

export const KeyIcon = icon("M15 7a4 4 0 1 1-3.5 5.9L6 18.5H3.5V16l5.6-5.6A4 4 0 0 1 15 7z", "M15.5 10.5h.01");
export const SunIcon = icon("M12 8a4 4 0 1 0 0 8 4 4 0 0 0 0-8z", "M12 2.5v2M12 19.5v2M2.5 12h2M19.5 12h2M5.3 5.3l1.4 1.4M17.3 17.3l1.4 1.4M18.7 5.3l-1.4 1.4M6.7 17.3l-1.4 1.4");
export const MoonIcon = icon("M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.500 10.500z");
export const MenuIcon = icon("M4 7h16M4 12h16M4 17h16");
export const PlusIcon = icon("M12 5v14M5 12h14");
export const SendIcon = icon("M12 19V5M6 11l6-6 6 6");
export const StopIcon = () => html`<svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true"><rect x="7" y="7" width="10" height="10" rx="2" fill="currentColor" /></svg>`;
export const SlidersIcon = icon("M4 8h9M17 8h3M4 16h3M11 16h9", "M15 6a2 2 0 1 0 0 4 2 2 0 0 0 0-4zM9 14a2 2 0 1 0 0 4 2 2 0 0 0 0-4z");
export const TrashIcon = icon("M5 7h14M10 7V5h4v2M7 7l1 12h8l1-12");
export const CopyIcon = icon("M9 9h10v10H9z", "M15 9V5H5v10h4");
export const RedoIcon = icon("M19 12a7 7 0 1 1-2-5l2 2", "M19 4v5h-5");
export const PenIcon = icon("M5 19l1-4L16.500 4.500l3 3L9 18z");
export const ImageIcon = icon("M4 5h16v14H4z", "M4 16l5-5 4 4 2.500-2.500L20 17", "M15.5 9h.01");
export const CloseIcon = icon("M6 6l12 12M18 6L6 18");
