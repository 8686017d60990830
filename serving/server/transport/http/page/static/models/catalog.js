// Reads from the server which models there are, and what their files say about them.

import { callJson } from "../server.js";

const SERIES = 6; // colours of the style sheet

/**
 * A version of a model.
 * @typedef {Object} Model
 * @property {string} id what a classification names it by: NAME, or NAME@VERSION where another version is the default.
 * @property {boolean} ready false: `reason` says why, and nothing below is known.
 * @property {boolean} isDefault whether calls without a version get this one.
 * @property {boolean} classifies whether it takes a picture and has labels.
 * @property {Object<string, string>} facts the parameters of its configuration.
 */

/** Return every version of every model, by name, those that serve first. */
export async function readModels() {
  const index = await callJson("v2/repository/index", { method: "POST", body: "{}" });
  const models = await Promise.all(index.map(describe));
  models.sort((a, b) => b.ready - a.ready || a.name.localeCompare(b.name) || b.isDefault - a.isDefault);
  models.filter((model) => model.ready).forEach((model, place) => (model.colour = `var(--series-${place % SERIES})`));
  return models;
}

async function describe({ name, version, state, reason }) {
  const unknown = { ready: false, isDefault: false, classifies: false, facts: {} };
  const model = { id: name, name, version, state, reason, ...unknown };
  if (state !== "READY") return model;
  const path = `v2/models/${encodeURIComponent(name)}`;
  try {
    const [metadata, config] = await Promise.all([
      callJson(path),
      callJson(`${path}/versions/${encodeURIComponent(version)}/config`),
    ]);
    model.isDefault = metadata.versions[0] === version;
    model.id = model.isDefault ? name : `${name}@${version}`;
    model.config = config;
    model.metadata = model.isDefault ? metadata : await callJson(`${path}/versions/${encodeURIComponent(version)}`);
  } catch (error) {
    if (error.status !== 404) throw error; // it was unloaded since the index was read
    return { ...model, state: "UNAVAILABLE", reason: error.message };
  }
  for (const [key, { string_value }] of Object.entries(model.config.parameters ?? {})) model.facts[key] = string_value;
  model.multiLabel = model.facts["hangtag.task"] === "multi_label";
  model.ready = true;
  model.classifies = classifies(model);
  return model;
}

/** The server's own rule: one UINT8 picture, and as many probabilities as there are labels. */
function classifies({ metadata: { inputs, outputs }, facts }) {
  const labels = json(facts["hangtag.labels"]);
  const probabilities = outputs.find((output) => output.name === "probabilities");
  if (!Array.isArray(labels) || !probabilities || inputs.length !== 1) return false;
  const { datatype, shape } = inputs[0];
  const known = shape.length === 3 && shape[1] > 0 && shape[2] > 0;
  return datatype === "UINT8" && known && probabilities.shape.length === 2 && probabilities.shape[1] === labels.length;
}

/** The figure that says how often a model is right: its name and value, or null. */
export function accuracy({ facts }) {
  for (const [key, name] of [
    ["hangtag.test_accuracy", "test accuracy"],
    ["hangtag.test_exact_match", "exact match"],
    ["hangtag.test_o_f1", "overall F1"],
  ]) {
    const value = Number.parseFloat(facts[key]);
    if (Number.isFinite(value)) return { name, value };
  }
  return null;
}

/** Read JSON of a model's file; null where there is none or it is malformed. */
export function json(text) {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}
