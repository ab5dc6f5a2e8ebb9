/**
 * Draws the log-SNR curve inside the node Noise Schedule, anew with every change of a widget.
 *
 * "checkpoint" in a widget means what the loaded network was trained with. The browser learns that from what the node
 * says after a run, and the size of a latent that is wired in from there or from Image to Video's own widgets. What it
 * does not know it does not draw: it says what is missing.
 */

import { app } from "../../../scripts/app.js";
import { curves } from "./schedule_math.js";

const NODE = "DreamFactoryNoiseSchedule";
const CLIP = "DreamFactoryImageToVideo";
const HEIGHT = 180; // pixels of the picture; the widget's margin comes on top
const MARGIN = 10;
const WIDTH = 340; // pixels of a new node
const UNSEEN = 0.02; // the part at the end of the curves that does not stretch the axis: there they dive to -inf
const FONT = "11px sans-serif";
// Readable on dark and light themes.
const [TEXT, GRID, ORIGINAL, SHIFTED, FINAL] = ["#8f8f8f", "#80808040", "#8f8f8f", "#4a8fd0", "#e07f35"];

// What no widget of the node is about, as nearly every network has it; a run says the rest.
const USUAL = {
  num_train_timesteps: 1000,
  beta_start: 0.00085,
  beta_end: 0.012,
  betas: "scaled_linear",
  shift_reference: 256,
  shift: null,
  rescale: "lin",
  signal_scale: 1,
  signal_scale_steps: 400,
};

// What a run said and another wire makes unknown again.
const SIZE = ["frames", "height", "width"];
const LEARNT = { model: ["own"], latent: SIZE, frames: ["frames"], height: ["height"], width: ["width"] };

const listeners = new WeakMap(); // node → what takes its output
const watched = new WeakSet(); // widgets of other nodes that a curve follows

app.registerExtension({
  name: "DreamFactory.NoiseSchedule",
  nodeCreated(node) {
    if (node.comfyClass === NODE) {
      addCurve(node);
    }
  },
  // Also where no run brings them: back in the tab of a workflow that ran before.
  onNodeOutputsUpdated(outputs) {
    for (const [id, output] of Object.entries(outputs)) {
      const node = findNode(id);
      if (node) {
        listeners.get(node)?.(output);
      }
    }
  },
});

/** The node with an id as outputs have it: "5"; in a subgraph its UUID or the path of nodes to it is in front. */
function findNode(id) {
  const path = String(id).split(":");
  let graph = app.rootGraph;
  for (const part of path.slice(0, -1)) {
    graph = graph?.subgraphs?.get(part) ?? graph?.getNodeById(part)?.subgraph;
  }
  return graph?.getNodeById(path.at(-1));
}

function addCurve(node) {
  const box = document.createElement("div");
  Object.assign(box.style, { position: "relative", width: "100%", minHeight: `${HEIGHT}px`, pointerEvents: "none" });
  const canvas = document.createElement("canvas");
  canvas.dataset.dreamfactory = "curve";
  // Out of the flow: a canvas that follows its box must not stretch it.
  Object.assign(canvas.style, { position: "absolute", inset: "0", width: "100%", height: "100%" });
  box.append(canvas);

  let run; // what the node said after it last ran
  let waiting = false;
  const redraw = () => {
    if (!waiting) {
      waiting = true;
      requestAnimationFrame(() => {
        waiting = false;
        draw(canvas, node, run, redraw);
      });
    }
  };

  const widget = node.addDOMWidget("curve", "dreamfactory_curve", box, {
    serialize: false, // not an input of the node
    hideOnZoom: false,
    margin: MARGIN,
    getMinHeight: () => HEIGHT + 2 * MARGIN,
  });
  widget.serialize = false; // nor a value of saved workflows
  node.setSize([Math.max(node.size[0], WIDTH), Math.max(node.size[1], node.computeSize()[1])]);

  for (const other of node.widgets) {
    if (other !== widget) {
      after(other, "callback", redraw);
    }
  }
  after(node, "onConfigure", redraw);
  after(node, "onConnectionsChange", (type, index, connected, link, slot) => {
    const learnt = type === window.LiteGraph.INPUT && !app.configuringGraph && LEARNT[slot?.name]; // not while loading
    if (run && learnt) {
      run = { ...run, ...Object.fromEntries(learnt.map((name) => [name, undefined])) };
    }
    redraw();
  });
  const listen = (output) => {
    run = output?.dreamfactory_schedule?.[0] ?? run;
    redraw();
  };
  after(node, "onExecuted", listen);
  listeners.set(node, listen);
  const observer = new ResizeObserver(redraw);
  observer.observe(box);
  after(node, "onRemoved", () => observer.disconnect());
}

/** Call `then` with the same arguments each time after the method, if there is one. */
function after(object, method, then) {
  const before = object[method];
  object[method] = function (...args) {
    const result = before?.apply(this, args);
    then(...args);
    return result;
  };
}

/** What the node would do if it ran now: the schedule's config, the clip's size, and what is not known yet. */
function read(node, run, redraw) {
  const value = (name) => node.widgets.find((widget) => widget.name === name)?.value;
  const wired = (name) => node.inputs?.some((input) => input.name === name && input.link != null);

  // The checkpoint's schedule; a run says it as `own`.
  const config = { ...USUAL, ...run?.own };
  const shift = value("shift");
  if (shift === "fixed") {
    config.shift = value("shift_factor");
  } else if (shift !== "checkpoint") {
    config.shift = null;
    config.shift_reference = shift === "clip size" ? value("shift_reference") : null;
  }
  if (value("rescale") !== "checkpoint") {
    config.rescale = value("rescale");
  }

  const fromWire = SIZE.filter((name) => wired("latent") || wired(name));
  const clip = clipSize(node, redraw);
  const numbers = SIZE.map((name) => (fromWire.includes(name) ? (run?.[name] ?? clip?.[name]) : value(name)));
  const missing = [];
  if (numbers.some((number) => number === undefined) && config.shift === null && config.shift_reference !== null) {
    missing.push("the wired clip's size");
  }
  if (!run?.own && [shift, value("rescale")].includes("checkpoint")) {
    missing.push("what the checkpoint was trained with");
  }
  return { config, size: numbers, missing };
}

/** Size of the clip that Image to Video makes, where one is wired as latent and its own widgets say it. */
function clipSize(node, redraw) {
  const from = node.getInputNode?.(node.inputs?.findIndex((input) => input.name === "latent") ?? -1);
  if (from?.comfyClass !== CLIP) {
    return undefined;
  }
  const own = SIZE.filter((name) => !from.inputs?.some((input) => input.name === name && input.link != null));
  const widgets = from.widgets.filter((widget) => own.includes(widget.name));
  for (const widget of widgets) {
    if (!watched.has(widget)) {
      watched.add(widget);
      after(widget, "callback", redraw);
    }
  }
  return Object.fromEntries(widgets.map((widget) => [widget.name, widget.value]));
}

function draw(canvas, node, run, redraw) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  if (!width || !height) {
    return; // not on the page
  }
  const sharp = 2 * (window.devicePixelRatio || 1); // twice as fine: the graph can be zoomed in
  canvas.width = Math.round(width * sharp);
  canvas.height = Math.round(height * sharp);
  const pen = canvas.getContext("2d");
  pen.scale(sharp, sharp);
  pen.font = FONT;
  pen.fillStyle = TEXT;

  const { config, size, missing } = read(node, run, redraw);
  if (missing.length) {
    const told = ["No curve before the first run:", ...missing, "is known then."];
    told.forEach((line, i) => drawText(pen, line, width / 2, height / 2 + (i - (told.length - 1) / 2) * 16, "center"));
    return;
  }
  const { shift, ...lines } = curves(config, ...size.map((number) => number ?? 1));
  const [frames, tall, wide] = size;
  const clip = size.includes(undefined) ? "" : `${frames} × ${wide} × ${tall}   `;
  drawText(pen, `${clip}s = ${Number(shift.toPrecision(3))}`, width / 2, 8, "center");
  const frame = { left: 30, top: 20, right: width - 8, bottom: height - 16 };
  const axis = drawAxes(pen, frame, Object.values(lines), config.num_train_timesteps);
  drawLine(pen, frame, axis, lines.original, ORIGINAL, [4, 4]);
  drawLine(pen, frame, axis, lines.shifted, SHIFTED);
  drawLine(pen, frame, axis, lines.final, FINAL);
  drawLegend(pen, frame);
}

/** Grid and numbers; returns the range of log SNR that is shown. */
function drawAxes(pen, frame, lines, steps) {
  const seen = lines.flatMap((line) => line.slice(0, Math.ceil(line.length * (1 - UNSEEN)))).filter(Number.isFinite);
  const step = 5;
  const low = Math.floor(Math.min(...seen) / step) * step;
  const high = Math.ceil(Math.max(...seen) / step) * step;
  pen.strokeStyle = GRID;
  pen.lineWidth = 1;
  pen.beginPath();
  for (let value = low; value <= high; value += step) {
    const y = frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top);
    pen.moveTo(frame.left, y);
    pen.lineTo(frame.right, y);
    drawText(pen, value, frame.left - 5, y, "right");
  }
  for (const part of [0, 0.25, 0.5, 0.75, 1]) {
    const x = frame.left + part * (frame.right - frame.left);
    pen.moveTo(x, frame.top);
    pen.lineTo(x, frame.bottom);
    drawText(pen, Math.round(part * steps), x, frame.bottom + 9, part === 1 ? "right" : "center");
  }
  pen.stroke();
  return { low, high };
}

function drawLine(pen, frame, { low, high }, values, colour, dash = []) {
  pen.save();
  pen.beginPath();
  pen.rect(frame.left, frame.top, frame.right - frame.left, frame.bottom - frame.top);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1.6;
  pen.setLineDash(dash);
  pen.beginPath();
  values.forEach((value, t) => {
    if (Number.isFinite(value)) {
      const x = frame.left + ((t + 1) / values.length) * (frame.right - frame.left);
      pen.lineTo(x, frame.bottom - ((value - low) / (high - low)) * (frame.bottom - frame.top));
    }
  });
  pen.stroke();
  pen.restore();
}

function drawLegend(pen, frame) {
  const names = { original: [ORIGINAL, [4, 4]], shifted: [SHIFTED, []], final: [FINAL, []] };
  let x = frame.right - 6;
  for (const [name, [colour, dash]] of Object.entries(names).reverse()) {
    drawText(pen, name, x, frame.top + 9, "right");
    x -= pen.measureText(name).width + 4;
    pen.strokeStyle = colour;
    pen.lineWidth = 1.6;
    pen.setLineDash(dash);
    pen.beginPath();
    pen.moveTo(x - 14, frame.top + 9);
    pen.lineTo(x, frame.top + 9);
    pen.stroke();
    x -= 14 + 10;
  }
  pen.setLineDash([]);
}

function drawText(pen, text, x, y, align) {
  pen.textAlign = align;
  pen.textBaseline = "middle";
  pen.fillText(text, x, y);
}
