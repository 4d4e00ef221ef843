// The page: takes a file, hands it to the model, shows what comes back.

import { decode } from "./audio.js";
import { drawScale, drawStrip, drawWaveform, formatTime } from "./draw.js";
import { csv } from "./table.js";

// Tags shown before the button that shows all of them is pressed.
const SHOWN = 15;

const part = (id) => document.getElementById(id);
const worker = new Worker(new URL("worker.js", import.meta.url), { type: "module" });

let about;
// What is on the page: the file, its samples, the scores of its windows (windows, labels), NaN
// where there are none yet, and of the whole file.
let shown = null;
let job = 0;
let showAll = false;

worker.onmessage = ({ data }) => {
  if (data.kind === "ready") return ready(data.about);
  if (data.kind === "broken") return fail("", `The model cannot be loaded: ${data.reason}`);
  if (data.job !== job) return;
  if (data.kind === "windows") return addWindows(data);
  if (data.kind === "done") return finish(data);
  fail(shown.file.name, `the model failed (${data.reason}).`);
};
worker.onerror = () => fail("", "The model cannot be loaded; this browser may be too old.");

function ready(found) {
  about = found;
  part("file").disabled = false;
  part("starting").hidden = true;
  setState("ready", "Ready.");
}

function setState(state, text) {
  part("main").dataset.state = state;
  part("status").textContent = text;
  part("progress").hidden = state !== "busy";
}

function fail(name, reason) {
  part("starting").hidden = true;
  part("error").textContent = name ? `${name}: ${reason}` : reason;
  part("error").hidden = false;
  part("result").hidden = true;
  setState("failed", "");
}

async function open(file) {
  const mine = ++job;
  part("error").hidden = true;
  part("result").hidden = true;
  part("progress").removeAttribute("value");
  setState("busy", `Reading ${file.name} …`);
  let audio;
  try {
    audio = await decode(file, about.sampleRate, about.windowSamples);
  } catch (error) {
    if (mine === job) fail(file.name, error.message);
    return;
  }
  // Another file was given in the meantime.
  if (mine !== job) return;
  const windows = Math.floor(audio.length / about.windowSamples);
  const { labels } = about;
  const scores = Array.from({ length: windows }, () => new Float32Array(labels.length).fill(NaN));
  shown = { file, audio, scores, whole: null };
  showAll = false;
  if (part("player").src) URL.revokeObjectURL(part("player").src);
  part("player").src = URL.createObjectURL(file);
  part("file-name").textContent = file.name;
  part("result").hidden = false;
  part("neighbours").hidden = part("all").hidden = part("table").hidden = true;
  part("tags").replaceChildren();
  part("tag-column").textContent = labels.length ? "Tag" : "";
  part("score-column").textContent = labels.length ? "Whole file" : "";
  part("caption").textContent = labels.length
    ? `Scores of ${labels.length} tags in windows of ${seconds().toFixed(1)} s`
    : "";
  part("readout").textContent = "";
  part("scale").hidden = !labels.length;
  showTags(labels.map((_, label) => label).slice(0, SHOWN));
  movePlayhead();
  drawSamples();
  drawScores();
  worker.postMessage({ job: mine, audio: audio.slice() });
}

function seconds() {
  return about.windowSamples / about.sampleRate;
}

function addWindows({ first, rows, count, scores }) {
  const labels = about.labels.length;
  for (let row = 0; row < rows; row++) {
    shown.scores[first + row] = scores.slice(row * labels, (row + 1) * labels);
  }
  part("progress").value = (first + rows) / count;
  part("status").textContent = `Window ${first + rows} of ${count}`;
  drawScores();
}

function finish({ scores, nearest }) {
  shown.whole = scores;
  if (about.labels.length) {
    showRanking();
    part("all").hidden = about.labels.length <= SHOWN;
    offerTable();
  }
  if (nearest) {
    const entries = nearest.map(({ name, cosine }) => {
      const entry = document.createElement("li");
      entry.dataset.cosine = cosine;
      entry.dataset.name = name;
      entry.append(bar(Math.max(0, cosine)), `${cosine.toFixed(3)}  ${name}`);
      return entry;
    });
    part("nearest").replaceChildren(...entries);
    part("neighbours").hidden = false;
  }
  setState("done", "Done.");
}

function showRanking() {
  const ranking = about.labels.map((_, label) => label);
  ranking.sort((a, b) => shown.whole[b] - shown.whole[a]);
  showTags(showAll ? ranking : ranking.slice(0, SHOWN));
  part("all").textContent = showAll ? "Show the first only" : `Show all ${ranking.length} tags`;
  drawScores();
}

// One row a tag: its name, its strip, its score.
function showTags(labels) {
  const rows = labels.map((label) => {
    const [row, name, cell, score] = ["tr", "th", "td", "td"].map((kind) =>
      document.createElement(kind),
    );
    const strip = document.createElement("canvas");
    name.scope = "row";
    name.textContent = name.title = about.labels[label];
    strip.dataset.label = label;
    strip.setAttribute("role", "img");
    strip.setAttribute("aria-label", describe(label));
    cell.append(strip);
    if (shown.whole) {
      score.dataset.score = shown.whole[label];
      score.append(bar(shown.whole[label]), shown.whole[label].toFixed(2));
    }
    row.append(name, cell, score);
    return row;
  });
  part("tags").replaceChildren(...rows);
}

function describe(label) {
  if (!shown.whole) return `${about.labels[label]} over time`;
  const column = shown.scores.map((row) => row[label]);
  const top = Math.max(...column);
  const when = formatTime(column.indexOf(top) * seconds());
  return `${about.labels[label]} over time: highest, ${top.toFixed(2)}, at ${when}`;
}

function bar(share) {
  const found = document.createElement("span");
  found.className = "bar";
  found.style.setProperty("--share", `${100 * share}%`);
  return found;
}

function offerTable() {
  const rows = [["start", ...about.labels]];
  shown.scores.forEach((row, k) => rows.push([Number((k * seconds()).toFixed(3)), ...row]));
  rows.push(["whole file", ...shown.whole]);
  const link = part("table");
  if (link.href) URL.revokeObjectURL(link.href);
  link.href = URL.createObjectURL(new Blob([csv(rows)], { type: "text/csv" }));
  link.download = `${shown.file.name}.csv`;
  link.hidden = false;
}

function drawAll() {
  if (!shown || part("result").hidden) return;
  drawSamples();
  drawScores();
  movePlayhead();
}

function drawSamples() {
  drawWaveform(part("waveform"), shown.audio, about.sampleRate);
}

function drawScores() {
  const { audio, scores } = shown;
  const duration = audio.length / about.sampleRate;
  const most = scores.reduce(
    (found, row) => row.reduce((top, score) => (score > top ? score : top), found),
    0,
  );
  for (const strip of part("tags").querySelectorAll("canvas")) {
    const column = scores.map((row) => row[strip.dataset.label]);
    drawStrip(strip, column, most || 1, seconds(), duration);
  }
  drawScale(part("colours"));
  part("most").textContent = most.toFixed(2);
}

function movePlayhead() {
  const [chart, wave] = ["chart", "waveform"].map((id) => part(id).getBoundingClientRect());
  const share = (part("player").currentTime * about.sampleRate) / shown.audio.length;
  part("playhead").hidden = !share;
  part("playhead").style.left = `${wave.left - chart.left + Math.min(1, share) * wave.width}px`;
  part("playhead").style.top = `${wave.top - chart.top}px`;
}

function timeAt(event) {
  const { left, width } = event.target.getBoundingClientRect();
  const share = Math.min(1, Math.max(0, (event.clientX - left) / width));
  return (share * shown.audio.length) / about.sampleRate;
}

part("chart").addEventListener("click", (event) => {
  if (event.target instanceof HTMLCanvasElement) part("player").currentTime = timeAt(event);
});

part("chart").addEventListener("pointermove", (event) => {
  if (!(event.target instanceof HTMLCanvasElement)) return;
  const time = timeAt(event);
  const { label } = event.target.dataset;
  const score = shown.scores[Math.floor(time / seconds())]?.[label];
  const value = score >= 0 ? `, ${about.labels[label]} ${score.toFixed(2)}` : "";
  part("readout").textContent = formatTime(time) + value;
});

part("all").addEventListener("click", () => {
  showAll = !showAll;
  showRanking();
});

for (const event of ["timeupdate", "seeked"]) part("player").addEventListener(event, movePlayhead);
addEventListener("resize", drawAll);
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);

part("file").addEventListener("change", ({ target }) => {
  if (target.files.length) open(target.files[0]);
  // So that the same file can be chosen again.
  target.value = "";
});

addEventListener("dragover", (event) => {
  event.preventDefault();
  part("drop").classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) part("drop").classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  part("drop").classList.remove("over");
  const [file] = event.dataTransfer.files;
  if (file && about) open(file);
});
