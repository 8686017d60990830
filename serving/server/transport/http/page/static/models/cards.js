// One card for each version of a model: what it takes and gives, how good it is, and what proves it.

import { byId, bytes, count, make, percent, style } from "../dom.js";
import { accuracy, json } from "./catalog.js";
import { about, isRoute, settings } from "./routes.js";

const MOST_LABELS = 30; // that a card lists

export function showModels(models) {
  const cards = models.map((model) => (model.ready ? servedCard(model) : otherCard(model)));
  byId("models-section").hidden = false;
  byId("models").replaceChildren(
    ...(cards.length ? cards : [make("p", { class: "muted" }, "The model repository is empty.")]),
  );
}

function otherCard({ name, version, state, reason }) {
  return make(
    "article",
    { class: "card other" },
    title(name, `version ${version}`, make("span", { class: "pill plain" }, state.toLowerCase())),
    make("p", { class: "small muted" }, reason || "No reason is known."),
  );
}

function servedCard(model) {
  const { facts, name, version, isDefault, colour } = model;
  const rate = accuracy(model);
  const remark = isRoute(model) ? facts.route : !isDefault && "not the default";
  const card = make(
    "article",
    { class: "card headline" },
    title(
      name,
      isRoute(model) ? "route" : `version ${version}`,
      remark && make("span", { class: "pill plain" }, remark),
    ),
    !isRoute(model) &&
      make(
        "div",
        { class: "figures" },
        rate && figure(percent(rate.value, 2), rate.name),
        Number(facts["hangtag.parameters"]) > 0 && figure(short(facts["hangtag.parameters"]), "parameters"),
        facts.file_bytes && figure(bytes(Number(facts.file_bytes)), facts["hangtag.precision"] ?? "file"),
      ),
    isRoute(model) ? about(model) : proof(model),
    make("dl", { class: "small" }, ...rows([...(isRoute(model) ? settings(model) : []), ...signature(model)])),
    !isRoute(model) &&
      make(
        "details",
        { class: "small" },
        make("summary", {}, "Checks, provenance, how it runs"),
        make("dl", {}, ...rows([...checks(model), ...provenance(model), ...running(model)])),
      ),
  );
  return style(card, { "--series": colour });
}

const title = (name, kind, mark) =>
  make(
    "h3",
    {},
    make("span", { class: "model" }, name),
    make("span", { class: "muted" }, ` ${kind} `),
    mark,
  );

const figure = (value, name) => make("div", {}, make("b", {}, value), make("span", { class: "small muted" }, name));

const rows = (pairs) => pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, value)]);

function short(number) {
  const value = Number(number);
  return value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : value >= 1e4 ? `${Math.round(value / 1e3)} k` : count(value);
}

/** The sentence of the proof: how far the file's answers are from those of the network or file that it came from. An
 * imported file without preprocessing has no such answers to be compared with, and only the checks of the gate. */
function proof({ facts }) {
  const gate = json(facts["hangtag.gate"]) ?? {};
  if (typeof gate.pictures?.summary === "string") return passed("proven", ` ${gate.pictures.summary}.`);
  const [key, differences] = Object.entries(gate.parity ?? {}).find(([name]) => /^max_\w+_difference$/.test(name)) ?? [];
  if (!differences) {
    const checked = checks({ facts }).length > 0;
    return checked ? passed("checked", " before it was published, with no other answers to compare.") : unproven();
  }
  const original = facts["hangtag.made_of"] ? "the FP32 file" : "PyTorch";
  return passed(
    "proven",
    ` ${count(gate.agreement?.images)} images, against ${original}: a `,
    `${key.slice("max_".length, -"_difference".length)} differs by at most `,
    small(largest(differences.test ?? differences)),
    ", allowed ",
    small(gate.parity.limit),
    ".",
  );
}

const passed = (word, ...sentence) =>
  make("p", { class: "proof small" }, make("span", { class: "pill good" }, word), ...sentence);

const unproven = () => make("p", { class: "proof small muted" }, "Its file has no validation record.");

const small = (number) =>
  make("span", { class: "whole" }, number ? Number(number).toExponential(1).replace(".0e", "e") : "0");

function signature({ metadata, config, facts }) {
  const first = config.max_batch_size ? "batch" : "any";
  const sizes = (shape) => shape.map((size, axis) => (size >= 0 ? size : axis ? "any" : first)).join(", ");
  const tensor = ({ name, datatype, shape }) => make("code", {}, `${name} ${datatype} [${sizes(shape)}]`);
  const list = (tensors) => make("span", { class: "tensors" }, ...tensors.map(tensor));
  const labels = json(facts["hangtag.labels"]);
  return [
    [metadata.inputs.length > 1 ? "inputs" : "input", list(metadata.inputs)],
    [metadata.outputs.length > 1 ? "outputs" : "output", list(metadata.outputs)],
    ...(Array.isArray(labels) ? [["labels", listed(labels)]] : []),
  ];
}

function listed(labels) {
  const more = labels.length - MOST_LABELS;
  return more > 0 ? `${labels.slice(0, MOST_LABELS).join(", ")} and ${count(more)} more` : labels.join(", ");
}

function checks({ facts }) {
  const gate = json(facts["hangtag.gate"]) ?? {};
  return Object.entries(gate)
    .filter(([, figures]) => figures && typeof figures === "object")
    .map(([check, figures]) => [`check: ${check}`, summary(figures) || "passed"]);
}

/** A check's figures in one line; a table of figures is reduced to its largest value. */
function summary(figures) {
  return Object.entries(figures)
    .filter(([name, value]) => value !== null && name !== "operators" && name !== "opsets")
    .map(([name, value]) => `${name === "outcome" ? "" : `${name.replaceAll("_", " ")} `}${largest(value)}`)
    .join(", ");
}

function largest(value) {
  if (value && typeof value === "object") {
    return Object.values(value).map(largest).reduce((most, one) => (one > most ? one : most), 0);
  }
  return typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(4)) : value;
}

function provenance({ facts }) {
  return [
    ["trained", facts["hangtag.trained"]?.slice(0, 10)],
    ["recipe", facts["hangtag.recipe"]],
    ["seed", facts["hangtag.seed"]],
    ["revision", facts["hangtag.git_revision"]],
    ["data", facts["hangtag.data_digest"]],
    ["graph", facts["hangtag.graph_digest"]],
  ].filter(([, value]) => value);
}

function running({ config, facts }) {
  if (!facts.execution_provider) return [];
  const group = config.instance_group?.[0];
  const provider = `${facts.execution_provider} (${facts.execution_provider_asked} was set)`;
  return [
    ["runs on", `${provider}, ONNX Runtime ${facts.onnxruntime_version}`],
    ["instances", `${group?.count ?? 1}, each with ${facts.intra_op_threads} of ONNX Runtime’s threads`],
    ["batches", config.max_batch_size ? `up to ${config.max_batch_size} samples` : "one request at a time"],
  ];
}
