// Joins the parts of the page: a picture and a choice of models give a question; its answers and its code are shown.

import { Answers } from "./answers.js";
import { Code } from "./code.js";
import { byId } from "./dom.js";
import { Live } from "./live.js";
import { showModels } from "./models/cards.js";
import { readModels } from "./models/catalog.js";
import { Chooser } from "./models/chooser.js";
import { PictureInput } from "./picture/input.js";
import { callJson, hasToken, setToken } from "./server.js";

const HEALTH = { 0: "unreachable", 401: "token needed", 503: "not ready" };

const answers = new Answers();
const code = new Code();
const chooser = new Chooser(choose);
const picture = new PictureInput(ask);
const live = new Live(start, showHealth);

async function ask() {
  const models = chooser.chosen;
  if (!models.length) {
    code.hide();
    const none = "No model here takes pictures and has labels. The models below are called with their tensors.";
    answers.explain(chooser.models.length ? "Choose a model." : none);
    return;
  }
  if (!picture.blob) {
    code.hide();
    answers.explain("Drop, paste or choose a picture, or draw one.");
    return;
  }
  code.show({ models: models.map((model) => model.id), file: picture.name }, picture.blob);
  askForToken(await answers.ask(models, picture.blob));
}

/** Other models are chosen: they may take other pictures. */
async function choose() {
  const models = chooser.chosen;
  answers.wait(models);
  let isAsked = false;
  try {
    isAsked = await picture.showFor(models);
  } catch (error) {
    askForToken(error);
  }
  if (!isAsked) await ask();
}

/** Read what the server has, and ask the first question. */
async function start() {
  try {
    const [server, models] = await Promise.all([callJson("v2"), readModels()]);
    byId("access").hidden = true;
    byId("version").textContent = server.version;
    document.title = `${server.name} ${server.version}`;
    chooser.show(models);
    showModels(models);
    if (!(await picture.showFor(chooser.chosen))) await ask();
  } catch (error) {
    live.distrust();
    showHealth(error);
    answers.explain(error.status === 401 ? "The models answer once the server has your token." : error.message);
    if (error.status === 401) return;
  }
  live.schedule(0);
}

function showHealth(error) {
  const health = byId("health");
  const text = error ? (HEALTH[error.status] ?? "error") : "ready";
  if (health.textContent !== text) health.textContent = text;
  health.className = `pill ${error ? "bad" : "good"}`;
  askForToken(error);
}

/** Show the field for a token where a call was refused for want of one, or of a valid one. */
function askForToken(error) {
  if (error?.status !== 401) return;
  byId("access").hidden = false;
  byId("refusal").textContent = hasToken() ? error.message : "";
}

byId("access").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken(byId("token").value);
  start();
});
start();
