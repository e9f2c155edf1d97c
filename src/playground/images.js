// Images of a question: chosen, pasted or dropped, shown small, and sent as they are.
import { byId, h } from "./dom.js";

const KINDS = ["image/png", "image/jpeg", "image/webp", "image/gif"];

// Each an item of the list, with the URL that holds its bytes.
const chosen = new Map();

const read = (file) => new Promise((done, fail) => {
  const reader = new FileReader();
  reader.onload = () => done(reader.result);
  reader.onerror = () => fail(reader.error);
  reader.readAsDataURL(file);
});

async function add(files, say) {
  for (const file of files) {
    if (!KINDS.includes(file.type)) {
      say(`${file.name} is no image that models read: choose PNG, JPEG, WebP or GIF.`);
      continue;
    }
    let url;
    try {
      url = await read(file);
    } catch {
      say(`${file.name} cannot be read: choose it again.`);
      continue;
    }
    const shown = URL.createObjectURL(file);
    const item = h("li", {}, h("img", { src: shown, alt: file.name, width: 64, height: 64 }));
    const remove = () => { item.remove(); chosen.delete(item); URL.revokeObjectURL(shown); byId("image").focus(); };
    item.append(h("button", { type: "button", class: "small", "aria-label": `Remove ${file.name}`, onclick: remove }, "Remove"));
    chosen.set(item, url);
    byId("images").append(item);
    say(`Added ${file.name}.`);
  }
}

// The content of the message that asks: the text, and the images beside it.
export function content(text) {
  if (chosen.size === 0) return text;
  const images = [...chosen.values()].map((url) => ({ type: "image_url", image_url: { url } }));
  return [...(text.trim() ? [{ type: "text", text }] : []), ...images];
}

// Takes images into the form.
export function take(say) {
  byId("image").addEventListener("change", async (event) => {
    await add(event.target.files, say);
    event.target.value = "";
  });
  byId("question").addEventListener("paste", (event) => {
    const found = [...(event.clipboardData?.files ?? [])].filter((file) => file.type.startsWith("image/"));
    if (found.length === 0) return;
    event.preventDefault();
    add(found, say);
  });
  byId("ask").addEventListener("dragover", (event) => {
    if (event.dataTransfer?.types.includes("Files")) event.preventDefault();
  });
  byId("ask").addEventListener("drop", (event) => {
    const { files = [] } = event.dataTransfer ?? {};
    if (files.length === 0) return;
    // Of any kind: the browser would open it, and leave the page.
    event.preventDefault();
    add([...files], say);
  });
}
