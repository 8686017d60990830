// The same call from a program: lines for curl, Python and grpcurl that work as they are copied.

import { byId, make } from "./dom.js";
import { address, grpcAddress, hasToken } from "./server.js";

const COPIED_MS = 2000;
const isEncrypted = location.protocol === "https:";
const BEARER = '-H "Authorization: Bearer $(cat TOKEN_FILE)"'; // the token itself is in no code that is copied

/**
 * A call to write in code.
 * @typedef {Object} Shown
 * @property {string[]} models each NAME or NAME@VERSION.
 * @property {string} file the picture's name.
 */

const LANGUAGES = { curl, Python: python, grpcurl };

export class Code {
  constructor() {
    this.language = "curl";
    this.shown = null;
    const names = Object.keys(LANGUAGES);
    byId("languages").append(...names.map((name) => this.tab(name)));
    byId("languages").addEventListener("keydown", ({ key }) => {
      const step = { ArrowRight: 1, ArrowLeft: -1 }[key];
      if (!step) return;
      this.turn(names.at((names.indexOf(this.language) + step) % names.length));
      byId(`tab-${this.language}`).focus();
    });
    byId("copy").addEventListener("click", () => this.copy());
    this.turn("curl");
  }

  tab(name) {
    const properties = { type: "button", role: "tab", id: `tab-${name}`, "aria-controls": "snippet" };
    return make("button", { ...properties, onclick: () => this.turn(name) }, name);
  }

  turn(language) {
    this.language = language;
    for (const tab of byId("languages").children) {
      const selected = tab.id === `tab-${language}`;
      tab.setAttribute("aria-selected", selected);
      tab.tabIndex = selected ? 0 : -1;
    }
    byId("snippet").setAttribute("aria-labelledby", `tab-${language}`);
    this.write();
  }

  /** @param {Shown} shown @param {Blob} picture offered to save, because the code reads it from a file. */
  show(shown, picture) {
    this.shown = shown;
    URL.revokeObjectURL(byId("reads").querySelector("a")?.href);
    const link = make("a", { href: URL.createObjectURL(picture), download: shown.file }, shown.file);
    const capitals = hasToken() || isEncrypted ? " Words in capitals stand for your own files." : "";
    const place = ` from the folder that it runs in: click the name to save the picture.${capitals}`;
    byId("reads").replaceChildren("It reads ", link, place);
    byId("code").hidden = false;
    this.write();
  }

  hide() {
    byId("code").hidden = true;
  }

  write() {
    if (this.shown) byId("snippet").textContent = LANGUAGES[this.language](this.shown);
  }

  async copy() {
    await copyText(byId("snippet").textContent);
    byId("copy").textContent = "Copied";
    clearTimeout(this.timer);
    this.timer = setTimeout(() => (byId("copy").textContent = "Copy"), COPIED_MS);
  }
}

/** Browsers have `navigator.clipboard` only where the connection is encrypted or local, and a person may forbid it. */
async function copyText(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch {
    copySelected(text);
  }
}

function copySelected(text) {
  const area = make("textarea", { class: "hidden", readonly: true });
  area.value = text;
  document.body.append(area);
  area.select();
  document.execCommand("copy");
  area.remove();
}

function curl({ models, file }) {
  const lines = [
    `curl --data-binary ${shell(`@${file}`)}`,
    ...(isEncrypted ? ["--cacert CA_FILE"] : []),
    ...(hasToken() ? [BEARER] : []),
    shell(`${address()}/v1/classify/${models.join(",")}`),
  ];
  return lines.join(" \\\n    ");
}

function grpcurl({ models, file }) {
  const choices = models.map((model) => model.split("@"));
  const one = ([[model_name, model_version]]) => ({ model_name, model_version });
  const several = (named) => ({ models: named.map(([name, version]) => ({ name, version })) });
  const message = JSON.stringify({ ...(models.length > 1 ? several : one)(choices), encoded: "%s" });
  const options = [isEncrypted ? "-cacert CA_FILE" : "-plaintext", ...(hasToken() ? [BEARER] : []), "-d @"];
  return `printf ${shell(message)} \\
    "$(base64 < ${shell(file)} | tr -d '\\n')" |
    grpcurl ${options.join(" ")} \\
    ${grpcAddress()} hangtag.v1.Classifier/${models.length > 1 ? "Compare" : "Classify"}`;
}

function python({ models, file }) {
  const files = [
    ...(isEncrypted ? ['tls_ca=Path("CA_FILE")'] : []),
    ...(hasToken() ? ['token_file=Path("TOKEN_FILE")'] : []),
  ];
  const credentials = files.length ? `credentials = Credentials(${files.join(", ")})\n` : "";
  return `from pathlib import Path

from hangtag import Client${files.length ? ", Credentials" : ""}

picture = Path(${quoted(file)}).read_bytes()
${credentials}with Client(${quoted(address())}${files.length ? ", credentials=credentials" : ""}) as client:
${pythonCalls(models)}
`;
}

/** A call of Classify for one model, of Compare for several. */
function pythonCalls(models) {
  if (models.length === 1) {
    return `    answer = client.classify(picture, ${quoted(models[0])})
    for label in answer.labels:
        print(f"{label.name} {label.probability:.1%}")`;
  }
  return `    for model, answer in client.compare(picture, [${models.map(quoted).join(", ")}]).items():
        labels = [f"{label.name} {label.probability:.1%}" for label in answer.labels]
        print(model, *labels, sep=", ")`;
}

/** A word of the shell, in quotes where it has other characters than those that no shell treats specially. */
function shell(word) {
  return /^[\w@%+=:,./-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`;
}

/** A text in Python's quotes; JSON's escapes are Python's too. */
const quoted = (text) => JSON.stringify(text);
