"use strict";
// Asks for the status every second and shows it. Nodes are made once and then only changed, so that selections and tooltips last.

const POLL_MS = 1000, PATIENCE_MS = 4000, SAMPLES = 120, EVENTS = 50;
const MOODS = { READY: "good", STARTING: "busy", DRAINING: "busy", STOPPING: "busy", UNHEALTHY: "bad", BACKOFF: "bad", FAILED: "bad" };
const GIB = 2 ** 30;
const $ = id => document.getElementById(id);

// Building the page.

function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

// A line of the last two minutes; its top is the highest value, or `limit`.
function spark(name, limit) {
  const line = svg("path", { class: "line" }), area = svg("path", { class: "area" }), values = [];
  const node = svg("svg", { class: "spark", viewBox: `0 0 ${SAMPLES - 1} 32`, preserveAspectRatio: "none", role: "img", "aria-label": name }, area, line);
  return {
    node,
    add(value) {
      values.push(value ?? 0);
      if (values.length > SAMPLES) values.shift();
      const top = limit ?? (Math.max(...values) * 1.1 || 1), left = SAMPLES - values.length;
      const points = values.map((value, i) => `${left + i},${(31 - 30 * Math.min(1, value / top)).toFixed(1)}`);
      line.setAttribute("d", `M${points.join("L")}`);
      area.setAttribute("d", `M${left},32L${points.join("L")}L${SAMPLES - 1},32Z`);
    },
  };
}

function meter(name) {
  const shown = make("span"), fill = make("div", { class: "fill" });
  const track = make("div", { class: "track", role: "meter", "aria-label": name, "aria-valuemin": 0, "aria-valuemax": 100 }, fill);
  return {
    node: make("div", { class: "meter" }, make("div", { class: "label" }, make("span", {}, name), shown), track),
    show(ratio, text) {
      const percent = Math.round(100 * Math.min(1, ratio || 0));
      say(shown, text);
      fill.style.width = `${percent}%`;
      fill.classList.toggle("high", percent >= 90);
      track.setAttribute("aria-valuenow", percent);
    },
  };
}

function figures(...names) {
  const values = names.map(() => make("dd"));
  const node = make("dl", { class: "figures" }, ...names.map((name, i) => make("div", {}, make("dt", {}, name), values[i])));
  return { node, show: (...texts) => texts.forEach((text, i) => say(values[i], text)) };
}

// What there is one of for each key: made when it is first seen, changed after that, removed when it is gone.
function collection(parent, build) {
  const parts = new Map();
  return (items, keyOf) => {
    const keys = items.map(keyOf);
    for (const [key, part] of parts) if (!keys.includes(key)) { part.node.remove(); parts.delete(key); }
    items.forEach((item, i) => {
      if (!parts.has(keys[i])) { parts.set(keys[i], build(item)); parent.append(parts.get(keys[i]).node); }
      parts.get(keys[i]).show(item);
    });
  };
}

// Texts.

const count = value => Math.round(value).toLocaleString("en");
const percent = ratio => ratio == null ? "–" : `${Math.round(100 * ratio)} %`;
const ofGib = (used, total) => `${(used / GIB).toFixed(1)} of ${(total / GIB).toFixed(1)} GiB`;

function duration(s) {
  s = Math.max(0, Math.floor(s));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor(s / 60) % 60} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor(s / 3600) % 24} h`;
}

// The first names of a list, and how many more there are.
const some = names => names.length > 4 ? `${names.slice(0, 3).join(", ")} and ${names.length - 3} more` : names.join(", ");

function ranges(cpus) {
  const parts = [];
  for (const cpu of [...cpus].sort((a, b) => a - b)) {
    const last = parts.at(-1);
    if (last && last[1] === cpu - 1) last[1] = cpu; else parts.push([cpu, cpu]);
  }
  return parts.map(([a, b]) => a === b ? `${a}` : `${a}-${b}`).join(",");
}

// The parts of the page.

const tile = ({ name, unit }) => {
  const value = make("b"), line = spark(name), about = make("small", {}, unit ? ` ${unit}` : "");
  return {
    node: make("div", { class: "tile" }, make("span", { class: "quiet" }, name), value, line.node),
    show(total) { say(value, total.text ?? count(total.value)); if (unit) value.append(about); line.add(total.value); },
  };
};
const showTotals = collection($("totals"), tile);

function instanceCard(first) {
  const dot = make("i", { class: "dot" }), state = make("span", { class: "state" }), about = make("p", { class: "about" });
  const numbers = figures("running", "waiting", "in flight", "tokens/s");
  const slots = meter("Slots"), kv = meter("KV cache"), line = spark("tokens per second");
  const notes = make("div");
  const node = make("article", { class: "card" },
    make("div", { class: "top" }, dot, make("h3", {}, first.name), state), about, numbers.node, line.node, slots.node, kv.node, notes);
  return {
    node,
    show(instance) {
      const load = instance.load ?? {}, old = instance.load && (load.error || load.age_s > 10);
      dot.style.background = instance.colour;
      state.className = `state ${MOODS[instance.state] ?? ""}`;
      say(state, instance.state);
      state.title = `for ${duration(instance.for_s)}`;
      say(about, `${instance.grouped ? "" : `${instance.served_model} on `}${instance.device_text} · ${instance.state.toLowerCase()} for ${duration(instance.for_s)}` +
        (instance.launches > 1 ? ` · ${instance.launches} launches` : "") +
        (instance.targets.length ? ` · can hand over to ${some(instance.targets)}` : ""));
      const known = instance.load != null;
      numbers.show(known ? count(load.running) : "–", known ? count(load.waiting) : "–", count(instance.inflight),
        known ? count(load.generation_tokens_per_s) : "–");
      line.add(load.generation_tokens_per_s);
      slots.show(instance.inflight / instance.max_num_seqs, `${count(instance.inflight)} of ${count(instance.max_num_seqs)}`);
      kv.show(load.kv_usage_ratio, percent(load.kv_usage_ratio));
      const texts = [];
      if (instance.on_demand) texts.push([`on demand: ${instance.on_demand}`, false]);
      if (instance.reason) texts.push([instance.reason, MOODS[instance.state] === "bad"]);
      if (old) texts.push([`its load was read ${duration(load.age_s)} ago${load.error ? `: ${load.error}` : ""}`, true]);
      for (const drift of instance.binding?.drifts ?? []) texts.push([`off its CPU binding: ${drift.detail}`, true]);
      for (const fault of instance.binding_faults) texts.push([`CPU binding: ${fault}`, false]);
      if (notes.dataset.shown !== JSON.stringify(texts)) {
        notes.dataset.shown = JSON.stringify(texts);
        notes.replaceChildren(...texts.map(([text, bad]) => make("p", { class: bad ? "note bad" : "note" }, text)));
      }
    },
  };
}

// The instances of one model, below its name and sums unless it is the only model.
const FEW = 6;
function modelGroup(first) {
  const about = make("span", { class: "quiet" }), head = make("p", { class: "model" }, make("b", {}, first.name), about);
  const cards = make("div", { class: "cards" }), showCards = collection(cards, instanceCard);
  return {
    node: make("section", { "aria-label": first.name }, head, cards),
    show({ instances, queued, alone, many }) {
      const sum = of => instances.reduce((sum, instance) => sum + (of(instance) || 0), 0);
      head.hidden = alone;
      cards.className = many ? "cards many" : alone ? "cards" : "cards grouped";
      say(about, [
        `${sum(instance => instance.state === "READY")} of ${instances.length} ready`,
        `${count(sum(instance => instance.inflight))} in flight`,
        `${count(queued)} queued`,
        `${count(sum(instance => instance.load?.generation_tokens_per_s))} tokens/s`,
      ].join(" · "));
      showCards(instances, instance => instance.name);
    },
  };
}
const showModels = collection($("instances"), modelGroup);

function deviceCard(first) {
  const busy = meter(first.gpu ? "Busy" : "CPU"), line = spark("busy", 1), memory = meter("Memory");
  const shm = meter("/dev/shm"), numbers = figures("power", "temperature");
  const title = first.gpu ? `GPU ${first.gpu.index}` : "Host", about = make("p", { class: "about" });
  const node = make("article", { class: "card" }, make("div", { class: "top" }, make("h3", {}, title)), about, busy.node, line.node, memory.node);
  node.append(first.gpu ? numbers.node : shm.node);
  return {
    node,
    show({ gpu, host }) {
      const its = gpu ?? host, ratio = gpu ? gpu.busy_ratio : host.cpu_busy_ratio;
      say(about, gpu ? [gpu.name, some(gpu.instances)].filter(Boolean).join(" · ") : `${host.cpu_count} CPUs`);
      busy.show(ratio, percent(ratio));
      line.add(ratio);
      memory.show(its.memory_used_bytes / its.memory_total_bytes, ofGib(its.memory_used_bytes, its.memory_total_bytes));
      if (host) shm.show(host.shm_used_bytes / (host.shm_total_bytes || 1), ofGib(host.shm_used_bytes, host.shm_total_bytes));
      if (gpu) numbers.show(gpu.power_w == null ? "–" : `${count(gpu.power_w)} W`, gpu.temperature_c == null ? "–" : `${count(gpu.temperature_c)} °C`);
    },
  };
}
const showDevices = collection($("devices"), deviceCard);

let drawn = "";
function showTopology(topology, colours) {
  const text = JSON.stringify([topology, colours]);
  if (text === drawn) return;
  drawn = text;
  $("topology-section").hidden = topology === null;
  if (topology === null) return;
  const ownerOf = new Map(Object.entries(topology.owners).flatMap(([name, cpus]) => cpus.map(cpu => [cpu, name])));
  const sockets = new Map();
  for (const node of topology.nodes) sockets.set(node.socket, [...(sockets.get(node.socket) ?? []), node]);
  $("topology").replaceChildren(...[...sockets].map(([socket, nodes]) => make("div", { class: "socket" },
    make("h3", {}, socket === null ? "nodes" : `socket ${socket}`),
    make("div", { class: "nodes" }, ...nodes.map(node => drawNode(node, ownerOf, colours))))));
  const owners = Object.entries(topology.owners).map(([name, cpus]) =>
    make("span", {}, coloured("dot", colours[name]), `${name}: CPU ${ranges(cpus)}`));
  $("legend").replaceChildren(...owners, make("span", { class: "quiet" }, make("i", { class: "dot" }), owners.length ? "free" : "no instance is bound to CPUs"));
  say($("topology-notes"), [
    topology.unplaced.length ? `Node not known: ${topology.unplaced.map(deviceText).join(", ")}.` : "",
    topology.offline.length ? `Offline: CPU ${ranges(topology.offline)}.` : "",
  ].join(" ").trim());
}

// An instance's colour; the golden angle keeps those of many apart.
const colourOf = i => `hsl(${(229 + 137.5 * i) % 360} 58% 55%)`;

function coloured(kind, colour, attributes = {}) {
  const node = make("i", { class: kind, ...attributes });
  if (colour) node.style.background = colour;
  return node;
}

const deviceText = device => `${device.vendor} ${device.kind.toUpperCase()} ${device.address}` +
  (device.owners.length ? `: ${device.owners.join(", ")}` : "");

function drawNode(node, ownerOf, colours) {
  const cpus = node.cores.flat();
  const memory = node.memory_bytes === null ? "" : node.memory_bytes ? ` · ${(node.memory_bytes / GIB).toFixed(0)} GiB` : " · no memory";
  const cores = node.cores.map(core => make("span", { class: "core" }, ...core.map(cpu => {
    const owner = ownerOf.get(cpu);
    return coloured("cpu", colours[owner], { title: `CPU ${cpu}: ${owner ?? "free"}` });
  })));
  const owned = cpus.filter(cpu => ownerOf.has(cpu)).length;
  const grid = make("div", { class: "cpus", role: "img", "aria-label": `${owned} of ${cpus.length} CPUs have an owner` }, ...cores);
  grid.style.setProperty("--columns", node.cores.length % 10 ? 8 : 10);
  return make("div", { class: "node" }, make("h3", {}, `node ${node.id}`),
    make("p", {}, (cpus.length ? `CPU ${ranges(cpus)}` : "no CPUs") + memory), grid,
    make("div", { class: "chips" }, ...node.accelerators.map(device => make("span", { class: "chip" },
      ...device.owners.map(owner => coloured("dot", colours[owner])), deviceText(device)))));
}

// The daemon's events, and those of this page: that it got no answer, and that it did again.
const ownEvents = [];
function lister(parent) {
  let listed = "";
  return entries => {  // of [Unix time, name, text]
    const latest = [...entries].sort((a, b) => b[0] - a[0]).slice(0, EVENTS), text = JSON.stringify(latest);
    if (text === listed) return;
    listed = text;
    parent.replaceChildren(...latest.map(([at_s, name, text]) => {
      const at = new Date(1000 * at_s), today = at.toDateString() === new Date().toDateString();
      const shown = today ? at.toLocaleTimeString("en-GB") : at.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
      return make("li", {}, make("time", { datetime: at.toISOString() }, shown), make("b", {}, name), make("span", {}, text));
    }));
  };
}
const showEvents = lister($("events")), showDecisions = lister($("decisions"));

function note(text) {
  ownEvents.push([Date.now() / 1000, "syshaxd", text]);
  if (ownEvents.length > EVENTS) ownEvents.shift();
}

// The rounds.

let version = null, lost_ms = 0;

function show(status) {
  if (version !== null && version !== status.version) return location.reload();
  version = status.version;
  const colours = Object.fromEntries(status.instances.map((instance, i) => [instance.name, colourOf(i)]));
  const loads = status.instances.map(instance => instance.load ?? {});
  const sum = key => loads.reduce((sum, load) => sum + (load[key] ?? 0), 0);
  const ready = status.instances.filter(instance => instance.state === "READY").length;
  say($("daemon"), `${status.version} · ${status.endpoint} · up ${duration(status.now_s - status.started_at_s)}`);
  showTotals([
    { name: "Instances ready", value: ready, text: `${ready} of ${status.instances.length}` },
    { name: "Requests in flight", value: status.instances.reduce((sum, instance) => sum + instance.inflight, 0) },
    { name: "Requests queued", value: status.queued },
    { name: "Generated", unit: "tokens/s", value: sum("generation_tokens_per_s") },
    { name: "Prompts", unit: "tokens/s", value: sum("prompt_tokens_per_s") },
  ], total => total.name);
  say($("notes"), status.notes.join("\n"));
  const models = new Map();
  for (const instance of status.instances) models.set(instance.served_model, [...(models.get(instance.served_model) ?? []), instance]);
  showModels([...models].map(([name, instances]) => ({
    name,
    queued: status.queued_models[name] ?? 0,
    alone: models.size === 1,
    many: status.instances.length > FEW,
    instances: instances.map(instance => ({
      ...instance,
      colour: colours[instance.name],
      grouped: models.size > 1,
      for_s: status.now_s - instance.since_s,
      targets: (status.handovers ?? []).filter(pair => pair.possible && pair.source === instance.name).map(pair => pair.target),
    })),
  })), model => model.name);
  showDevices([...status.gpus.map(gpu => ({ gpu })), ...(status.host ? [{ host: status.host }] : [])], ({ gpu }) => gpu ? gpu.uuid : "host");
  showTopology(status.topology, colours);
  if (lost_ms) note("answers again");
  showEvents([...status.events.map(event => [event.at_s, event.instance || "syshaxd", event.text]), ...ownEvents]);
  showDecisions(status.decisions.map(decision => [decision.at_s, decision.place, decision.reasons.join("; ")]));
}

async function round() {
  try {
    const answer = await fetch("dashboard/status.json", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
    if (!answer.ok) throw new Error(`status ${answer.status}`);
    show(await answer.json());
    lost_ms = 0;
    $("link").className = "live";
    say($("link"), "live");
    $("main").hidden = false;
  } catch (error) {
    if (!lost_ms && version !== null) note(`no answer: ${error.message}`);
    lost_ms ||= Date.now();
    $("link").className = "lost";
    say($("link"), `no answer for ${duration((Date.now() - lost_ms) / 1000)}; asking again`);
  }
  $("main").classList.toggle("stale", lost_ms > 0);
  setTimeout(run, POLL_MS);
}

// A page that nobody sees asks for nothing.
function run() {
  if (document.hidden) document.addEventListener("visibilitychange", run, { once: true });
  else round();
}
run();
