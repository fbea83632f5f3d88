// The page's way to make elements: Preact's components in tagged templates, no build step.
import { h, render } from "./vendor/preact.js";
import htm from "./vendor/htm.js";

export { Fragment } from "./vendor/preact.js";
export {
  useCallback, useEffect, useLayoutEffect, useMemo, useRef, useState,
} from "./vendor/preact-hooks.js";
export { render };
export const html = htm.bind(h);
