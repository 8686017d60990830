// Reads from the server which models there are, and what their files say about them.

import { callJson } from "../server.js";
import { giveColours } from "./colours.js";

/**
 * A version of a model.
 * @typedef {Object} Model
 * @property {string} id what a classification names it by: NAME, or NAME@VERSION where another version is the default.
 * @property {boolean} ready false: `reason` says why, and nothing below is known.
 * @property {boolean} isDefault whether calls without a version get this one.
 * @property {boolean} classifies whether it takes a picture and has labels.
 * @property {Image} image what pictures it takes, if it does.
 * @property {Object<string, string>} facts the parameters of its configuration.
 */

/**
 * The pictures that a model takes.
 * @typedef {Object} Image
 * @property {number} height
 * @property {number} width
 * @property {number} channels 1 for grey, 3 for colour.
 * @property {string} fit how others are made to fit; undefined where the model's file does not say.
 * @property {boolean} isDark whether those that it learned from were rather dark than bright.
 */

/** Return every version of every model, by name, those that serve first. */
export async function readModels() {
  const index = await callJson("v2/repository/index", { method: "POST", body: "{}" });
  const models = await Promise.all(index.map(describe));
  models.sort((a, b) => b.ready - a.ready || a.name.localeCompare(b.name) || b.isDefault - a.isDefault);
  const ready = models.filter((model) => model.ready);
  giveColours(ready.map((model) => model.id)).forEach((colour, place) => (ready[place].colour = colour));
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
  model.classifies = model.facts.classifies_images === "true";
  if (model.classifies) model.image = image(model);
  return model;
}

/** @returns {Image} */
function image({ metadata, facts }) {
  const [, height, width, channels = 1] = metadata.inputs[0].shape;
  const { fit, mean = [0] } = json(facts["hangtag.image"]) ?? {};
  const brightness = mean.reduce((sum, each) => sum + each, 0) / mean.length; // 0 black, 1 white
  return { height, width, channels, fit, isDark: brightness < 0.5 };
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
