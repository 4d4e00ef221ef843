// Pictures on canvases, as sharp as the screen is, in the colours of the style sheet.

const AXIS = 18;

function prepare(canvas) {
  const { width, height } = canvas.getBoundingClientRect();
  canvas.width = Math.max(1, Math.round(width * devicePixelRatio));
  canvas.height = Math.max(1, Math.round(height * devicePixelRatio));
  const pen = canvas.getContext("2d");
  pen.scale(devicePixelRatio, devicePixelRatio);
  return { pen, width, height };
}

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

export function formatTime(seconds) {
  const whole = Math.floor(seconds);
  return `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
}

// The lowest and the highest sample of each column, and a time axis below.
export function drawWaveform(canvas, audio, sampleRate) {
  const { pen, width, height } = prepare(canvas);
  const [middle, half] = [(height - AXIS) / 2, (height - AXIS) / 2 - 1];
  const peak = audio.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  pen.fillStyle = colour("--wave");
  const columns = Math.max(1, Math.floor(width));
  for (let x = 0; x < columns; x++) {
    const end = Math.ceil(((x + 1) * audio.length) / columns);
    let [low, high] = [0, 0];
    for (let place = Math.floor((x * audio.length) / columns); place < end; place++) {
      if (audio[place] < low) low = audio[place];
      if (audio[place] > high) high = audio[place];
    }
    const top = middle - (high / peak) * half;
    pen.fillRect(x, top, 1, Math.max(1, ((high - low) / peak) * half));
  }
  const duration = audio.length / sampleRate;
  const step = [0.5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800].find(
    (seconds) => (duration / seconds) * 60 <= width,
  ) ?? 3600;
  pen.fillStyle = colour("--quiet");
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  for (let time = 0; time < duration; time += step) {
    const x = (time / duration) * width;
    pen.fillRect(x, height - AXIS + 1, 1, 4);
    if (Number.isInteger(time) && x + 32 < width) pen.fillText(formatTime(time), x + 3, height - 1);
  }
}

// The scores of one tag, a cell a window; windows that are not scored yet stay empty.
export function drawStrip(canvas, scores, most, seconds, duration) {
  const { pen, width, height } = prepare(canvas);
  const shades = [colour("--cold"), colour("--hot")].map(channels);
  scores.forEach((score, window) => {
    if (Number.isNaN(score)) return;
    const [left, right] = [window, window + 1].map((k) => ((k * seconds) / duration) * width);
    pen.fillStyle = shade(shades, score / most);
    pen.fillRect(left, 0, right - left + 0.5, height);
  });
}

export function drawScale(canvas) {
  const pen = canvas.getContext("2d");
  const shades = [colour("--cold"), colour("--hot")].map(channels);
  for (let x = 0; x < canvas.width; x++) {
    pen.fillStyle = shade(shades, x / (canvas.width - 1));
    pen.fillRect(x, 0, 1, canvas.height);
  }
}

function channels(hex) {
  return [1, 3, 5].map((place) => parseInt(hex.slice(place, place + 2), 16));
}

function shade([cold, hot], share) {
  const mixed = cold.map((value, k) => Math.round(value + (hot[k] - value) * share));
  return `rgb(${mixed.join(" ")})`;
}
