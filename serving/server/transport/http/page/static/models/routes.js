// What there is to say about a route, a name that answers by other models: its rule, and which member has answered.

import { make, percent } from "../dom.js";

const RULES = {
  at_least: (output, bound) => `the highest of ${output} is at least ${bound}`,
  margin_at_least: (output, bound) => `the highest of ${output} exceeds the second highest by at least ${bound}`,
  entropy_at_most: (output, bound) => `the entropy of ${output} is at most ${bound} bits`,
};
const OVERLOAD = {
  answer: "the sample keeps its answer, which is marked as unsure",
  refuse: "the request is refused",
};

export const isRoute = ({ facts }) => Boolean(facts.route);

/** The line below the labels of a route's answer; null for a model, or for a server that does not say. */
export function whoAnswered({ facts }, { timings: { stages }, unsure }) {
  if (!facts.route || !stages.length) return null;
  const members = stages.map((stage) => stage.model);
  const last = members.pop();
  const doubtful = members.length > 0 && `${list(members)} ${members.length > 1 ? "were" : "was"} not sure, so `;
  const sure = facts.route === "cascade" && !members.length && ", and was sure";
  const refused = "the next model's queue was full or the deadline would have passed";
  const end = unsure ? ` without being sure, because ${refused}` : sure;
  return make("p", { class: "who small" }, doubtful, make("b", {}, last), " answered", end, ".");
}

/** What takes the place of a proof on a route's card: where it comes from, in the words of its file. */
export const about = ({ facts: { route_description: text } }) =>
  make("p", { class: text ? "proof small" : "proof small muted" }, text || "Its file has no description.");

/** The rows of a route's card: pairs of a name and a text. */
export function settings({ facts }) {
  const members = facts.route_members.split(", ");
  return [...(facts.route === "split" ? split(members, facts) : cascade(members, facts)), ...shadow(facts)];
}

function cascade(members, facts) {
  const [output, rule, bound] = facts.route_accept.split(" ");
  const overload = OVERLOAD[facts.route_on_overload] ?? facts.route_on_overload;
  return [
    ["members", members.join(", then ")],
    ["accepts", `an answer if ${RULES[rule]?.(output, bound) ?? facts.route_accept}; else the next member answers`],
    ["overload", `if the next member's queue is full or the deadline would pass, ${overload}`],
  ];
}

function split(members, { route_weights: weights, route_sticky: sticky }) {
  const shares = weights.split(", ");
  return [
    ["members", members.map((member, place) => `${member} ${percent(shares[place] / 100, 0)}`).join(", ")],
    ...(sticky ? [["sticky", `calls with the same ${sticky} go to the same member`]] : []),
  ];
}

function shadow({ route_shadow: text }) {
  if (!text) return [];
  const [member, share] = text.split(" ");
  return [["shadow", `${member} gets copies of ${percent(share, 0)} of the requests`]];
}

const list = (names) => (names.length < 2 ? names.join() : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
