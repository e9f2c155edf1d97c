// Elements and texts. Texts only ever become text nodes: nothing that a model writes is markup.

// An element with attributes, properties that begin with "on", and children: elements or texts.
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value === true) element.setAttribute(name, "");
    else if (value !== false && value != null) element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export const byId = (id) => document.getElementById(id);

let names = 0;
export const newId = () => `n${++names}`;

// Characters that are shown before somebody asks for more: layout takes longer than linear.
const SHOWN = 40_000;
// Characters after which a line end begins a block of its own, so that earlier ones keep their layout.
const BLOCK = 2_000;

const waiting = new Set();

function flush() {
  for (const text of waiting) text.flush();
  waiting.clear();
}

// A text that grows. What arrives within one frame is appended at once.
export class Text {
  #parts = [];
  #pending = "";
  #most = SHOWN;
  #shown = 0;
  #filled = 0;
  #node = null;
  // Whether its end is kept in sight: of a text that grows, not of one that was complete at once.
  #follows = false;

  constructor(label, kind = "") {
    this.box = h("div", { class: `text ${kind}`, role: "group", "aria-label": label });
    this.more = h("button", { type: "button", class: "small", hidden: true, onclick: () => this.showAll() });
    this.element = h("div", {}, this.box, this.more);
    this.#begin();
  }

  append(text) {
    this.#follows = true;
    this.#parts.push(text);
    this.#pending += text;
    if (waiting.size === 0) requestAnimationFrame(flush);
    waiting.add(this);
  }

  set(text) {
    if (this.value === text) return;
    this.#parts = [];
    this.#pending = "";
    this.#shown = 0;
    this.box.replaceChildren();
    this.#begin();
    this.append(text);
    this.#follows = false;
  }

  get value() {
    if (this.#parts.length > 1) this.#parts = [this.#parts.join("")];
    return this.#parts[0] ?? "";
  }

  showAll() {
    this.#most = Infinity;
    this.flush();
    this.box.focus();
  }

  flush() {
    const { box } = this;
    const isAtEnd = box.scrollTop + box.clientHeight >= box.scrollHeight - 4;
    let room = Math.min(this.#most - this.#shown, this.#pending.length);
    // Not between the halves of a character.
    if (room > 0 && /[\uD800-\uDBFF]/.test(this.#pending[room - 1])) room -= 1;
    if (room > 0) this.#put(this.#pending.slice(0, room));
    this.#pending = this.#pending.slice(Math.max(room, 0));
    const left = this.#pending.length;
    this.more.hidden = left === 0 || this.#shown < this.#most - 1;
    this.more.textContent = `Show ${left.toLocaleString("en")} more characters`;
    const scrolls = box.scrollHeight > box.clientHeight;
    if (scrolls !== box.hasAttribute("tabindex")) {
      if (scrolls) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
    if (scrolls && isAtEnd && this.#follows) box.scrollTop = box.scrollHeight;
  }

  #begin() {
    this.#node = document.createTextNode("");
    this.#filled = 0;
    this.box.append(h("div", {}, this.#node));
  }

  #put(text) {
    this.#shown += text.length;
    for (;;) {
      const end = text.indexOf("\n", Math.max(0, BLOCK - this.#filled));
      const piece = end < 0 ? text : text.slice(0, end);
      this.#node.appendData(piece);
      this.#filled += piece.length;
      if (end < 0) return;
      this.#begin();
      text = text.slice(end + 1);
    }
  }
}

// Numbers as people read them.
export const millis = (value) => (value < 10_000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`);
export const money = (value) => (value === 0 ? "0" : Number(value.toPrecision(3)).toString());
// A time, seconds since 1970, in the time zone of this browser, as its fields take times.
export const time = (seconds) => new Date(seconds * 1000).toLocaleString("sv", {
  year: "numeric", month: "2-digit", day: "2-digit", hour: "2-digit", minute: "2-digit", timeZoneName: "short",
});
export const count = (value, name) => `${value.toLocaleString("en")} ${name}${value === 1 ? "" : "s"}`;
