"use strict";
const find = id => document.getElementById(id);
const percent = share => `${(100 * share).toFixed(1)} %`;
let photograph = null;

function make(tag, values = {}, ...children) {
  const element = Object.assign(document.createElement(tag), values);
  element.append(...children);
  return element;
}

function picture(src, caption, alt = caption) {
  return make("figure", {}, make("img", {src, alt}), make("figcaption", {textContent: caption}));
}

const latest = {};  // number of the last question of each place

// Lets an answer that is still to come to a place be dropped.
function forget(place) {
  latest[place] = (latest[place] ?? 0) + 1;
  find(place).setAttribute("aria-busy", "false");
}

// Asks, and says what went wrong where the answer would be; null if that, or if something else was asked since.
async function ask(place, error, address, body) {
  forget(place);
  const mine = latest[place];
  find(error).textContent = "";
  find(place).setAttribute("aria-busy", "true");
  try {
    const type = body && (body.type.startsWith("image/") ? body.type : "application/octet-stream");
    const options = body ? {method: "POST", body, headers: {"Content-Type": type}} : {};
    const answer = await fetch(address, options);
    const found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
    return latest[place] === mine ? found : null;
  } catch (problem) {
    if (latest[place] === mine) find(error).textContent = problem.message;
    return null;
  } finally {
    if (latest[place] === mine) find(place).setAttribute("aria-busy", "false");
  }
}

function bars(items) {
  return items.map(({name, share}) => {
    const said = `${name}: ${percent(share)}`;
    const meter = make("meter", {min: 0, max: 1, value: share, ariaLabel: said});
    return make("li", {}, said, meter);
  });
}

async function look(file) {
  photograph = file;
  for (const place of ["fooled", "neighbours"]) {  // they were of another photograph
    forget(place);
    find(place).replaceChildren();
  }
  find("photograph-answer").hidden = true;
  const found = await ask("drop", "photograph-error", "/photograph/look", file);
  if (!found) return;
  find("photograph-answer").hidden = false;
  find("given").src = found.given;
  find("classes").replaceChildren(...bars(found.classes));
  const first = found.classes[0].name;
  const maps = Object.entries(found.maps);
  find("maps").replaceChildren(...maps.map(([name, src]) => picture(src, name, `${name}: pixels that speak for ${first}`)));
}

async function fool() {
  const found = await ask("fooled", "photograph-error", "/photograph/fool", photograph);
  if (!found) return;
  const size = `${found.steps} steps along the gradient change it by ${found.l2.toFixed(2)} in L2, ` +
    `at most ${found.largest} of 255 grey levels, ${found.psnr.toFixed(1)} dB`;
  const said = found.success
    ? `${size}: ${found.before} becomes ${found.after}.`
    : `${size}, and it is still taken for ${found.after}, not for ${found.wanted}.`;
  find("fooled").replaceChildren(
    make("p", {textContent: said}),
    make("div", {className: "row"},
      picture(find("given").src, `before: ${found.before}`),
      picture(found.image, `after: ${found.after}`),
      picture(found.difference, `the difference, ${found.times} times as strong, around grey`)));
}

async function nearest() {
  const found = await ask("neighbours", "photograph-error", "/photograph/nearest", photograph);
  if (!found) return;
  const said = `The nearest of ${found.of} photographs, by the cosine of what ${found.layer} makes of them:`;
  const pictures = found.nearest.map(one => picture(one.image, `${one.name}, ${one.cosine.toFixed(3)}`));
  find("neighbours").replaceChildren(make("p", {textContent: said}), make("div", {className: "row"}, ...pictures));
}

find("fool").addEventListener("click", fool);
find("nearest").addEventListener("click", nearest);
find("file").addEventListener("change", event => event.target.files[0] && look(event.target.files[0]));
for (const kind of ["dragover", "dragleave", "drop"]) find("drop").addEventListener(kind, event => {
  event.preventDefault();
  find("drop").classList.toggle("over", kind === "dragover");
  if (kind === "drop" && event.dataTransfer.files[0]) look(event.dataTransfer.files[0]);
});

const canvas = find("canvas"), pen = canvas.getContext("2d", {willReadFrequently: true});
const clear = () => { pen.fillStyle = "#000"; pen.fillRect(0, 0, canvas.width, canvas.height); };
clear();
Object.assign(pen, {strokeStyle: "#fff", lineWidth: 24, lineCap: "round", lineJoin: "round"});
const place = event => {
  const box = canvas.getBoundingClientRect();
  return [(event.clientX - box.left) * canvas.width / box.width, (event.clientY - box.top) * canvas.height / box.height];
};
let drawing = false;
canvas.addEventListener("pointerdown", event => {
  drawing = true;
  unanswered();
  canvas.setPointerCapture(event.pointerId);
  pen.beginPath();
  pen.moveTo(...place(event));
  pen.lineTo(...place(event));
  pen.stroke();
});
canvas.addEventListener("pointermove", event => { if (drawing) { pen.lineTo(...place(event)); pen.stroke(); } });
for (const kind of ["pointerup", "pointercancel"]) canvas.addEventListener(kind, () => { drawing = false; });
// What was said of another digit is not left beside this one.
const unanswered = () => { forget("digit-answer"); find("digit-answer").replaceChildren(); find("digit-error").textContent = ""; };
find("clear").addEventListener("click", () => { clear(); unanswered(); });
find("digit-file").addEventListener("change", async event => {
  try {
    const image = await createImageBitmap(event.target.files[0]);
    clear();
    unanswered();
    const scale = Math.min(canvas.width / image.width, canvas.height / image.height);  // it keeps its proportions
    const [width, height] = [image.width * scale, image.height * scale];
    pen.drawImage(image, (canvas.width - width) / 2, (canvas.height - height) / 2, width, height);
  } catch {
    find("digit-error").textContent = "this file is not a readable picture";
  }
});
const drawn = () => new Promise(done => canvas.toBlob(done, "image/png"));

find("read").addEventListener("click", async () => {
  const found = await ask("digit-answer", "digit-error", "/digit/read", await drawn());
  if (!found) return;
  const order = found.shares.map((share, digit) => ({name: String(digit), share})).sort((a, b) => b.share - a.share);
  find("digit-answer").replaceChildren(
    make("div", {className: "row"},
      picture(found.given, "what the judge is given, 32 x 32"),
      picture(found.map, "the gradient", `pixels that speak for ${order[0].name}`)),
    make("ul", {className: "bars"}, ...bars(order.slice(0, 4))));
});

find("style").addEventListener("click", async () => {
  const found = await ask("digit-answer", "digit-error", "/digit/style", await drawn());
  if (!found) return;
  const said = `Read as ${found.read_as}. The nearest that the generator draws differs by ${found.psnr.toFixed(1)} dB; ` +
    "the digits below have its latent.";
  find("digit-answer").replaceChildren(
    make("p", {textContent: said}),
    make("div", {className: "row"}, picture(found.given, "yours"), picture(found.nearest, "the nearest")),
    make("div", {className: "row digits"}, ...found.digits.map((src, digit) => make("img", {src, alt: `${digit} in your style`}))));
});

let frames = [];
function show(number) {
  find("frame").src = frames[number];
  find("frame").alt = `image ${number + 1} of ${frames.length} on the way`;
}
find("walk").addEventListener("click", async () => {
  const address = `/walk?first=${find("first").value}&second=${find("second").value}`;
  const found = await ask("walk-answer", "walk-error", address);
  if (!found) return;
  frames = found.frames;
  find("how").textContent = found.how === "slerp"
    ? "Along the arc, on which latents stay as long as the generator knows them."
    : "Along the line, which does not leave the cube that latents are drawn from.";
  find("way").max = frames.length - 1;
  find("way").value = 0;
  show(0);
  find("walk-answer").hidden = false;
});
find("way").addEventListener("input", event => show(Number(event.target.value)));

fetch("/about").then(answer => answer.json()).then(about => {
  find("network").textContent = `${about.network}, which knows ${about.classes.toLocaleString("en")} classes; percentages are ${about.measure}.`;
  for (const id of ["first", "second"]) find(id).max = about.latents - 1;
  if (about.cgan) { find("style").disabled = true; find("no-style").textContent = `No styles: ${about.cgan}.`; }
  if (about.gan) { find("walk").disabled = true; find("walk-error").textContent = `No walk: ${about.gan}.`; }
});
