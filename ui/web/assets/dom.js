// Builds and updates nodes. Data only ever becomes text nodes and attributes, never markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, props, children) {
  for (const [name, value] of Object.entries(props || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") {
      node.caOn = value;
      for (const type of Object.keys(value)) node.addEventListener(type, dispatch);
    } else if (name === "style") {
      for (const [property, setting] of Object.entries(value)) node.style.setProperty(property, setting);
    } else if (name === "key") {
      node.caKey = String(value);
    } else if (name === "own") {
      node.caOwn = value; // morph leaves the content of such a node alone
    } else if (value === true) {
      node.setAttribute(name, "");
    } else {
      node.setAttribute(name, String(value));
    }
  }
  append(node, children);
  return node;
}

function append(node, children) {
  for (const child of children) {
    if (child === null || child === undefined || child === false || child === "") continue;
    if (Array.isArray(child)) append(node, child);
    else if (child instanceof Node) node.append(child.isConnected ? placeholder(child) : child);
    else node.append(document.createTextNode(String(child)));
  }
}

// A node that is on the page already (a chart, a log) is not moved while the next state is built: that would lose its scroll and focus.
function placeholder(node) {
  const mark = document.createComment("");
  mark.caRef = node;
  return mark;
}

function settle(node) {
  if (node.caRef) return node.replaceWith(node.caRef);
  const walker = document.createTreeWalker(node, NodeFilter.SHOW_COMMENT);
  const marks = [];
  while (walker.nextNode()) if (walker.currentNode.caRef) marks.push(walker.currentNode);
  for (const mark of marks) mark.replaceWith(mark.caRef);
}

// One listener that looks up the handler when it is called, so that morph can swap handlers without touching listeners.
function dispatch(event) {
  const handler = event.currentTarget.caOn && event.currentTarget.caOn[event.type];
  if (handler) handler.call(event.currentTarget, event);
}

export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);
export const s = (tag, props, ...children) => fill(document.createElementNS(SVG, tag), props, children);

/// Makes the children of `parent` look like `next` while keeping nodes that are still right: focus, selection and scroll stay.
export function render(parent, ...next) {
  const holder = document.createDocumentFragment();
  append(holder, next);
  morphChildren(parent, holder);
}

function same(a, b) {
  return a.nodeName === b.nodeName && a.caKey === b.caKey && a.caOwn === b.caOwn;
}

function morphChildren(parent, next) {
  const wanted = [...next.childNodes];
  const keyed = new Map();
  for (const child of parent.childNodes) if (child.caKey !== undefined) keyed.set(child.caKey, child);
  let at = parent.firstChild;
  for (const node of wanted) {
    if (node.caRef) {
      if (node.caRef === at) at = at.nextSibling;
      else parent.insertBefore(node.caRef, at);
      continue;
    }
    const known = node.caKey !== undefined ? keyed.get(node.caKey) : undefined;
    if (known && known !== at && same(known, node)) {
      parent.insertBefore(known, at);
      morph(known, node);
    } else if (at && same(at, node)) {
      const following = at.nextSibling;
      morph(at, node);
      at = following;
    } else {
      parent.insertBefore(node, at);
      settle(node);
    }
  }
  while (at) {
    const following = at.nextSibling;
    at.remove();
    at = following;
  }
}

function morph(old, next) {
  if (old.nodeType === Node.TEXT_NODE) {
    if (old.data !== next.data) old.data = next.data;
    return;
  }
  for (const { name } of [...old.attributes]) if (name !== "style" && name !== "open" && !next.hasAttribute(name)) old.removeAttribute(name);
  for (const { name, value } of next.attributes) if (name !== "style" && old.getAttribute(name) !== value) old.setAttribute(name, value);
  if (old.style && old.style.cssText !== next.style.cssText) old.style.cssText = next.style.cssText;
  for (const type of Object.keys(next.caOn || {})) if (!old.caOn || !(type in old.caOn)) old.addEventListener(type, dispatch);
  old.caOn = next.caOn;
  if (old.caOwn) return;
  if (old instanceof HTMLInputElement) {
    if (old !== document.activeElement) old.value = next.value;
    return;
  }
  morphChildren(old, next);
  if (old instanceof HTMLSelectElement && old !== document.activeElement) old.value = next.value;
}

/// Calls back with the width of a node now and whenever it changes; ends when the node leaves the page.
export function onWidth(node, callback) {
  let last = 0;
  const observer = new ResizeObserver(() => {
    if (!node.isConnected) return last ? observer.disconnect() : undefined;
    const width = Math.floor(node.clientWidth);
    if (width > 0 && width !== last) { last = width; requestAnimationFrame(() => callback(width)); }
  });
  observer.observe(node);
}
