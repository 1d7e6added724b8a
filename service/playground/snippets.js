// A job as a command or a program that runs as it stands. The key is read from LDM_API_KEY, and never written into it.
import { ROOT, apiKey } from "./api.js";
import { Button, Segments } from "./controls.js";
import { Icon } from "./icons.js";
import { endpointOf } from "./tasks.js";
import { html, useEffect, useRef, useState } from "./vendor/preact.js";

const FILES = ["image", "mask", "map"];
const shell = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
// JSON strings, numbers, lists and objects are Python's as well; a body has no null.
const python = (value) => JSON.stringify(value, null, 4).replace(/: true(,?)$/gm, ": True$1").replace(/: false(,?)$/gm, ": False$1");

// `bare`: the body without its files; `files`: names of the fields that are.
function parts({ task, body, job }) {
  const files = FILES.filter((name) => name in body);
  const bare = { ...Object.fromEntries(Object.entries(body).filter(([name]) => !files.includes(name))), seed: job.request.seed };
  const format = body.format ?? "png";
  const url = `${location.origin}${ROOT}/v1/${endpointOf(task)}`;
  return { files, bare, url, out: `out.${format === "jpeg" ? "jpg" : format}`, type: `image/${format}` };
}

export function curl(entry) {
  const { files, bare, url, out, type } = parts(entry);
  const key = apiKey() ? [`-H "Authorization: Bearer $LDM_API_KEY"`] : [];
  const fields = Object.entries(bare).map(([name, value]) => `--form-string ${shell(`${name}=${value}`)}`);
  const form = files.length
    ? [...fields, ...files.map((name) => `-F ${name}=@${name}.png`)]
    : ["-H 'Content-Type: application/json'", `-d ${shell(JSON.stringify(bare))}`];
  const told = `-w ${shell("%{http_code} %{content_type}\\n")}`; // 202: it was not done in two minutes
  return [`curl -sS --fail-with-body ${url}`, `-H 'Accept: ${type}' -H 'Prefer: wait=120'`, ...key, ...form, `-o ${out} ${told} || { cat ${out}; false; }`].join(" \\\n  ");
}

export function pythonCode(entry) {
  const { files, bare, url, out, type } = parts(entry);
  const key = apiKey() ? `\n    "Authorization": "Bearer " + os.environ["LDM_API_KEY"],` : "";
  return `${files.length ? "import base64\n" : ""}import json
${apiKey() ? "import os\n" : ""}from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

body = ${python(bare)}
${files.map((name) => `body["${name}"] = base64.b64encode(Path("${name}.png").read_bytes()).decode()\n`).join("")}headers = {
    "Content-Type": "application/json",
    "Accept": "${type}",
    "Prefer": "wait=120",${key}
}
try:
    answer = urlopen(Request("${url}", json.dumps(body).encode(), headers))
except HTTPError as refusal:
    raise SystemExit(json.load(refusal)["detail"]) from None
if answer.status != 200:  # not done in two minutes
    raise SystemExit(answer.read().decode())
Path("${out}").write_bytes(answer.read())
`;
}

export function javascript(entry) {
  const { files, bare, url, out, type } = parts(entry);
  const key = apiKey() ? "\n    Authorization: `Bearer ${process.env.LDM_API_KEY}`," : "";
  return `import { ${files.length ? "readFile, " : ""}writeFile } from "node:fs/promises";

const body = ${JSON.stringify(bare, null, 2)};
${files.map((name) => `body.${name} = (await readFile("${name}.png")).toString("base64");\n`).join("")}const answer = await fetch("${url}", {
  method: "POST",
  headers: {
    "Content-Type": "application/json",
    Accept: "${type}",
    Prefer: "wait=120",${key}
  },
  body: JSON.stringify(body),
});
if (answer.status !== 200) throw new Error(await answer.text());
await writeFile("${out}", Buffer.from(await answer.arrayBuffer()));
`;
}

const LANGUAGES = { curl, Python: pythonCode, JavaScript: javascript };

export function Snippets({ entry, close }) {
  const dialog = useRef(null);
  const [language, setLanguage] = useState("curl");
  const [copied, setCopied] = useState(false);
  useEffect(() => dialog.current.showModal(), []);
  const text = LANGUAGES[language](entry);
  const copy = async () => {
    await copyText(text, dialog.current);
    setCopied(true);
    setTimeout(() => setCopied(false), 2000);
  };
  return html`<dialog ref=${dialog} class="dialog wide" aria-labelledby="code-title" onClose=${close}>
    <header><h2 id="code-title">The same, as code</h2><${Button} icon="close" label="Close" onClick=${() => dialog.current.close()} /></header>
    <div class="row spread"><${Segments} label="Language" value=${language} options=${Object.keys(LANGUAGES).map((name) => [name, name])} set=${setLanguage} />
      <${Button} icon=${copied ? "check" : "copy"} kind="primary" onClick=${copy}>${copied ? "Copied" : "Copy"}<//></div>
    <pre tabindex="0" aria-label=${`${language} code`}><code>${text}</code></pre>
    ${parts(entry).files.length > 0 && html`<p class="quiet">It reads these files; save them beside it:
      ${parts(entry).files.map((name) => html` <a key=${name} class="link" href=${entry.body[name]} download=${`${name}.png`}><${Icon} name="download" size="14" />${name}.png</a>`)}</p>`}
    ${apiKey() && html`<p class="quiet">It takes the key from the environment: LDM_API_KEY.</p>`}
  </dialog>`;
}

// navigator.clipboard is there only over https and on localhost.
async function copyText(text, parent) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch {
    const area = Object.assign(document.createElement("textarea"), { value: text });
    parent.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}
