import csv
import functools
import hashlib
import http.server
import importlib.resources
import io
import json
import re
import shutil
import subprocess
import sys
import threading
import time

import keras
import numpy as np
import pytest
import soundfile

from keras_tune.errors import UserError
from keras_tune.evaluation import embed_clips
from keras_tune.models import Tagger, TUNe
from keras_tune.serving import export_web

pytestmark = pytest.mark.one_backend

pytest.importorskip("onnx", reason="onnx is not installed")

RATE = 22050
TRACKS = ["first – song.wav", "b/second.wav", "<i>third</i>.wav"]


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """Embeddings of three tracks, as `recipes.embed` writes them."""
    path = tmp_path_factory.mktemp("index") / "tracks.npz"
    vectors = np.random.default_rng(4).uniform(0, 1, (3, 6)).astype("float32")
    np.savez(path, ids=np.array(TRACKS), vectors=vectors)
    return path


@pytest.fixture
def without_npm(monkeypatch):
    """ONNX Runtime stays where it is, for tests that open no browser."""

    def nothing(folder):
        folder.mkdir()
        (folder / "ort.js").write_text("")

    monkeypatch.setattr("keras_tune.serving.web_page.vendor_onnxruntime_web", nothing)
    monkeypatch.setattr("keras_tune.serving.web_page.find_npm", lambda: "npm")


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_file_that_the_page_names_is_there(tagger, index, tmp_path, without_npm):
    page = export_web(tagger, tmp_path, index=index)
    assert page.path == tmp_path / "moods" / "index.html" and page.left_out == []
    version = tmp_path / "moods" / "1"
    text = page.path.read_text(encoding="utf-8")
    assert re.findall(r'(?:src|href)="(?!data:)([^"]+)"', text) == ["1/page.css", "1/page.js"]
    for script in version.glob("*.js"):
        source = script.read_text(encoding="utf-8")
        named = re.findall(r'(?:from |load\(|new URL\()"([\w./]+)"', source)
        for name in named:
            assert (version / name).is_file() or name.endswith("ort.wasm"), name
        for name in re.findall(r'part\("([\w-]+)"\)', source):
            assert f'id="{name}"' in text
    # Nothing comes from elsewhere.
    assert "http" not in re.sub(r"<code>.*?</code>", "", text).replace("http-equiv", "")


def test_the_next_export_leaves_the_version_before_alone(tagger, tmp_path, without_npm):
    page = export_web(tagger, tmp_path).path
    before = contents(page.parent / "1")
    export_web(tagger, tmp_path)
    assert contents(page.parent / "1") == before
    assert '"2/page.js"' in page.read_text() and '"1/' not in page.read_text()


def test_a_failed_export_leaves_the_page_as_it_was(tagger, tmp_path, without_npm, monkeypatch):
    page = export_web(tagger, tmp_path).path
    before = contents(tmp_path)

    def die(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("keras_tune.serving.web_page.export_onnx_head", die)
    with pytest.raises(KeyboardInterrupt):
        export_web(tagger, tmp_path)
    assert contents(tmp_path) == before and len(list(page.parent.iterdir())) == 2


def test_no_cell_of_the_table_is_a_formula(tmp_path):
    node = shutil.which("node") or pytest.skip("node is not installed")
    cells = ["=1+1", "+1", "-1", "@SUM(A1)", " =1", "\t=1", "a=b", 'say "so"', "jazz, slow", -0.5]
    source = importlib.resources.files("keras_tune.serving") / "web" / "table.js"
    (tmp_path / "table.mjs").write_text(source.read_text(encoding="utf-8"), encoding="utf-8")
    script = f'import {{csv}} from "./table.mjs"; process.stdout.write(csv([{json.dumps(cells)}]))'
    (tmp_path / "run.mjs").write_text(script)
    done = subprocess.run([node, "run.mjs"], cwd=tmp_path, capture_output=True, check=True)
    (found,) = csv.reader(io.StringIO(done.stdout.decode(), newline=""))
    assert found[6:] == ["a=b", 'say "so"', "jazz, slow", "-0.5"]
    assert found[:6] == ["'" + cell for cell in cells[:6]]


def test_an_encoder_of_any_length_has_a_page_too(tmp_path, without_npm):
    sizes = {"base_filters": 2, "tail_filters": [4], "input_samples": None}
    encoder = TUNe(1, 1, **sizes, sample_rate=16000, name="small")
    page = export_web(encoder, tmp_path, window_samples=270)
    about = (page.path.parent / "1" / "page.json").read_text()
    assert '"windowSamples": 270' in about and '"labels": []' in about
    assert not (page.path.parent / "1" / "head.onnx").exists()
    with pytest.raises(ValueError, match="Received: sample_rate=4000"):
        export_web(TUNe(1, 1, **sizes, sample_rate=4000), tmp_path)
    with pytest.raises(ValueError, match="Received: a tagger of values, tempo"):
        export_web(Tagger(encoder, labels=["tempo"], activation="linear"), tmp_path)


def test_an_index_of_files_names_those_it_left_out(tagger, tmp_path, without_npm):
    music = tmp_path / "music"
    (music / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).uniform(-1, 1, 6000)
    soundfile.write(music / "more" / "a.wav", noise, RATE)
    soundfile.write(music / "b.wav", noise[:100], RATE)
    (music / "notes.txt").write_text("no audio")
    page = export_web(tagger, tmp_path / "web", index=music)
    ((name, reason),) = page.left_out
    assert name == "b.wav" and "too short" in reason
    assert '"more/a.wav"' in (page.path.parent / "1" / "index.json").read_text()


def test_indices_that_do_not_do(tagger, tmp_path, without_npm):
    np.savez(tmp_path / "other.npz", ids=np.array(["a"]), vectors=np.zeros((1, 5)))
    np.savez(tmp_path / "nan.npz", ids=np.array(["a"]), vectors=np.full((1, 6), np.nan))
    ones = np.ones((1, 6))
    np.savez(tmp_path / "windows.npz", ids=np.array(["a"]), vectors=ones, owners=np.zeros(1))
    np.savez(tmp_path / "keys.npz", names=np.array(["a"]))
    (tmp_path / "text.npz").write_text("no archive")
    (tmp_path / "empty").mkdir()
    for name, reason in {
        "other.npz": "vector of 6 numbers",
        "nan.npz": "must be finite",
        "windows.npz": "pool=mean",
        "keys.npz": "written by `embed`",
        "text.npz": "written by `embed`",
        "missing.npz": "written by `embed`",
        "empty": "an audio file that can be used",
    }.items():
        with pytest.raises(UserError, match=f"`index` .*{reason}.* Received: index=.*{name}"):
            export_web(tagger, tmp_path / "web", index=tmp_path / name)
    assert not (tmp_path / "web").exists()


def test_what_is_missing_is_named_before_the_index_is_embedded(tagger, tmp_path, monkeypatch):
    def late(*_):
        raise AssertionError("the index was read first")

    monkeypatch.setattr("keras_tune.serving.web_page.track_index", late)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        UserError, match="npm, which downloads ONNX Runtime for the page, is not installed"
    ):
        export_web(tagger, tmp_path / "web", index=tmp_path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"pip install 'keras_tune\[onnx\]'"):
        export_web(tagger, tmp_path / "web", index=tmp_path)


def test_npm_is_needed_and_what_it_brings_is_checked(tmp_path, monkeypatch):
    from keras_tune.serving.web_page import vendor_onnxruntime_web

    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="install Node.js"):
        vendor_onnxruntime_web(tmp_path / "out")
    fake = tmp_path / "npm"
    fake.write_text("#!/bin/sh\necho changed > onnxruntime-web.tgz\n")
    fake.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda name: str(fake))
    with pytest.raises(UserError, match="not the known onnxruntime-web@"):
        vendor_onnxruntime_web(tmp_path / "out")
    fake.write_text("#!/bin/sh\necho no network >&2\nexit 1\n")
    with pytest.raises(UserError, match="cannot fetch .*no network"):
        vendor_onnxruntime_web(tmp_path / "out")
    assert not (tmp_path / "out").exists()


# From here on in a browser.


@pytest.fixture(scope="module")
def averaging(tagger):
    """The tagger with its scores averaged over windows in place of its embeddings."""
    config = {**tagger.get_config(), "encoder": tagger.encoder, "pooling": "scores"}
    other = Tagger(**{**config, "name": "averaging"})
    other.head.set_weights(tagger.head.get_weights())
    return other


@pytest.fixture(scope="module")
def site(tagger, averaging, index, tmp_path_factory):
    """Pages of both taggers on a plain file server; gives its address."""
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the page's files are the same for every backend; TensorFlow's run opens them")
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    folder = tmp_path_factory.mktemp("site")
    try:
        first = export_web(tagger, folder, index=index).path.parent / "1" / "onnxruntime"
    except UserError as error:
        if "cannot fetch" not in str(error):
            raise
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "keras_tune.serving.web_page.vendor_onnxruntime_web",
            functools.partial(shutil.copytree, first),
        )
        export_web(averaging, folder)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser(site, tmp_path_factory):
    """Chromium without a window; downloads go to `browser.downloads`."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    programs = [
        next(filter(None, map(shutil.which, names)), None)
        for names in (("chromium", "chromium-browser", "google-chrome"), ("chromedriver",))
    ]
    if None in programs:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = programs[0]
    profile, downloads = tmp_path_factory.mktemp("profile"), tmp_path_factory.mktemp("downloads")
    for switch in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={profile}",
        "window-size=1000,1000",
    ):
        options.add_argument(f"--{switch}")
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    service = webdriver.ChromeService(programs[1])
    driver = webdriver.Chrome(options, service)
    driver.downloads = downloads
    yield driver
    driver.quit()


def wait(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError("the page did not get there in time")


def part(browser, name):
    return browser.find_element("id", name)


def state(browser):
    return part(browser, "main").get_attribute("data-state")


def visit(browser, address):
    browser.get(address)
    wait(lambda: state(browser) == "ready")


DROP = """
const [input, transfer] = [document.getElementById("file"), new DataTransfer()];
const holder = document.getElementById("holder");
transfer.items.add(holder.files[0]);
holder.remove();
document.body.dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true }));
"""
HOLDER = 'document.body.append(Object.assign(document.createElement("input"), '
HOLDER += '{ type: "file", id: "holder" }))'


def drop(browser, path):
    """Drop a file on the page; gives the state that it ends in."""
    browser.execute_script(HOLDER)
    part(browser, "holder").send_keys(str(path))
    browser.execute_script(DROP)
    return wait(lambda: state(browser) in ("done", "failed") and state(browser))


@pytest.fixture(scope="module")
def song(tmp_path_factory):
    """A stereo file of five windows and a remainder, at the model's rate."""
    path = tmp_path_factory.mktemp("songs") / "my song.wav"
    noise = np.random.default_rng(7).uniform(-1, 1, (5 * 2500 + 700, 2))
    noise *= np.linspace(0.1, 1, len(noise))[:, None]
    soundfile.write(path, noise, RATE)
    return path


def table(browser, name):
    """The scores as the page hands them out: of windows, and of the whole file."""
    for path in browser.downloads.iterdir():
        path.unlink()
    part(browser, "table").click()
    path = browser.downloads / f"{name}.csv"
    # It has another name until it is complete.
    wait(path.exists)
    head, *rows = path.read_text(encoding="utf-8").splitlines()
    values = np.array([row.split(",")[1:] for row in rows], float)
    assert head == '"start","guitar","slow","vöcal"' and rows[-1].startswith('"whole file",')
    starts = [float(row.split(",")[0]) for row in rows[:-1]]
    assert starts == pytest.approx(np.arange(len(starts)) * 2500 / RATE, abs=1e-3)
    return values[:-1], values[-1]


def test_a_dropped_file_gets_the_scores_of_python(
    browser, site, song, tagger, averaging, predictions
):
    samples = soundfile.read(song, dtype="float32")[0].mean(axis=1)
    windows = predictions(samples[None])["window_scores"][0]
    whole = {model.name: model.predict_tags(samples) for model in (tagger, averaging)}
    differences = [abs(whole["moods"][tag] - whole["averaging"][tag]) for tag in tagger.labels]
    assert windows.std(axis=0).max() > 0.02 and max(differences) > 4e-4
    for name, expected in whole.items():
        visit(browser, f"{site}/{name}/")
        assert drop(browser, song) == "done"
        assert part(browser, "file-name").text == "my song.wav"
        rows = browser.find_elements("css selector", "#tags tr")
        shown = {
            row.find_element("tag name", "th").text: float(
                row.find_element("css selector", "[data-score]").get_attribute("data-score")
            )
            for row in rows
        }
        assert list(shown) == list(expected)
        assert shown == pytest.approx(expected, abs=2e-4)
        of_windows, of_whole = table(browser, song.name)
        np.testing.assert_allclose(of_windows, windows, atol=2e-4, rtol=0)
        assert of_whole == pytest.approx([expected[tag] for tag in tagger.labels], abs=2e-4)
    assert not part(browser, "neighbours").is_displayed()


def test_nearest_tracks(browser, site, song, tagger, index):
    visit(browser, f"{site}/moods/")
    assert drop(browser, song) == "done"
    record = {"id": "song", "audio": soundfile.read(song)[0].mean(axis=1), "labels": {}}
    (vector,) = embed_clips(tagger.encoder, [record]).vectors
    with np.load(index) as file:
        others = file["vectors"]
    cosines = others @ vector / np.linalg.norm(others, axis=1) / np.linalg.norm(vector)
    entries = browser.find_elements("css selector", "#nearest li")
    found = [(e.get_attribute("data-name"), float(e.get_attribute("data-cosine"))) for e in entries]
    order = np.argsort(-cosines)
    assert [name for name, _ in found] == [TRACKS[row] for row in order]
    assert [cosine for _, cosine in found] == pytest.approx(cosines[order], abs=1e-3)
    # Names are text, whatever they look like.
    assert not browser.find_elements("css selector", "#nearest i")


COLOURS = """
const canvas = document.querySelector(arguments[0]);
const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
const colours = new Set();
for (let k = 0; k < data.length; k += 4) if (data[k + 3]) colours.add(data.slice(k, k + 3).join());
return [...colours];
"""


def test_pictures_are_drawn(browser, site, song, tmp_path):
    visit(browser, f"{site}/moods/")
    assert drop(browser, song) == "done"
    assert browser.execute_script(COLOURS, "#waveform")
    assert len(browser.execute_script(COLOURS, "#tags canvas")) > 1
    browser.save_screenshot(str(tmp_path / "page.png"))
    from matplotlib.image import imread

    assert np.ptp(imread(tmp_path / "page.png")) > 0.5


def test_files_that_are_no_audio_are_refused_in_words(browser, site, song, tmp_path):
    silence = np.zeros(6000)
    soundfile.write(tmp_path / "short.wav", silence[:2499], RATE)
    soundfile.write(tmp_path / "silent.wav", silence, RATE)
    soundfile.write(tmp_path / "loud.wav", silence + 32767, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "nan.wav", silence + np.nan, RATE, subtype="FLOAT")
    (tmp_path / "notes.txt").write_text("no audio at all")
    (tmp_path / "empty.mp3").write_bytes(b"")
    (tmp_path / "damaged.wav").write_bytes(b"RIFF\xff\xff\xff\xffWAVE\xff\xfe\xfd")
    visit(browser, f"{site}/moods/")
    for name, reason in {
        "short.wav": "too short: it lasts 0.1 s",
        "silent.wav": "silent",
        "loud.wav": "not numbers, or are far beyond full scale",
        "nan.wav": "not numbers|cannot|not an audio file|silent",
        "notes.txt": "not an audio file",
        "empty.mp3": "empty",
        "damaged.wav": "not an audio file",
    }.items():
        assert drop(browser, tmp_path / name) == "failed", name
        text = part(browser, "error").text
        assert text.startswith(f"{name}: ") and re.search(reason, text), text
        assert not part(browser, "result").is_displayed()
    assert drop(browser, song) == "done"
    assert not part(browser, "error").is_displayed()


def test_the_keyboard_and_names_for_those_who_do_not_see(browser, site, song):
    from selenium.webdriver.common.keys import Keys

    visit(browser, f"{site}/moods/")
    part(browser, "main").parent.switch_to.active_element.send_keys(Keys.TAB)
    focused = browser.switch_to.active_element
    assert focused.get_attribute("id") == "file"
    assert focused.accessible_name == "Choose an audio file"
    focused.send_keys(str(song))
    wait(lambda: state(browser) == "done")
    for picture in browser.find_elements("css selector", "table canvas"):
        assert picture.aria_role in ("image", "img") and picture.accessible_name
    assert part(browser, "status").aria_role == "status"


def test_nothing_comes_from_elsewhere(browser, site, song):
    visit(browser, f"{site}/moods/")
    script = "return performance.getEntriesByType('resource').map((entry) => entry.name)"
    loaded = browser.execute_script(script)
    assert loaded and all(name.startswith((site, "data:")) for name in loaded)
    complaints = [entry["message"] for entry in browser.get_log("browser")]
    assert not [text for text in complaints if "Content Security Policy" in text]


def test_an_index_of_another_encoder_is_refused(tagger, tmp_path):
    """Vectors of the same width would give neighbours that mean nothing."""
    from keras_tune.evaluation.encoders import encoder_fingerprint
    from keras_tune.serving.web_page import track_index
    from keras_tune.serving.windows import Windows

    width = tagger.encoder.output_shape[-1]
    content = {"ids": np.array(["a", "b"]), "vectors": np.eye(2, width)}
    windows, right = Windows.of(tagger), encoder_fingerprint(tagger.encoder)
    for number, about in enumerate(({}, {"encoder": np.array(right)})):
        np.savez(tmp_path / f"{number}.npz", **content, **about)
        names, _, _ = track_index(tmp_path / f"{number}.npz", tagger.encoder, windows)
        assert names == ["a", "b"]
    np.savez(tmp_path / "other.npz", **content, encoder=np.array("0" * 64))
    with pytest.raises(
        UserError, match="of the same encoder, not of another one. Received: index="
    ):
        track_index(tmp_path / "other.npz", tagger.encoder, windows)


def test_the_encoder_that_ships_has_two_names():
    """`embed` computes it with ONNX Runtime where that is installed."""
    from keras_tune.serving.web_page import _fingerprints
    from keras_tune.shipped import WEIGHTS

    found = _fingerprints(TUNe.from_preset("tune_plus_open"))
    assert hashlib.sha256((WEIGHTS / "tune_plus_open.onnx").read_bytes()).hexdigest() in found
    assert len(found) == 2
