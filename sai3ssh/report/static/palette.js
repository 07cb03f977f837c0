// Colours, line styles and patterns. Series colours are those of Okabe and Ito, darker on white so that thin lines have a contrast of 3:1;
// no two series of a plot differ by colour alone: lines have styles and markers, shades have patterns.

const THEMES = {
  light: {
    series: ['#0072b2', '#d55e00', '#00815f', '#b5588f', '#2b88b8', '#a86f00', '#5f5f5f', '#7a51a1'],
    ink: '#1a2330', muted: '#566273', line: '#d5dbe3', grid: '#e7ebf0', surface: '#ffffff',
    heat: ['#eef4fb', '#cfe1f2', '#93c4de', '#4b97c9', '#1764ab', '#08306b', '#1b0d2e'],
    shades: { warmup: '#5f6b7a', link_lost: '#0072b2', not_measured: '#b36b00', agent_lost: '#c03a00', cut_off: '#8a4fa0' },
    measuring: '#9fd3c1',
    tint: 0.06, hatch: 0.3,
  },
  dark: {
    series: ['#56b4e9', '#f5844c', '#2fc79a', '#e59fc8', '#a3d4f5', '#f0b13c', '#c2c8d0', '#b79be0'],
    ink: '#e6eaf0', muted: '#a1adbb', line: '#36414e', grid: '#242d38', surface: '#171d25',
    heat: ['#1b2733', '#1d3f5e', '#17638f', '#1a8cb0', '#3fb8a6', '#a3dc74', '#fdf09b'],
    shades: { warmup: '#9aa6b4', link_lost: '#56b4e9', not_measured: '#f0b13c', agent_lost: '#ff7f50', cut_off: '#cf9be0' },
    measuring: '#23604f',
    tint: 0.1, hatch: 0.4,
  },
};
const DASHES = ['solid', [7, 4], [2, 3], [9, 3, 2, 3]];
const MARKERS = ['circle', 'rect', 'triangle', 'diamond'];

/** What each shade means, in the order of the legend. */
const SHADES = {
  warmup: { name: 'Warm-up', means: 'measured, but not in the figures' },
  link_lost: { name: 'Link lost', means: 'the controller could not reach the agent, which went on measuring: nothing is missing' },
  not_measured: { name: 'Not measured', means: 'the agent did not measure for a while, and came back' },
  agent_lost: { name: 'Agent lost', means: 'the agent ended or was given up: nothing was measured from here on' },
  cut_off: { name: 'Controller cut off', means: 'the controller itself was off the network; agents went on' },
};

let theme = 'light';
const colors = () => THEMES[theme];

/** Colour, dash and marker of the n-th series: all three repeat at different lengths. */
function look(n) {
  return { color: colors().series[n % 8], dash: DASHES[Math.floor(n / 8 + n) % 4], marker: MARKERS[n % 4] };
}

const patterns = new Map();

/** A canvas that is repeated over a shaded area; stronger where nothing is drawn below or above it. */
function pattern(kind, strong = false) {
  const key = `${theme} ${kind} ${strong}`;
  if (patterns.has(key)) return patterns.get(key);
  const size = 10;
  const canvas = el('canvas', { width: size, height: size });
  const pen = canvas.getContext('2d');
  const color = colors().shades[kind];
  pen.globalAlpha = colors().tint;
  pen.fillStyle = color;
  pen.fillRect(0, 0, size, size);
  pen.globalAlpha = strong ? 0.8 : colors().hatch * (kind === 'agent_lost' ? 0.6 : 1); // of two directions each is fainter
  pen.strokeStyle = color;
  pen.lineWidth = 1;
  pen.beginPath();
  const line = (x1, y1, x2, y2) => {
    pen.moveTo(x1, y1);
    pen.lineTo(x2, y2);
  };
  if (kind === 'link_lost' || kind === 'agent_lost') {
    line(-1, 1, 1, -1);
    line(0, size, size, 0);
    line(size - 1, size + 1, size + 1, size - 1);
  }
  if (kind === 'not_measured' || kind === 'agent_lost') {
    line(-1, size - 1, 1, size + 1);
    line(0, 0, size, size);
    line(size - 1, -1, size + 1, 1);
  }
  if (kind === 'cut_off') line(size / 2, 0, size / 2, size);
  pen.stroke();
  if (kind === 'warmup') pen.fillRect(3, 3, 1, 1);
  const found = { image: canvas, repeat: 'repeat' };
  patterns.set(key, found);
  return found;
}

/** The colour of a share (0 to 1) in the heat map. */
function heatColor(share) {
  const ramp = colors().heat;
  const place = Math.min(Math.max(share, 0), 1) * (ramp.length - 1);
  const [low, rest] = [Math.floor(place), place % 1];
  const parts = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  const [from, to] = [parts(ramp[low]), parts(ramp[Math.min(low + 1, ramp.length - 1)])];
  return `rgb(${from.map((value, n) => Math.round(value + (to[n] - value) * rest)).join(',')})`;
}
