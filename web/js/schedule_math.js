/**
 * The noise schedule as tables, with the formulas of schedulers/noise.py. A table is an array of one number a
 * timestep; alphasCumprod is in [0, 1], SNR = alphasCumprod / (1 - alphasCumprod).
 */

/** Betas from start to end: a "linear" line (AnimateDiff), or the square of one between roots (Stable Diffusion). */
export function makeBetas(form, count, start, end) {
  if (form === "linear") {
    return line(count, start, end);
  }
  return line(count, Math.sqrt(start), Math.sqrt(end)).map((root) => root * root);
}

/** The running product of 1 - beta. */
export function alphasCumprod(betas) {
  let product = 1;
  return betas.map((beta) => (product *= 1 - beta));
}

/** Natural log SNR: -Infinity at 0 and Infinity at 1. */
export function logSnr(table) {
  return table.map((ac) => Math.log(ac) - Math.log1p(-ac));
}

/** s = sqrt(D * D / (T * H * W)), in pixels (Factorized-Dreamer, Eq. 5). */
export function shiftFactor(frames, height, width, reference) {
  return Math.sqrt((reference * reference) / (frames * height * width));
}

/** The table whose SNR is s * s times as high; s is a number, or an array with one a timestep. */
export function shiftSnr(table, s) {
  return table.map((ac, t) => {
    const signal = ac * (Array.isArray(s) ? s[t] : s) ** 2;
    return signal / (signal + (1 - ac));
  });
}

/** End at 0: "lin" is Lin et al. 2023, Algorithm 1; "printed" Factorized-Dreamer's Eq. 6; "none" changes nothing. */
export function rescaleZeroTerminal(table, form) {
  const first = table[0];
  const last = table[table.length - 1];
  if (form === "lin") {
    const [low, high] = [Math.sqrt(last), Math.sqrt(first)];
    return table.map((ac) => (((Math.sqrt(ac) - low) * high) / (high - low)) ** 2);
  }
  if (form === "printed") {
    return table.map((ac) => (ac - last) / (first - last));
  }
  return [...table];
}

/** What the latent is multiplied by: a line from 1 to base in the first steps, then base. */
export function signalScale(count, base, steps) {
  const start = line(steps, 1, base);
  return Array.from({ length: count }, (_, t) => (t < steps ? start[t] : base));
}

/** s for a clip in pixels: the fixed one, else the clip's, else 1. `config` has the fields of ScheduleConfig. */
export function shiftFor(config, frames, height, width) {
  if (config.shift !== null) {
    return config.shift;
  }
  return config.shift_reference === null ? 1 : shiftFactor(frames, height, width, config.shift_reference);
}

/** Log SNR of the schedule without any change, of the shifted one, and of what the network meets in the end. */
export function curves(config, frames, height, width) {
  const count = config.num_train_timesteps;
  const shift = shiftFor(config, frames, height, width);
  const original = alphasCumprod(makeBetas(config.betas, count, config.beta_start, config.beta_end));
  const shifted = shiftSnr(original, shift);
  const scale = signalScale(count, config.signal_scale, config.signal_scale_steps);
  const final = shiftSnr(rescaleZeroTerminal(shifted, config.rescale), scale);
  return { shift, original: logSnr(original), shifted: logSnr(shifted), final: logSnr(final) };
}

/** `count` numbers from `start` to `end`, both included. */
function line(count, start, end) {
  return Array.from({ length: count }, (_, i) => (count === 1 ? start : start + ((end - start) * i) / (count - 1)));
}
