"use strict";
(() => {
  const $ = (id) => document.getElementById(id);
  const data = JSON.parse($("data").textContent);
  const packed = (text, Type) => new Type(Uint8Array.from(atob(text), (c) => c.charCodeAt(0)).buffer);
  const columns = new Map();
  for (const [name, column] of Object.entries(data.columns)) {
    const Type = { category: Uint16Array, time: Float64Array, number: Float32Array }[column.kind];
    columns.set(name, { ...column, values: packed(column.values, Type) });
  }
  const count = data.count, x = packed(data.x, Float32Array), y = packed(data.y, Float32Array);
  const files = packed(data.files, Uint16Array), offsets = packed(data.offsets, Uint32Array);
  const near = Object.fromEntries(Object.entries(data.nearest).map(([name, text]) => [name, packed(text, Uint16Array)]));
  const error = columns.get("error")?.values;

  // What a window is called, and what is said of it.
  const moment = (ms) => new Date(ms).toISOString().replace("T", " ");
  function text(name, i) {
    const column = columns.get(name), value = column?.values[i];
    if (!column || Number.isNaN(value)) return "";
    if (column.kind === "category") return column.names[value];
    if (column.kind === "time") return moment(value).slice(0, 19);
    return name === "start" ? value.toFixed(2) + " s" : name === "level" ? value.toFixed(1) : value.toPrecision(3);
  }
  const joined = (...parts) => parts.filter(Boolean).join(" · ");
  const clip = (i) => text("clip", i).replace(/.*\//, "");
  const title = (i) => joined(text("label", i), clip(i), text("start", i));
  const digits = (n) => n.toLocaleString("en").replace(/,/g, "\u202f");

  // Filters: a text, and of each column the categories that are shown; none means all.
  const shown = new Uint8Array(count).fill(1), only = new Map();
  let words = [], visible = count;
  const lower = [...columns].filter(([, column]) => column.kind === "category")
    .map(([, column]) => ({ values: column.values, names: column.names.map((name) => name.toLowerCase()) }));
  function filter() {
    const picked = [...only].map(([name, set]) => [columns.get(name).values, set]);
    const hits = words.map((word) => lower.map(({ values, names }) => ({ values, has: names.map((n) => n.includes(word)) })));
    visible = 0;
    for (let i = 0; i < count; i++) {
      shown[i] = picked.every(([values, set]) => set.has(values[i]))
        && hits.every((any) => any.some(({ values, has }) => has[values[i]]));
      visible += shown[i];
    }
    $("count").textContent = [`${digits(visible)} of ${digits(count)} windows`, ...only.keys()].join(", by ");
    worst();
    draw();
  }

  // Colours.
  const HUES = ["#4477aa", "#ee6677", "#228833", "#ccaa33", "#55bbdd", "#aa3377", "#ee8844", "#44bb99", "#8866cc",
    "#99aa22", "#99664d", "#dd77bb"];
  const RAMP = ["#443a83", "#31688e", "#21908c", "#35b779", "#a5c936", "#e8c51d"];
  const HEAT = ["#000004", "#2d1160", "#721f81", "#b73779", "#f1605d", "#feaf77", "#fcfdbf"];
  const rgb = (hex) => [1, 3, 5].map((k) => parseInt(hex.slice(k, k + 2), 16));
  const ramp = (stops) => {
    const colours = stops.map(rgb);
    return Array.from({ length: 256 }, (_, k) => {
      const at = k / 255 * (colours.length - 1), low = Math.min(Math.floor(at), colours.length - 2), part = at - low;
      return colours[low].map((v, c) => Math.round(v + part * (colours[low + 1][c] - v)));
    });
  };
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const css3 = ([r, g, b]) => `rgb(${r},${g},${b})`;
  const scale = ramp(RAMP), heat = ramp(HEAT);
  const colour = new Uint8Array(count);  // of each window, its number in the palette
  let palette = [], rest, paper;
  function recolour() {
    const name = $("colour").value, column = columns.get(name), legend = $("legend");
    [rest, paper] = [rgb(css("--rest")), rgb(css("--paper"))];
    const lighter = paper[0] < 128 ? 0.2 : 0;
    legend.replaceChildren();
    if (column.kind === "category") {
      const sizes = new Uint32Array(column.names.length);
      column.values.forEach((v) => sizes[v]++);
      const order = [...sizes.keys()].sort((a, b) => sizes[b] - sizes[a]);
      const rank = new Uint8Array(order.length).fill(HUES.length);
      order.slice(0, HUES.length).forEach((v, k) => { rank[v] = k; });
      palette = [...HUES.map((hex) => rgb(hex).map((v) => Math.round(v + lighter * (255 - v)))), rest];
      for (let i = 0; i < count; i++) colour[i] = rank[column.values[i]];
      for (const v of order.slice(0, 40)) {
        const chip = document.createElement("button"), dot = document.createElement("i");
        chip.type = "button";
        dot.style.background = css3(palette[rank[v]]);
        chip.append(dot, column.names[v] || "none");
        chip.title = `${column.names[v] || "none"}: ${sizes[v]} windows`;
        chip.onclick = () => {
          const set = only.get(name) ?? new Set();
          if (!set.delete(v)) set.add(v);
          if (set.size) only.set(name, set); else only.delete(name);
          pressed();
          filter();
        };
        chip.dataset.value = v;
        legend.append(chip);
      }
      if (order.length > 40) legend.append(` and ${order.length - 40} more: use Find`);
    } else {
      const sorted = column.values.filter((v) => !Number.isNaN(v)).sort();
      const range = [0.01, 0.99].map((part) => sorted[Math.floor(sorted.length * part)]);
      palette = [...scale.slice(0, 255), rest];
      for (let i = 0; i < count; i++) {
        const part = (column.values[i] - range[0]) / (range[1] - range[0] || 1);
        colour[i] = Number.isNaN(part) ? 255 : Math.round(254 * Math.min(1, Math.max(0, part)));
      }
      const bar = document.createElement("canvas"), pen = bar.getContext("2d");
      [bar.width, bar.height] = [254, 1];
      for (let k = 0; k < 254; k++) { pen.fillStyle = css3(scale[k]); pen.fillRect(k, 0, 1, 1); }
      bar.setAttribute("aria-hidden", "true");
      const unit = { level: " " + data.unit, start: " s" }[name] ?? "";
      const end = (v) => column.kind === "time" ? moment(v).slice(0, 16) : Number(v.toPrecision(3)) + unit;
      legend.append(end(range[0]), bar, end(range[1]));
    }
    dots();
    pressed();
    draw();
  }
  function dots() {
    for (const button of document.querySelectorAll("ol button"))
      button.firstChild.style.background = css3(palette[colour[button.dataset.window]]);
  }
  function pressed() {
    const set = only.get($("colour").value);
    $("legend").classList.toggle("some", Boolean(set?.size));
    for (const chip of $("legend").querySelectorAll("button"))
      chip.setAttribute("aria-pressed", String(Boolean(set?.has(Number(chip.dataset.value)))));
  }

  // The map: points are set in an image by hand, which is faster than a canvas draws twenty thousand discs.
  const map = $("map"), pen = map.getContext("2d", { alpha: false, willReadFrequently: true });
  const view = { x: 0, y: 0, scale: 1 };  // middle, and pixels of the screen per unit
  let whole = 1, image, pixels, ratio = 1, wide = 1, high = 1, waiting = false, selected = -1, hovered = -1;
  const order = Uint32Array.from({ length: count }, (_, i) => i);  // shuffled: no category always lies on top
  for (let i = count - 1, seed = 1; i > 0; i--) {
    seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
    const j = (seed >>> 8) % (i + 1);
    [order[i], order[j]] = [order[j], order[i]];
  }
  const bound = (values, pick) => values.reduce((a, b) => pick(a, b), values[0]);
  const [left, right] = [bound(x, Math.min), bound(x, Math.max)], [low, top] = [bound(y, Math.min), bound(y, Math.max)];
  function fit() {
    view.x = (left + right) / 2;
    view.y = (low + top) / 2;
    whole = view.scale = 0.93 * Math.min(wide / (right - left || 1), high / (top - low || 1));
    draw();
  }
  function resize() {
    const before = whole;
    ratio = Math.min(window.devicePixelRatio || 1, 2);
    [wide, high] = [map.clientWidth, map.clientHeight].map((size) => Math.max(1, size));  // 0 would lose the scale
    map.width = Math.round(wide * ratio);
    map.height = Math.round(high * ratio);
    image = pen.createImageData(map.width, map.height);
    pixels = new Uint32Array(image.data.buffer);
    whole = 0.93 * Math.min(wide / (right - left || 1), high / (top - low || 1));
    view.scale *= whole / before;
    draw();
  }
  const screenX = (i) => (x[i] - view.x) * view.scale + wide / 2, screenY = (i) => (view.y - y[i]) * view.scale + high / 2;
  function draw() {
    if (!waiting) requestAnimationFrame(paint);
    waiting = true;
  }
  function stamp(radius) {  // how much of each pixel of a disc is covered, of 256
    const size = Math.ceil(radius), cells = [];
    for (let v = -size; v <= size; v++) for (let u = -size; u <= size; u++) {
      const cover = Math.min(1, Math.max(0, radius + 0.5 - Math.hypot(u, v)));
      if (cover) cells.push([u, v, Math.round(256 * cover)]);
    }
    return cells;
  }
  function paint() {
    waiting = false;
    const width = map.width, height = map.height;
    pixels.fill(0xff000000 | paper[2] << 16 | paper[1] << 8 | paper[0]);
    const crowd = Math.min(1, Math.sqrt(4000 / count));
    const radius = ratio * Math.min(5, (1.3 + 1.5 * crowd) * Math.pow(view.scale / whole, 0.3));
    const cells = stamp(radius), edge = Math.ceil(radius);
    for (const layer of visible < count ? [0, 1] : [1]) {
      const strength = layer ? 0.8 : 0.22;
      for (const i of order) {
        if (shown[i] !== layer) continue;
        const u = Math.round(screenX(i) * ratio), v = Math.round(screenY(i) * ratio);
        if (u < edge || v < edge || u >= width - edge || v >= height - edge) continue;
        const [r, g, b] = layer ? palette[colour[i]] : rest;
        for (const [du, dv, cover] of cells) {
          const at = (v + dv) * width + u + du, old = pixels[at], part = cover * strength | 0, other = 256 - part;
          pixels[at] = 0xff000000 | ((b * part + (old >> 16 & 255) * other) >> 8) << 16
            | ((g * part + (old >> 8 & 255) * other) >> 8) << 8 | (r * part + (old & 255) * other) >> 8;
        }
      }
    }
    pen.putImageData(image, 0, 0);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const ring = (i, size, style, line) => {
      pen.beginPath();
      pen.arc(screenX(i), screenY(i), size, 0, 7);
      pen.strokeStyle = style;
      pen.lineWidth = line;
      pen.stroke();
    };
    if (selected >= 0) {
      for (const [name, size] of [["teacher", 6], ["student", 8.5]])
        for (const i of neighbours(name, selected)) ring(i, size, css("--" + name), 1.5);
      ring(selected, 7, css("--paper"), 5);
      ring(selected, 7, css("--ink"), 2.5);
    }
    if (hovered >= 0) ring(hovered, 6, css("--ink"), 1.5);
    if (!performance.getEntriesByName("map drawn").length) performance.mark("map drawn");
  }
  const neighbours = (name, i) => near[name]
    ? [...near[name].subarray(i * data.neighbors, (i + 1) * data.neighbors)].filter((j) => j < count) : [];
  function zoom(factor, u = wide / 2, v = high / 2) {
    const scale = Math.min(400 * whole, Math.max(whole / 2, view.scale * factor));
    view.x += (u - wide / 2) * (1 / view.scale - 1 / scale);
    view.y -= (v - high / 2) * (1 / view.scale - 1 / scale);
    view.scale = scale;
    draw();
  }
  function pan(u, v) {
    view.x -= u / view.scale;
    view.y += v / view.scale;
    draw();
  }
  function at(u, v, most = 14) {  // the window nearest to a place on the screen
    let best = -1, least = most * most;
    for (let i = 0; i < count; i++) {
      if (!shown[i]) continue;
      const du = screenX(i) - u, dv = screenY(i) - v, far = du * du + dv * dv;
      if (far < least) [best, least] = [i, far];
    }
    return best;
  }
  function next(du, dv) {  // the nearest window in one of four directions
    const u0 = selected < 0 ? wide / 2 : screenX(selected), v0 = selected < 0 ? high / 2 : screenY(selected);
    let best = -1, least = Infinity;
    for (let i = 0; i < count; i++) {
      if (!shown[i] || i === selected) continue;
      const u = screenX(i) - u0, v = screenY(i) - v0, along = u * du + v * dv, across = Math.abs(u * dv) + Math.abs(v * du);
      if (selected >= 0 && (along <= 0 || across > along)) continue;
      const far = Math.abs(along) + 2 * across;
      if (far < least) [best, least] = [i, far];
    }
    hover(-99, -99);
    if (best >= 0) select(best, false);
  }

  // Mouse, touch and keys.
  const pointers = new Map();
  let moved = 0;
  const place = (event) => {
    const box = map.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  map.addEventListener("pointerdown", (event) => {
    pointers.set(event.pointerId, place(event));
    map.setPointerCapture(event.pointerId);
    if (pointers.size === 1) moved = 0;
  });
  map.addEventListener("pointermove", (event) => {
    const [u, v] = place(event), before = pointers.get(event.pointerId);
    if (!before) return hover(u, v);
    const other = [...pointers].find(([id]) => id !== event.pointerId)?.[1];
    pointers.set(event.pointerId, [u, v]);
    moved += Math.hypot(u - before[0], v - before[1]);
    if (other) {
      const apart = (p) => Math.max(10, Math.hypot(p[0] - other[0], p[1] - other[1]));
      zoom(apart([u, v]) / apart(before), (u + other[0]) / 2, (v + other[1]) / 2);
      pan((u - before[0]) / 2, (v - before[1]) / 2);
    } else if (moved > 4) pan(u - before[0], v - before[1]);
  });
  map.addEventListener("pointerup", (event) => {
    const alone = pointers.size === 1 && moved <= 4, [u, v] = place(event);
    pointers.delete(event.pointerId);
    const found = alone ? at(u, v, event.pointerType === "touch" ? 24 : 14) : -1;
    if (found >= 0) select(found, true);
  });
  map.addEventListener("pointercancel", (event) => pointers.delete(event.pointerId));
  map.addEventListener("pointerleave", () => hover(-99, -99));
  map.addEventListener("wheel", (event) => {
    event.preventDefault();
    zoom(Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.0016)), ...place(event));
  }, { passive: false });
  function hover(u, v) {
    const found = at(u, v), tip = $("tip");
    if (found !== hovered) {
      hovered = found;
      tip.hidden = found < 0;
      if (found >= 0) tip.textContent = title(found);
      draw();
    }
    if (found >= 0) {
      tip.style.left = Math.max(4, Math.min(u + 14, wide - tip.offsetWidth - 4)) + "px";
      tip.style.top = (v > 44 ? v - 36 : v + 18) + "px";
    }
  }
  const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  map.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = ARROWS[event.key];
    if (arrow && event.shiftKey) pan(-60 * arrow[0], -60 * arrow[1]);
    else if (arrow) next(...arrow);
    else if (event.key === "+" || event.key === "=") zoom(1.4);
    else if (event.key === "-") zoom(1 / 1.4);
    else if (event.key === "0") fit();
    else if (event.key === "Enter" || event.key === " ") play();
    else if (event.key === "Escape") stop();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "/" || event.target.matches("input, select")) return;
    event.preventDefault();
    $("find").focus();
  });

  // Sound: a file holds several windows; it is decoded when one of them is wanted.
  const decoded = new Map();
  let audio, source, latest = 0;
  function file(number) {
    if (!decoded.has(number)) {
      const text = $("sound-" + number)?.textContent;
      if (!text) return Promise.reject(new Error("its sound is still loading"));
      const found = new OfflineAudioContext(1, 1, data.rate).decodeAudioData(packed(text, Uint8Array).buffer);
      decoded.set(number, found);
      if (decoded.size > 12) decoded.delete(decoded.keys().next().value);
    }
    return decoded.get(number);
  }
  async function samples(i) {
    const all = (await file(files[i])).getChannelData(0);
    return all.slice(offsets[i], offsets[i] + data.window);
  }
  function stop() {
    source?.stop();
    source = undefined;
    $("head").hidden = true;
    $("play").textContent = "Play";
  }
  async function play() {
    if (selected < 0) return;
    const mine = ++latest;
    stop();
    audio ??= new AudioContext();
    audio.resume();
    try {
      const wave = await samples(selected);
      if (mine !== latest) return;
      const buffer = audio.createBuffer(1, wave.length, data.rate), fade = Math.min(80, wave.length >> 2);
      for (let k = 0; k < fade; k++) { wave[k] *= k / fade; wave[wave.length - 1 - k] *= k / fade; }  // no clicks
      buffer.copyToChannel(wave, 0);
      const sound = source = audio.createBufferSource();
      sound.buffer = buffer;
      sound.connect(audio.destination);
      sound.onended = () => { if (source === sound) stop(); };
      sound.start();
      $("play").textContent = "Stop";
      $("head").hidden = false;
      $("head").animate([{ left: 0 }, { left: "100%" }], 1000 * buffer.duration);
    } catch (problem) {
      $("said").textContent = `It cannot be heard: ${problem.message}.`;
    }
  }

  // The spectrogram: 32 ms Hann frames, 70 dB below the largest value, frequencies on the mel scale.
  async function spectrogram(i) {
    const box = $("spectrogram"), wave = await samples(i), brush = box.getContext("2d");
    if (i !== selected) return;
    const size = 2 ** Math.round(Math.log2(0.032 * data.rate)), half = size / 2, wide = 240, high = 128;
    const hop = Math.max(1, (wave.length - 1) / wide), power = new Float32Array(wide * half);
    const re = new Float32Array(size), im = new Float32Array(size);
    let peak = -Infinity;
    for (let column = 0; column < wide; column++) {
      const middle = Math.round((column + 0.5) * hop);
      for (let k = 0; k < size; k++) {
        re[k] = (wave[middle + k - half] ?? 0) * (0.5 - 0.5 * Math.cos(2 * Math.PI * k / size));
        im[k] = 0;
      }
      fft(re, im);
      for (let k = 0; k < half; k++) {
        const value = 10 * Math.log10(re[k] ** 2 + im[k] ** 2 + 1e-12);
        power[column * half + k] = value;
        peak = Math.max(peak, value);
      }
    }
    const mel = (hz) => 2595 * Math.log10(1 + hz / 700), most = mel(data.rate / 2);
    const picture = new ImageData(wide, high);
    for (let row = 0; row < high; row++) {
      const at = 700 * (10 ** ((1 - (row + 0.5) / high) * most / 2595) - 1) / data.rate * size;
      const low = Math.min(half - 2, Math.floor(at)), part = Math.min(1, at - low);
      for (let column = 0; column < wide; column++) {
        const k = column * half + low, value = power[k] + part * (power[k + 1] - power[k]);
        picture.data.set([...heat[Math.round(255 * Math.min(1, Math.max(0, 1 + (value - peak) / 70)))], 255],
          4 * (row * wide + column));
      }
    }
    const dense = Math.min(window.devicePixelRatio || 1, 2);
    [box.width, box.height] = [box.clientWidth * dense, box.clientHeight * dense];
    brush.drawImage(await createImageBitmap(picture), 0, 0, box.width, box.height);
    brush.font = `${10 * dense}px ${css("--font")}`;
    brush.fillStyle = "#ffffffcc";
    for (const hz of [250, 1000, 2000, 4000, 8000].filter((hz) => hz < 0.45 * data.rate)) {
      const height = box.height * (1 - mel(hz) / most);
      brush.fillRect(0, height, 4 * dense, dense);
      brush.fillText(hz < 1000 ? `${hz} Hz` : `${hz / 1000} kHz`, 7 * dense, height + 3 * dense);
    }
    box.setAttribute("aria-label", `Spectrogram of ${title(i)}, 0 to ${data.rate / 2000} kHz`);
  }
  function fft(re, im) {  // in place, of a power of two
    const n = re.length;
    for (let i = 1, j = 0; i < n; i++) {
      let bit = n >> 1;
      for (; j & bit; bit >>= 1) j ^= bit;
      j ^= bit;
      if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
    }
    for (let size = 2; size <= n; size *= 2)
      for (let k = 0; k < size / 2; k++) {
        const c = Math.cos(2 * Math.PI * k / size), s = -Math.sin(2 * Math.PI * k / size);
        for (let a = k; a < n; a += size) {
          const b = a + size / 2, u = re[b] * c - im[b] * s, v = re[b] * s + im[b] * c;
          [re[b], im[b], re[a], im[a]] = [re[a] - u, im[a] - v, re[a] + u, im[a] + v];
        }
      }
  }

  // What is said of the selected window, and lists of others.
  function select(i, hear) {
    selected = i;
    stop();
    const u = screenX(i), v = screenY(i);
    if (u < 20 || v < 20 || u > wide - 20 || v > high - 20) pan(wide / 2 - u, high / 2 - v);
    $("name").textContent = title(i);
    $("said").textContent = error ? `Error of the student: ${text("error", i)}, more than ${share(i)} % of the windows.` : "";
    for (const section of document.querySelectorAll(".sound, .near")) section.hidden = false;
    $("facts").replaceChildren(...[...columns.keys()].filter((name) => text(name, i)).flatMap((name) => {
      const term = document.createElement("dt"), value = document.createElement("dd");
      term.textContent = name;
      value.textContent = text(name, i) + (name === "level" ? " " + data.unit : "");
      return [term, value];
    }));
    const called = (j) => joined(text("label", j) === text("label", i) ? "" : text("label", j), clip(j));
    for (const name of Object.keys(near)) list($(name), neighbours(name, i), called, (j) => text("start", j));
    for (const button of document.querySelectorAll("#worst button"))
      button.setAttribute("aria-current", String(Number(button.dataset.window) === i));
    spectrogram(i).catch((problem) => { $("said").textContent = `It cannot be heard: ${problem.message}.`; });
    if (hear) play();
    draw();
  }
  const share = (i) => Math.floor(100 * error.reduce((sum, other) => sum + (other < error[i]), 0) / count);
  function list(box, windows, called, more) {
    box.replaceChildren(...windows.map((i) => {
      const item = document.createElement("li"), button = document.createElement("button");
      const dot = document.createElement("i"), name = document.createElement("span"), value = document.createElement("small");
      button.type = "button";
      name.textContent = called(i);
      button.title = title(i);
      value.textContent = more(i);
      button.append(dot, name, value);
      button.dataset.window = i;
      button.onclick = () => {
        select(i, true);
        if (!button.isConnected) (box.querySelector("button") ?? map).focus();
      };
      item.append(button);
      return item;
    }));
    dots();
  }
  function worst() {
    if (!error) return;
    const order = [...error.keys()].filter((i) => shown[i] && !Number.isNaN(error[i])).sort((a, b) => error[b] - error[a]);
    list($("worst"), order.slice(0, 50), title, (i) => text("error", i));
  }

  // Begin.
  const first = ["label", "sensor", "split", "clip"].find((name) => (columns.get(name)?.names.length ?? 0) > 1) ?? "start";
  for (const name of columns.keys()) $("colour").append(new Option(name, name, name === first, name === first));
  $("colour").onchange = recolour;
  let typing;
  $("find").oninput = () => {
    clearTimeout(typing);
    typing = setTimeout(() => { words = $("find").value.toLowerCase().split(/\s+/).filter(Boolean); filter(); }, 120);
  };
  $("in").onclick = () => zoom(1.5);
  $("out").onclick = () => zoom(1 / 1.5);
  $("all").onclick = fit;
  $("play").onclick = () => source ? stop() : play();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", recolour);
  resize();
  fit();
  recolour();
  filter();
  new ResizeObserver(resize).observe(map);
})();
