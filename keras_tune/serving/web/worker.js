// The model, away from the page's own thread, so that the page stays alive while it computes.

import * as ort from "./onnxruntime/ort.js";

// So many windows at a time: few enough for a progress that moves, and for little memory.
const WINDOWS_AT_ONCE = 4;
const NEIGHBOURS = 10;

let about, encoder, head, index;
// Of several files only the last one that was given is gone on with.
let current = null;

async function start() {
  // One thread: more of them need headers that a plain file server does not send. The binary is
  // handed over, so that it does not matter which type the server takes it for.
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = await load("onnxruntime/ort.wasm", "arrayBuffer");
  about = await load("page.json", "json");
  encoder = await ort.InferenceSession.create(await load("model.onnx", "arrayBuffer"));
  if (about.pooling === "embeddings" && about.labels.length) {
    head = await ort.InferenceSession.create(await load("head.onnx", "arrayBuffer"));
  }
  if (about.index) {
    index = await load("index.json", "json");
    const octets = Uint8Array.from(atob(index.vectors), (letter) => letter.charCodeAt(0));
    index.vectors = new Float32Array(octets.buffer);
  }
  postMessage({ kind: "ready", about });
}

async function load(name, as) {
  const answer = await fetch(new URL(name, import.meta.url));
  if (!answer.ok) throw new Error(`${name} is missing on the server (${answer.status})`);
  return answer[as]();
}

async function analyse(job, audio) {
  const length = about.windowSamples;
  const count = Math.floor(audio.length / length);
  const embedding = new Float64Array(about.dimensions);
  const means = new Float64Array(about.labels.length);
  for (let first = 0; first < count; first += WINDOWS_AT_ONCE) {
    const rows = Math.min(WINDOWS_AT_ONCE, count - first);
    const samples = audio.subarray(first * length, (first + rows) * length);
    const outputs = await encoder.run({ waveform: new ort.Tensor("float32", samples, [rows, length]) });
    if (!outputs.window_embedding.data.every(Number.isFinite)) {
      throw new Error("its output is not finite");
    }
    addRows(embedding, outputs.window_embedding.data, count);
    // An encoder has no scores.
    const scores = about.labels.length ? outputs.window_scores.data.slice() : [];
    addRows(means, scores, count);
    if (job !== current) return;
    postMessage({ kind: "windows", job, first, rows, count, scores });
    // A message of the page that a new file has come is heard here.
    await new Promise((resume) => setTimeout(resume));
    if (job !== current) return;
  }
  let scores = Float32Array.from(means);
  if (head) {
    const mean = new ort.Tensor("float32", Float32Array.from(embedding), [1, embedding.length]);
    scores = (await head.run({ embedding: mean })).scores.data.slice();
  }
  postMessage({ kind: "done", job, scores, nearest: nearest(embedding) });
}

function addRows(sums, rows, count) {
  rows.forEach((value, place) => (sums[place % sums.length] += value / count));
}

function nearest(embedding) {
  if (!index) return null;
  const norm = Math.hypot(...embedding) || 1;
  const found = index.tracks.map((name, track) => {
    const vector = index.vectors.subarray(track * embedding.length, (track + 1) * embedding.length);
    return { name, cosine: vector.reduce((sum, value, k) => sum + value * embedding[k], 0) / norm };
  });
  return found.sort((a, b) => b.cosine - a.cosine).slice(0, NEIGHBOURS);
}

onmessage = ({ data: { job, audio } }) => {
  current = job;
  analyse(job, audio).catch((error) => postMessage({ kind: "failed", job, reason: error.message }));
};

start().catch((error) => postMessage({ kind: "broken", reason: error.message }));
