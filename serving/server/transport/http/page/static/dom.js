// Builds elements and formats figures. Texts become text nodes, so that nothing of a model's file is read as HTML.

export const byId = (id) => document.getElementById(id);

/**
 * Make an element.
 * @param {string} tag its name.
 * @param {Object} properties attributes; `onEVENT` adds a listener; false and undefined are left out, true is empty.
 * @param {...(Node|string|false|null|undefined)} children texts and elements; what is neither is left out.
 */
export function make(tag, properties = {}, ...children) {
  return fill(document.createElement(tag), properties, children);
}

/** Make an element of a drawing, like `make`. */
export function makeSvg(tag, properties = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), properties, children);
}

function fill(element, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== false && child !== null && child !== undefined));
  return element;
}

/** Set a custom property or a width. The policy of the page forbids style attributes, and allows this. */
export function style(element, properties) {
  for (const [name, value] of Object.entries(properties)) element.style.setProperty(name, value);
  return element;
}

export const percent = (share, digits = 1) => `${(share * 100).toFixed(digits)}%`;

export const milliseconds = (ms) => `${ms.toFixed(ms < 10 ? 2 : ms < 100 ? 1 : 0)} ms`;

export const count = (number) => Number(number).toLocaleString("en");

export function bytes(size) {
  if (size < 1000) return `${size} bytes`;
  return size < 1e6 ? `${(size / 1e3).toFixed(1)} kB` : `${(size / 1e6).toFixed(1)} MB`;
}
