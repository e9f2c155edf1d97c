// The settings of the form, the request that they make, and the URL that keeps them.
import { byId } from "./dom.js";

const TEXTS = ["policy", "large_model"];
const NUMBERS = ["temperature", "seed", "max_turns", "max_tokens", "deadline_ms", "max_cost"];
const OTHERS = ["other_policy", "other_large_model", "other_temperature", "other_max_turns"];
const KEPT = [...TEXTS, ...NUMBERS, ...OTHERS];

const text = (id) => byId(id).value.trim();

// Fills the form from the URL.
export function restore() {
  const asked = new URLSearchParams(location.search);
  for (const id of KEPT) byId(id).value = asked.get(id) ?? "";
  byId("compare").checked = asked.has("compare");
  compare();
  byId("settings").open = [...TEXTS, ...NUMBERS].some((id) => text(id));
}

// Shows the second episode's settings where there is one; else they count for nothing, not even as
// invalid.
export function compare() {
  byId("other").hidden = byId("other").disabled = !byId("compare").checked;
}

// Keeps the settings in the URL; neither texts nor the key.
export function keep() {
  const kept = new URLSearchParams(KEPT.filter((id) => text(id)).map((id) => [id, text(id)]));
  if (byId("compare").checked) kept.set("compare", "1");
  const query = kept.toString();
  history.replaceState(null, "", query ? `?${query}` : location.pathname);
}

const is31Bits = 0x7fffffff;
const newSeed = () => crypto.getRandomValues(new Uint32Array(1))[0] & is31Bits;

// The requests that the form asks for: one, or two to be compared. `policy` is the server's default.
export function requests(asked, policy) {
  const request = { ...asked };
  for (const id of TEXTS) if (text(id)) request[id] = text(id);
  for (const id of NUMBERS) if (text(id)) request[id] = Number(text(id));
  const other = { ...request, policy: text("other_policy") || "direct" };
  if (text("other_large_model")) other.large_model = text("other_large_model");
  // The large model alone takes no temperature that was meant for a policy.
  if (other.policy === "direct" && (request.policy ?? policy) !== "direct") delete other.temperature;
  for (const id of ["temperature", "max_turns"]) {
    if (text(`other_${id}`)) other[id] = Number(text(`other_${id}`));
  }
  const both = byId("compare").checked ? [request, other] : [request];
  // A seed that is known beforehand, so that every episode of a policy can be replayed. The large
  // model alone gets one only if the user set it: its endpoint may refuse it.
  const seed = newSeed();
  for (const each of both) if ((each.policy ?? policy) !== "direct") each.seed ??= seed;
  return both;
}
