// From a file to mono samples at the model's rate, or to words that say why not.

const MOST_BYTES = 500 * 2 ** 20;
// As in Python: a file below -80 dB is silent, and what is beyond 100 times full scale is no audio.
const SILENCE = 1e-4;
const MOST = 100;

export async function decode(file, sampleRate, windowSamples) {
  if (!file.size) throw new Error("the file is empty.");
  if (file.size > MOST_BYTES) throw new Error("the file is larger than 500 MB.");
  const content = await file.arrayBuffer();
  let decoded;
  try {
    // What is decoded in a context gets the context's sample rate.
    decoded = await new OfflineAudioContext(1, 1, sampleRate).decodeAudioData(content);
  } catch {
    throw new Error("this is not an audio file, or none that this browser can decode.");
  }
  const audio = mono(decoded);
  if (audio.length < windowSamples) {
    const [has, needs] = [audio.length, windowSamples].map((n) => (n / sampleRate).toFixed(1));
    throw new Error(`too short: it lasts ${has} s, and ${needs} s are needed.`);
  }
  let peak = 0;
  for (const value of audio) {
    // Written so that NaN is refused too.
    if (!(Math.abs(value) <= MOST)) {
      throw new Error("its samples are not numbers, or are far beyond full scale.");
    }
    peak = Math.max(peak, Math.abs(value));
  }
  if (peak < SILENCE) throw new Error("it is silent.");
  return audio;
}

function mono(decoded) {
  const audio = new Float32Array(decoded.length);
  for (let channel = 0; channel < decoded.numberOfChannels; channel++) {
    decoded.getChannelData(channel).forEach((value, place) => {
      audio[place] += value / decoded.numberOfChannels;
    });
  }
  return audio;
}
