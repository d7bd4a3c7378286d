// Elements from data. Text is only ever set as text, so no id, however odd, becomes markup.

const SVG = "http://www.w3.org/2000/svg";

/** An HTML element. Attributes that are functions are listeners; false and undefined are left out. */
export function element(name, attributes = {}, ...children) {
  return fill(document.createElement(name), attributes, children);
}

/** The same in SVG. */
export function shape(name, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, name), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== undefined && value !== false) node.setAttribute(name, value === true ? "" : value);
  }
  put(node, ...children);
  return node;
}

/** Make these the children of a node, in lists or not; null stands for none. */
export function put(node, ...children) {
  node.replaceChildren(...children.flat(Infinity).filter((child) => child !== null));
}

/** The element with this id. */
export function byId(id) {
  return document.getElementById(id);
}
