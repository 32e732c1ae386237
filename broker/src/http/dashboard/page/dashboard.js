// The dashboard follows the broker's stream of snapshots and changes, and shows them.
//
// Idents, channels, payloads and texts are written by attackers. They reach the page by `put` alone, which
// makes text of them; nothing here makes markup, and the page's policy lets nothing do it.

/** The rows that are asked for of each list; the messages that are kept; the samples of a sparkline. */
const ROWS = 2000, MESSAGES = 200, SAMPLES = 60;
/** Milliseconds: between samples, before a new attempt (it grows up to the last), and until a silent stream,
 * which has a comment each 15 seconds, counts as broken. */
const SAMPLE = 5000, RETRY = 1000, LAST_RETRY = 10_000, SILENCE = 40_000;
const STATES = ["gone", "silent", "flood", "never", "learning", "ok"];

const $ = (id) => document.getElementById(id);

function make(tag, className = "", ...children) {
  const node = document.createElement(tag);
  if (className) node.className = className;
  node.append(...children);
  return node;
}

function button(label, className, action) {
  const node = make("button", className, ...(label ? [label] : []));
  node.type = "button";
  node.addEventListener("click", action);
  return node;
}

// ---- text

/** Characters that show nothing, or that change how others show: control, format (bidi among them), blanks
 * other than the space, private and unassigned ones, halves of surrogate pairs. */
const HIDDEN = /[\p{Cc}\p{Cf}\p{Cs}\p{Co}\p{Cn}\p{Zl}\p{Zp}\p{Default_Ignorable_Code_Point}\u2800]|(?! )\p{Zs}/u;
const PARTS = new RegExp(`(${HIDDEN.source})`, "u");
const SHORT = { "\n": "\\n", "\r": "\\r", "\t": "\\t" };

const escaped = (char) => SHORT[char] ?? `\\u{${char.codePointAt(0).toString(16)}}`;

/** A text with all hidden characters written out. */
export const escape = (text) => text.split(PARTS).map((part, at) => (at % 2 ? escaped(part) : part)).join("");

/** Shows a text, hidden characters written out and marked. With `lines`, line breaks and tabs stay. */
function put(node, text, lines = false) {
  if (!HIDDEN.test(text)) {
    node.textContent = text;
    return node;
  }
  const parts = text.split(PARTS).map((part, at) => {
    const stays = at % 2 === 0 || (lines && (part === "\n" || part === "\t"));
    return stays ? part : make("span", "esc", escaped(part));
  });
  node.replaceChildren(...parts);
  return node;
}

/** The beginning of a text, at most so long, that ends with no half of a character. */
function beginning(text, length) {
  const half = text.charCodeAt(length - 1) >> 10 === 0x36;
  return text.length > length ? `${text.slice(0, half ? length - 1 : length)}…` : text;
}

/** Puts the parts of a JSON text on lines, each as it is: a parser would change long numbers and drop repeated
 * names. The depth is bounded, as nesting is an attacker's. */
export function indent(json) {
  const tokens = json.match(/"[^"\\]*(?:\\.[^"\\]*)*"?|[{}[\],:]|[^\s"{}[\],:]+/gs) ?? [];
  const out = [];
  let depth = 0;
  const line = () => out.push("\n", "  ".repeat(Math.min(Math.max(depth, 0), 20)));
  tokens.forEach((token, at) => {
    const opens = token === "{" || token === "[", closes = token === "}" || token === "]";
    if (closes) depth -= 1;
    if (closes && !/^[{[]$/.test(tokens[at - 1])) line();
    out.push(token);
    if (opens) depth += 1;
    if ((opens && !/^[}\]]$/.test(tokens[at + 1])) || token === ",") line();
    if (token === ":") out.push(" ");
  });
  return out.join("");
}

/** Bytes as lines of sixteen: offset, hexadecimal, ASCII. */
export function dump(bytes) {
  const lines = [];
  for (let at = 0; at < bytes.length; at += 16) {
    const row = [...bytes.subarray(at, at + 16)];
    const hex = row.map((byte) => byte.toString(16).padStart(2, "0")).join(" ");
    const text = row.map((byte) => (byte > 31 && byte < 127 ? String.fromCharCode(byte) : ".")).join("");
    lines.push(`${at.toString(16).padStart(4, "0")}  ${hex.padEnd(47)}  ${text}`);
  }
  return lines.join("\n");
}

const numbers = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const small = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });
const num = (value) => (Math.abs(value) < 10 ? small : numbers).format(value ?? 0);

function bytes(value) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const unit = units.findIndex((_, at) => value < 1024 ** (at + 1) || at === 4);
  return `${num(value / 1024 ** unit)} ${units[unit]}`;
}

/** A time span in its largest fitting unit. */
function span(seconds) {
  const fits = [[90, 1, "s"], [5400, 60, "min"], [129_600, 3600, "h"], [Infinity, 86_400, "d"]];
  const [, length, unit] = fits.find(([end]) => seconds < end);
  return `${Math.floor(Math.max(seconds, 0) / length)} ${unit}`;
}

const time = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const seconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const day = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const whole = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "long" });

/** The broker's clock less ours, in milliseconds. */
let ahead = 0;
const now = () => Date.now() + ahead;
const ago = (at) => (!at ? "–" : now() / 1000 - at < 2 ? "now" : `${span(now() / 1000 - at)} ago`);

/** How long something lasts, and since when. */
function since(at) {
  if (!at) return "–";
  const age = now() / 1000 - at;
  const clock = time.format(at * 1000);
  return `${span(age)} · ${age < 72_000 ? clock : `${day.format(at * 1000)} ${clock}`}`;
}

// ---- commands

/** A word for a POSIX shell. `null` for what no command should hold, as its reader could not see it. */
export function quote(word) {
  if (!word || HIDDEN.test(word)) return null;
  return /^[\w.,:@%+/][\w.,:@%+/-]*$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;
}

/** A command of the broker about the key of an ident. An ident may look like a flag: `--` keeps it from that. */
export function command(action, ident, flag = "", value = null) {
  const name = quote(ident), given = value === null ? "" : quote(value);
  if (name === null || given === null) return null;
  const option = flag ? ` ${flag}${value === null ? "" : `=${given}`}` : "";
  return `hpfeeds-broker keys ${action}${ident.startsWith("-") ? `${option} -- ${name}` : ` ${name}${option}`}`;
}

const UNPRINTABLE = "The name holds characters that cannot be seen. No command is offered.";
const WILD = "The channel is a pattern, which would allow many. No command is offered.";

/** Mends an incident: by a command, or a text where none would. */
export function remedy({ kind, ident, channel }) {
  const given = (made) => (made === null ? { text: UNPRINTABLE } : { command: made });
  const allow = (flag) => {
    if (!ident || !channel) return { text: "Allow the channel in the key, if it should." };
    return /^(.*\.)?\*$/s.test(channel) ? { text: WILD } : given(command("set", ident, flag, channel));
  };
  switch (kind) {
    case "unknown-ident": return ident ? given(command("add", ident)) : { text: "Add a key, if you know it." };
    case "wrong-secret":
      return ident ? given(command("set", ident, "--new-secret --grace=1d")) : { text: "Compare the secrets." };
    case "denied-publish": return allow("--add-publish");
    case "denied-subscribe": return allow("--add-subscribe");
    case "others-name": return { text: "It publishes in another's name: set its own ident in its configuration." };
    case "store-failed": return { text: "The key store did not answer: see the broker's log." };
    case "tls-failed": return { text: "Compare certificates and ports: hpfeeds doctor --tls tells which." };
    case "no-auth": return { text: "No hpfeeds client, or a network that loses data: hpfeeds doctor tells." };
    case "turned-away": return { text: "Too many connections: see --max-connections and its kin." };
    case "bad-frame": return { text: "It sends what is no hpfeeds, or more than is allowed." };
    case "slow": case "dropped": return { text: "It reads too slowly: a mailbox or a faster reader keeps all." };
    default: return { text: "See the broker's log." };
  }
}

/** A command with a button that copies it. */
function copyable(text) {
  const code = make("code", "text v", text);
  const copy = button("Copy", "copy", async () => {
    try {
      await navigator.clipboard.writeText(text);
      copy.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(code);
      copy.textContent = "Selected";
    }
    setTimeout(() => (copy.textContent = "Copy"), 2000);
  });
  copy.setAttribute("aria-label", `Copy: ${text}`);
  return [code, copy];
}

// ---- details

const MILLIS = new Set(["first", "last", "at"]);
const SECONDS = new Set(["since", "published", "connected", "left", "oldest", "started"]);
const SPANS = new Set(["quiet", "usual_gap"]);

function value(name, given) {
  if (given === null || given === undefined || given === "") return "–";
  if (MILLIS.has(name) && given) return whole.format(given);
  if (SECONDS.has(name) && given) return `${whole.format(given * 1000)} (${ago(given)})`;
  if (SPANS.has(name)) return span(given);
  return typeof given === "number" ? numbers.format(given) : String(given);
}

/** Opens the dialog with everything about a row, uncut. */
function details(title, row, commands = [], ...more) {
  put($("details-title"), title);
  const list = make("dl");
  for (const [name, given] of Object.entries(row)) {
    if (typeof given === "object" && given !== null) continue;
    list.append(make("dt", "", name.replaceAll("_", " ")), put(make("dd", "v"), value(name, given)));
  }
  const made = commands.map((text) => make("div", "command", ...copyable(text)));
  $("details-body").replaceChildren(list, ...more, ...made);
  $("details").showModal();
}

$("details-close").addEventListener("click", () => $("details").close());

// ---- tables

const REASONS = {
  closed: "it closed the connection", refused: "it did what its key denies", broken: "its connection broke",
  slow: "it read too slowly", evicted: "it had to give way to others", revoked: "its key was removed or changed",
  lifeless: "it answered no more", fenced: "another took its place", unstored: "its messages could not be stored",
  shutdown: "the broker was stopped", cut: "its connection was cut",
};

/** By ident the last wrong secret, which may be a stranger's. */
let wrongSecrets = new Map();

function why(row) {
  const wrong = wrongSecrets.get(row.ident);
  if (!row.connections && wrong && wrong.last / 1000 >= (row.left ?? 0)) return `wrong secret, ${wrong.source}`;
  switch (row.state) {
    case "gone": return REASONS[row.reason] ?? row.reason ?? "";
    case "silent": return `its gaps were up to ${span(row.usual_gap)}`;
    case "flood": return `usual are ${num(row.usual_rate)} per minute`;
    case "never": return "not connected in 30 days";
    case "learning": return "known for less than a day";
    default: return "";
  }
}

const address = (row) => row.peer?.replace(/:\d+$/, "") ?? "–";
const plain = (id, label, extra) => ({ id, label, text: (row) => row[id], ...extra });
const named = (id, label) => plain(id, label, { opens: true });
const number = (id, label, extra) => ({ id, label, text: (row) => num(row[id]), num: true, ...extra });
const size = (id, label) => number(id, label, { text: (row) => bytes(row[id]), extra: "minor" });
const STATE = plain("state", "State", { badge: true });
const SINCE = { id: "since", label: "Since", text: (row) => since(row.since), ticks: true };
const PEER = { id: "peer", label: "Address", text: address, extra: "minor wider" };

/** The columns of each list. `ticks`: its text changes with time; `extra`: classes that narrow screens leave out. */
const LISTS = {
  sensors: {
    title: "Sensors", key: "ident", none: "No sensor has a key or a connection.", wide: true,
    commands: (row) => [command("show", row.ident), command("disable", row.ident)],
    columns: [
      { ...STATE, sort: "state" },
      { ...named("ident", "Ident"), sort: "ident" },
      { ...SINCE, sort: "-since" },
      { id: "why", label: "Why", text: why, extra: "minor" },
      { id: "published", label: "Last message", text: (row) => ago(row.published), ticks: true, sort: "-published", extra: "minor" },
      number("rate", "Per minute", { sort: "-rate", spark: true, extra: "minor" }),
      number("messages", "Messages", { sort: "-messages", extra: "minor" }),
      PEER,
    ],
  },
  incidents: {
    title: "Refused", key: "id", none: "Nothing was refused.", wide: true, name: (row) => row.kind.replaceAll("-", " "),
    note: "Add --auth to a command when the keys are not in the file sqlite.db.",
    commands: (row) => [remedy(row).command],
    columns: [
      { id: "kind", label: "What", text: (row) => row.kind.replaceAll("-", " "), opens: true },
      { id: "ident", label: "Ident", text: (row) => row.ident ?? "–" },
      { id: "channel", label: "Channel", text: (row) => row.channel ?? "–", extra: "minor" },
      plain("source", "From", { extra: "minor" }),
      number("count", "Times"),
      { id: "last", label: "Last", text: (row) => ago(row.last / 1000), ticks: true, extra: "minor" },
      { id: "do", label: "Mend it", text: (row) => remedy(row).command ?? remedy(row).text, mends: true },
    ],
  },
  consumers: {
    title: "Consumers", key: "ident", none: "No client has subscribed.",
    commands: (row) => [command("show", row.ident), command("disable", row.ident)],
    columns: [
      STATE, named("ident", "Ident"), SINCE,
      size("queued", "Queued"),
      number("dropped", "Dropped"), number("subscriptions", "Channels", { extra: "minor" }),
    ],
  },
  mailboxes: {
    title: "Mailboxes", key: "mailbox", none: "No mailbox is declared.",
    columns: [
      named("mailbox", "Mailbox"),
      { id: "attached", label: "Reader", ticks: true,
        text: (row) => (row.stuck ? "stuck" : row.attached ? "there" : row.since ? `away, ${span(now() / 1000 - row.since)}` : "none yet") },
      number("waiting", "Waiting"),
      { id: "oldest", label: "Oldest", text: (row) => (row.oldest ? span(now() / 1000 - row.oldest) : "–"), num: true, ticks: true, extra: "minor" },
      number("lost", "Lost"),
    ],
  },
  channels: {
    title: "Channels", key: "channel", none: "Nothing was published.",
    columns: [
      named("channel", "Channel"),
      number("messages", "Messages"),
      size("bytes", "Bytes"),
      number("publishers", "Sensors", { extra: "minor" }), number("subscriptions", "Readers"),
    ],
  },
  sources: {
    title: "Top sources", key: "key", none: "No message had a known field of a source while this page was open.",
    columns: [
      named("source", "Source"),
      plain("field", "Field"),
      number("messages", "Messages"),
    ],
  },
};

class Table {
  constructor(name, spec) {
    Object.assign(this, { name, spec, rows: new Map(), total: 0, matching: 0, current: null });
    this.section = make("section", spec.wide ? "card wide" : "card");
    this.section.id = name;
    const title = make("h2", "", spec.title);
    title.id = `${name}-title`;
    this.section.setAttribute("aria-labelledby", title.id);
    this.info = make("p", "muted");
    this.body = make("tbody");
    this.heads = spec.columns.map((column) => this.head(column));
    // Roles that tables have by themselves, unless a style lays their rows out as ours does.
    const as = (role, node) => (node.setAttribute("role", role), node);
    const caption = make("caption", "", `${spec.title}. Arrow keys go from row to row, Enter shows all of one.`);
    const top = as("rowgroup", make("thead", "", as("row", make("tr", "", ...this.heads.map((node) => as("columnheader", node))))));
    this.box = make("div", "box", as("table", make("table", "", caption, top, as("rowgroup", this.body))));
    this.none = make("p", "none", spec.none);
    this.section.append(make("div", "head", title, this.info), this.none, this.box);
    this.blank = as("row", make("tr", "", ...spec.columns.map(({ id, extra = "", num: isNumber, opens }) => {
      const cell = as(opens ? "rowheader" : "cell", make(opens ? "th" : "td", `f-${id} ${extra}${isNumber ? " num" : ""}`));
      if (opens) {
        cell.scope = "row";
        cell.append(make("button", "link v"));
        Object.assign(cell.firstChild, { type: "button", tabIndex: -1 });
      }
      return cell;
    })));
    this.body.addEventListener("click", ({ target }) => {
      const row = target.closest("button.link")?.closest("tr").row;
      if (row) this.open(row);
    });
    this.box.addEventListener("scroll", () => this.refresh());
    roam(this, this.box);
    this.box.addEventListener("animationend", ({ target }) => target.classList.remove("fresh"));
    $("lists").append(this.section);
    this.link = make("b");
    const link = make("a", "", `${spec.title} `, this.link);
    link.href = `#${name}`;
    $("nav").append(link);
    this.summarise();
  }

  head({ label, extra = "", num: isNumber, sort }) {
    const head = make("th", `${extra}${isNumber ? " num" : ""}`);
    head.scope = "col";
    if (!sort) head.append(label);
    else head.append(button(label, "", () => sortBy(sort)));
    return head;
  }

  /** Takes all rows, in order. */
  all({ rows, total, matching }) {
    this.change({ rows, total, matching, order: rows.map((row) => row[this.spec.key]) });
  }

  /** Takes the rows that have changed, and the order of all if that has. */
  change({ rows = [], order, total = this.total, matching = this.matching }) {
    Object.assign(this, { total, matching });
    for (const data of rows) this.set(data);
    if (order) this.arrange(order.map(String));
    this.summarise();
    this.refresh();
  }

  /** Draws what has changed, or, on a tick, what changes with time, of the rows that are in sight. They are kept
   * up to the second, the others every few seconds. All rows have one height. */
  refresh(isTick = false) {
    const rows = this.body.children, height = rows[0]?.offsetHeight;
    if (!height) return;
    const first = Math.max(Math.floor(this.box.scrollTop / height) - 5, 0);
    const last = Math.min(first + Math.ceil(this.box.clientHeight / height) + 10, rows.length);
    for (let at = first; at < last; at += 1) {
      const { row } = rows[at];
      if (row.isStale || isTick) this.draw(row, !row.isStale);
      if (row.history) sparkline(row);
    }
  }

  set(data) {
    const key = String(data[this.spec.key]);
    let row = this.rows.get(key);
    const state = data.state ?? (data.stuck ? "silent" : "");
    const changed = row && row.state !== state;
    if (!row) this.rows.set(key, (row = this.add()));
    Object.assign(row, { data, state });
    if (changed || !row.shown[0]) row.node.className = state + (changed ? " fresh" : "");
    if (!row.shown[0] || changed) this.draw(row);
    else row.isStale = true;
  }

  add() {
    const node = this.blank.cloneNode(true);
    // The node of each text, and the text.
    const cells = [...node.children].map((cell) => cell.firstChild ?? cell);
    node.row = { node, cells, shown: [], history: this.name === "sensors" && new Float32Array(SAMPLES).fill(NaN) };
    return node.row;
  }

  open({ data }) {
    const commands = (this.spec.commands?.(data) ?? []).filter(Boolean);
    const hint = this.name === "incidents" && remedy(data).text;
    details(this.spec.name?.(data) ?? data[this.spec.columns.find((column) => column.opens).id],
      this.name === "sensors" ? { ...data, why: why(data) } : data, commands, ...(hint ? [make("p", "", hint)] : []));
  }

  /** Writes the cells whose text is another one. */
  draw(row, ticksOnly = false) {
    if (!ticksOnly) row.isStale = false;
    this.spec.columns.forEach((column, at) => {
      if (ticksOnly && !column.ticks) return;
      const text = column.text(row.data), node = row.cells[at];
      if (row.shown[at] === text) return;
      row.shown[at] = text;
      if (column.badge) node.replaceChildren(make("span", `badge ${text}`, text));
      else if (column.mends) this.mend(node, row.data);
      else if (row.svg && column.spark) node.replaceChildren(row.svg, text);
      else put(node, text);
    });
  }

  mend(node, data) {
    const { command: made, text } = remedy(data);
    if (!made) return node.replaceChildren(make("span", "text", text));
    const [code, copy] = copyable(made);
    copy.tabIndex = -1;
    node.replaceChildren(make("span", "mend", copy, code));
  }

  /** Puts the rows into an order and drops the others. A row that has moved is moved alone. */
  arrange(keys) {
    const kept = new Set(keys), focused = document.activeElement;
    for (const [key, row] of this.rows) {
      if (kept.has(key)) continue;
      row.node.remove();
      this.rows.delete(key);
    }
    let at = this.body.firstChild;
    for (const key of keys) {
      const node = this.rows.get(key)?.node;
      if (!node) continue;
      if (at && at !== node && at.nextSibling === node) {
        this.body.append(at);
        at = node;
      }
      if (at === node) at = at.nextSibling;
      else this.body.insertBefore(node, at);
    }
    if (focused !== document.activeElement && focused.isConnected) focused.focus({ preventScroll: true });
  }

  summarise() {
    const has = this.rows.size, { total, matching, spec } = this;
    this.box.hidden = !has;
    this.none.hidden = has > 0;
    put(this.none, total > 0 ? "None passes the filter." : spec.none);
    const cut = has < matching ? `the first ${num(has)} of ${num(matching)}: a filter shows others` : "";
    const info = cut || (matching < total ? `${num(matching)} of ${num(total)}` : "");
    put(this.info, info || (has && spec.note) || "");
    put(this.link, num(total));
    settle(this, this.box);
  }

  clear() {
    this.change({ order: [], total: 0, matching: 0 });
  }

  /** Once a second: texts that change with time; with `all`, those of rows that are out of sight, too. */
  tick(all) {
    let some = 250;
    for (const row of this.rows.values()) {
      // Screen readers find no cell in rows without a layout: these get theirs after the first sight, little by little.
      if (!row.isWhole && some-- > 0) row.isWhole = row.node.dataset.whole = "yes";
      if (all) this.draw(row, !row.isStale);
    }
    if (!all) this.refresh(true);
  }
}

// One tab stop for a table: arrow keys go on from there.

const isChord = (event) => event.ctrlKey || event.altKey || event.metaKey;

function roam(owner, root) {
  root.addEventListener("focusin", ({ target }) => {
    if (!target.closest("tbody, li")) return;
    if (owner.current && owner.current !== target) owner.current.tabIndex = -1;
    owner.current = target;
    target.tabIndex = 0;
  });
  root.addEventListener("keydown", (event) => {
    const item = event.target.closest("tbody tr, li");
    if (!item || isChord(event)) return;
    const among = [...item.querySelectorAll("button")], place = among.indexOf(event.target);
    const items = [...item.parentNode.children];
    const by = { ArrowDown: 1, ArrowUp: -1, PageDown: 15, PageUp: -15, Home: -Infinity, End: Infinity }[event.key] ?? 0;
    const to = by && items[Math.min(Math.max(items.indexOf(item) + by, 0), items.length - 1)];
    const side = { ArrowRight: place + 1, ArrowLeft: place - 1 }[event.key];
    const target = to ? [...to.querySelectorAll("button")][place] ?? to.querySelector("button") : among[side];
    if (!to && side === undefined) return;
    event.preventDefault();
    target?.focus();
    target?.scrollIntoView({ block: "nearest" });
  });
}

function settle(owner, root) {
  if (owner.current?.isConnected) return;
  owner.current = root.querySelector("tbody button, li button");
  if (owner.current) owner.current.tabIndex = 0;
}

// ---- sparklines

const SVG = "http://www.w3.org/2000/svg";
const RATE = LISTS.sensors.columns.findIndex((column) => column.spark);
/** The place of the latest sample in each history. */
let slot = 0;

function sparkline(row) {
  if (Number.isNaN(row.history[slot])) row.history[slot] = row.data.rate;
  if (!row.svg) {
    row.svg = document.createElementNS(SVG, "svg");
    const attributes = { class: "spark", viewBox: "0 0 60 16", preserveAspectRatio: "none", "aria-hidden": "true" };
    for (const [name, text] of Object.entries(attributes)) row.svg.setAttribute(name, text);
    row.svg.append(document.createElementNS(SVG, "polyline"));
    row.cells[RATE].prepend(row.svg);
  }
  const highest = row.history.reduce((most, rate) => (rate > most ? rate : most), 0);
  const seen = [];
  for (let at = 1; highest && at <= SAMPLES; at += 1) {
    const rate = row.history[(slot + at) % SAMPLES];
    if (!Number.isNaN(rate)) seen.push(rate);
  }
  // The last sample is at the right end, and the first at the left one, once there are enough.
  const step = 60 / Math.max(seen.length - 1, 11);
  const points = seen.map((rate, at) => `${(60 - (seen.length - 1 - at) * step).toFixed(1)},${(15 - (rate / highest) * 14).toFixed(1)}`);
  const text = points.join(" ");
  if (row.points !== text) row.svg.firstChild.setAttribute("points", (row.points = text));
}

function sample() {
  slot = (slot + 1) % SAMPLES;
  for (const row of tables.sensors.rows.values()) row.history[slot] = row.data.rate;
}

// ---- the summary

/** The fields of the snapshot that are no lists. */
let head = {};
/** Since when the broker is away; by how much the books differ, and since when; of our clock, in milliseconds. */
let awaySince = 0, differs = 0, differsSince = 0;
/** More to say of it than that it is unreachable. */
let fate = "";
const STOPPED = "Broker stopped";
const states = {};

for (const name of STATES) {
  const node = button("", name, () => {
    node.setAttribute("aria-pressed", node.getAttribute("aria-pressed") !== "true");
    follow();
  });
  node.setAttribute("aria-pressed", "false");
  node.append(make("b", "", "–"), make("span", "", name));
  $("states").append((states[name] = node));
}

function summary() {
  if (awaySince) {
    const at = seconds.format(awaySince);
    return ["away", `${fate || "Broker unreachable"} since ${at}, reconnecting`];
  }
  const { gone, silent, flood } = head.states;
  const said = [];
  for (const [value, word] of [[gone, "gone"], [silent, "silent"], [flood, "flooding"]]) {
    if (value) said.push(`${num(value)} ${said.length ? "" : value === 1 ? "sensor " : "sensors "}${value === 1 ? "is" : "are"} ${word}`);
  }
  const worst = gone ? "gone" : silent ? "silent" : flood ? "flood" : "ok";
  if (said.length) return [worst, said.join(", ")];
  const there = head.states.ok + head.states.learning;
  return [worst, there ? `All is well: ${num(there)} sensor${there === 1 ? " is" : "s are"} connected` : "No sensor has connected yet"];
}

const lastText = new Map();
/** Writes a text that has changed. */
function write(node, text) {
  if (lastText.get(node) === text) return;
  lastText.set(node, text);
  put(node, text);
}

let icon = "";
function show() {
  if (!head.states && !awaySince) return;
  const [worst, text] = summary();
  write($("summary"), text);
  $("summary").className = worst;
  $("view").classList.toggle("stale", awaySince > 0);
  if (!head.states) return;
  document.title = escape(awaySince ? `away · ${head.name}` : head.states.gone ? `${num(head.states.gone)} gone · ${head.name}` : `${head.name} · hpfeeds`);
  const colour = { gone: "c0291f", away: "c0291f", silent: "c98500", flood: "8b2fa0" }[worst] ?? "1d7340";
  if (icon !== colour) {
    icon = colour;
    document.querySelector("link[rel=icon]").href =
      `data:image/svg+xml,<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 8 8'><circle cx='4' cy='4' r='3.5' fill='%23${icon}'/></svg>`;
  }
  for (const name of STATES) {
    write(states[name].firstChild, num(head.states[name]));
    states[name].classList.toggle("zero", !head.states[name]);
    states[name].classList.toggle("bad", head.states[name] > 0 && STATES.indexOf(name) < 3);
  }
  write($("name"), head.name);
  facts();
  books();
}

function facts() {
  const { rates } = head;
  const shown = [
    ["up", span(now() / 1000 - head.started)],
    ["connections", `${num(head.connections)} of ${num(head.max_connections)}`],
    ["in", `${num(rates.messages)} messages/s, ${bytes(rates.received_bytes)}/s`],
    ["out", `${bytes(rates.sent_bytes)}/s`],
    ["version", head.version],
  ];
  if (head.journal) shown.push(["journal", `${bytes(head.journal.bytes)} of ${bytes(head.journal.limit)}`]);
  if (!head.ready) shown.push(["", "accepts no connections"]);
  const list = $("facts");
  while (list.children.length > shown.length) list.lastChild.remove();
  shown.forEach(([name, text], at) => {
    const row = list.children[at] ?? list.appendChild(make("div", "", make("dt"), make("dd")));
    write(row.firstChild, name);
    write(row.lastChild, text);
  });
}

function books() {
  const { books: known, difference, journal } = head;
  const sum = (whole, text, ...parts) => `${num(known[whole])} ${text} = ${parts.map((part) => `${num(known[part])} ${part.replaceAll("_", " ")}`).join(" + ")}`;
  const said = [sum("copies", "copies of messages", "delivered", "queued", "dropped", "cut_off")];
  if (known.wanted) said.push(sum("wanted", "to be stored", "stored", "not_stored"));
  if (known.lost) said.push(`${num(known.lost)} lost by mailboxes`);
  write($("books"), `Books: ${said.join("; ")}. ${difference ? `They differ by ${num(difference)}.` : "They add up."}`);
  // Threads are read one after the other, and messages pass meanwhile: only what stays the same is a fault.
  if (difference !== differs || awaySince) [differs, differsSince] = [difference, Date.now()];
  const faults = [];
  if (difference && Date.now() - differsSince > 5000) {
    faults.push(`The books differ by ${num(difference)}: a fault in the broker. Please report it, with the answer of /api/v1/snapshot.`);
  }
  if (journal && journal.health !== "good") faults.push(`The journal is ${journal.health}, with ${bytes(journal.disk_free)} of disk free.`);
  $("notice").hidden = !faults.length;
  write($("notice"), faults.join(" "));
}

// ---- live messages

const tail = { kept: [], paused: false, missed: 0, current: null, rate: 0, shown: [], at: 0 };

const isPretty = () => $("pretty").getAttribute("aria-pressed") === "true";
const content = ({ encoding, payload }) =>
  encoding === "base64" ? Uint8Array.from(atob(payload), (char) => char.charCodeAt(0)) : new TextEncoder().encode(payload);

/** A payload for reading, at most so many characters of it. */
function readable(message, length = 1e6) {
  const { encoding, payload } = message;
  if (encoding === "base64") return dump(content({ encoding, payload: payload.slice(0, length & ~3) }));
  const text = beginning(payload, length);
  return encoding === "json" && isPretty() ? indent(text) : text;
}

function download(message) {
  // No name of an attacker's, and no type that anything would open.
  const blob = new Blob([content(message)], { type: "application/octet-stream" });
  const link = make("a");
  link.href = URL.createObjectURL(blob);
  link.download = `payload-${message.at}${message.cut ? "-beginning" : ""}.bin`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

function openMessage(message) {
  const { payload, ...rest } = message;
  const save = button(message.cut ? `Download the first ${bytes(content(message).length)}` : "Download", "main", () => download(message));
  details(`${message.channel}`, rest, [], put(make("pre", "v"), readable(message), true), save);
}

function item(message) {
  const open = button("", "link", () => openMessage(message));
  open.tabIndex = -1;
  open.append(make("span", "muted", seconds.format(message.at)), put(make("span", "channel v"), message.channel),
    put(make("span", "v"), message.ident), make("span", "muted", bytes(message.size)));
  return make("li", "", open, put(make("pre", "v"), beginning(readable(message, 1200), 1500), true));
}

const isHeld = () => tail.paused || $("messages").matches(":hover") || $("messages").contains(document.activeElement) || $("details").open;

function takeMessages({ rate, shown, messages }) {
  Object.assign(tail, { rate, at: Date.now() });
  tail.shown = [...tail.shown.slice(-1), shown];
  if (isHeld()) {
    tail.missed += messages.length;
  } else {
    tail.missed = 0;
    const latest = messages.slice(-MESSAGES).reverse();
    tail.kept = [...latest, ...tail.kept].slice(0, MESSAGES);
    $("messages").prepend(...latest.map(item));
    while ($("messages").children.length > MESSAGES) $("messages").lastChild.remove();
    settle(tail, $("messages"));
  }
  showRate();
}

function showRate() {
  if (session.scope !== "tail") return write($("tail-rate"), "");
  const shown = tail.shown.reduce((sum, some) => sum + some, 0);
  const isQuiet = Date.now() - tail.at > 2000;
  if (isQuiet) tail.shown = [];
  const rate = isQuiet ? (awaySince ? "" : "no message passes at the moment") : `showing ${num(Math.min(shown, tail.rate))} of ${num(tail.rate)}/s`;
  const held = !isHeld() ? "" : tail.paused ? "paused" : "held while you are in the list";
  const missed = tail.missed && held ? `${num(tail.missed)} not shown` : "";
  write($("tail-rate"), [rate, held, missed].filter(Boolean).join(" · "));
}

function takeSources({ sources }) {
  const rows = sources.map((row) => ({ key: JSON.stringify([row.field, row.source]), ...row }));
  tables.sources.all({ rows, total: rows.length, matching: rows.length });
}

// ---- the stream

const session = { scope: null, version: null, sort: "state", turn: 0, aborting: null, wake: () => {}, isAsleep: false, accepted: {} };
const tables = {};

/** The query for the filters of now, or for those of an `accepted` one. */
function query(accepted) {
  const reads = session.scope === "tail";
  const asked = { ...accepted, sort: session.sort, limit: ROWS, tail: reads && !session.isAsleep ? 1 : 0 };
  if (accepted) return asked;
  const add = (name, text) => text && (asked[name] = text);
  add("q", $("filter").value.trim());
  add("state", STATES.filter((name) => states[name].getAttribute("aria-pressed") === "true").join());
  if (reads) for (const { name, value: text } of $("tail-filter").elements) add(name, text.trim());
  return asked;
}

/** Calls `take` with each event of a stream, as server-sent events are written, until it ends. */
async function events(body, alive, take) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "", name = "", data = [];
  for (;;) {
    const { value: chunk, done } = await reader.read();
    if (done) return;
    alive();
    const lines = (rest + chunk).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "") {
        // A fault of this page is no fault of the connection.
        if (data.length) try { take(name, JSON.parse(data.join("\n"))); } catch (cause) { reportError(cause); }
        [name, data] = ["", []];
      } else if (line.startsWith("event:")) name = line.slice(6).trim();
      else if (line.startsWith("data:")) data.push(line.slice(5));
    }
  }
}

function take(name, data) {
  switch (name) {
    case "snapshot": takeSnapshot(data); break;
    case "change":
      ahead = data.at - Date.now();
      Object.assign(head, data.set);
      for (const [list, changes] of Object.entries(data.lists ?? {})) tables[list]?.change(changes);
      if (data.lists?.incidents) takeIncidents([...tables.incidents.body.children].map(({ row }) => row.data));
      show();
      break;
    case "tail": takeMessages(data); break;
    case "sources": takeSources(data); break;
    case "gone": fate = STOPPED; break;
  }
}

function takeIncidents(rows) {
  wrongSecrets = new Map(rows.filter(({ kind }) => kind === "wrong-secret").reverse().map((row) => [row.ident, row]));
  for (const ident of wrongSecrets.keys()) {
    const row = tables.sensors.rows.get(ident);
    if (row) row.isStale = true;
  }
}

function takeSnapshot(data) {
  const start = performance.now();
  // Another version has another page.
  if (session.version && session.version !== data.version) return location.reload();
  session.version = data.version;
  ahead = data.at - Date.now();
  awaySince = differs = 0;
  fate = "";
  head = {};
  takeIncidents(data.incidents.rows);
  for (const [name, given] of Object.entries(data)) {
    if (tables[name]) tables[name].all(given);
    else head[name] = given;
  }
  show();
  // For measurements: from the snapshot to what is on the screen.
  requestAnimationFrame(() => setTimeout(() => performance.measure("snapshot", { start })));
}

function away() {
  awaySince ||= Date.now();
  show();
  showRate();
}

/** Follows a stream for the filters of now, or those accepted last when these are refused, in the place of the one
 * before, until the session is over. */
async function follow() {
  const mine = ++session.turn;
  let refused = "";
  session.aborting?.abort();
  session.wake();
  for (let wait = RETRY; mine === session.turn; ) {
    const aborting = (session.aborting = new AbortController());
    let timer = 0;
    const alive = () => {
      clearTimeout(timer);
      timer = setTimeout(() => aborting.abort(), SILENCE);
    };
    alive();
    try {
      const asked = query(refused && session.accepted);
      const response = await fetch(`api/v1/stream?${new URLSearchParams(asked)}`, { signal: aborting.signal, cache: "no-store" });
      const said = response.ok || [401, 403].includes(response.status) ? "" : await response.text();
      if (mine !== session.turn) return;
      if (response.status === 400 && !refused) {
        fault((refused = said || "The filter is refused."));
        continue;
      }
      fault(refused || said);
      if (response.status === 401) return leave("The session is over: the broker has other tokens now, or the cookie is gone.");
      if (response.status === 403 && session.scope === "tail") {
        may("view");
        continue;
      }
      if (response.ok) {
        wait = RETRY;
        session.accepted = asked;
        await events(response.body, alive, (name, data) => mine === session.turn && take(name, data));
      } else fate = `Broker answers ${response.status}`;
    } catch {
      // The connection broke, or there was none: the same as its end.
      if (fate !== STOPPED) fate = "";
    } finally {
      clearTimeout(timer);
    }
    if (mine !== session.turn) return;
    away();
    await new Promise((resolve) => {
      session.wake = resolve;
      setTimeout(resolve, wait * (1 + Math.random() / 2));
    });
    wait = Math.min(wait * 1.5, LAST_RETRY);
  }
}

function fault(text) {
  $("filter-fault").hidden = !text;
  write($("filter-fault"), text.trim());
}

let delay = 0;
/** Follows anew once nothing was typed for a moment. */
function followSoon() {
  clearTimeout(delay);
  delay = setTimeout(follow, 300);
}

function sortBy(given) {
  const same = session.sort === given;
  session.sort = same ? (given.startsWith("-") ? given.slice(1) : `-${given}`) : given;
  showSort();
  follow();
}

function showSort() {
  const name = session.sort.replace("-", "");
  tables.sensors.heads.forEach((node, at) => {
    if (LISTS.sensors.columns[at].sort?.replace("-", "") !== name) return node.removeAttribute("aria-sort");
    node.setAttribute("aria-sort", session.sort === name ? "ascending" : "descending");
  });
}

// ---- the session

/** Sets what the token may do. */
function may(scope) {
  session.scope = scope;
  const reads = scope === "tail";
  $("tail-none").hidden = reads;
  for (const id of ["tail-filter", "messages", "pause", "pretty"]) $(id).hidden = !reads;
  tables.sources.section.hidden = tables.sources.link.parentNode.hidden = !reads;
  showRate();
}

function enter(scope) {
  $("login").hidden = true;
  $("view").hidden = false;
  session.isAsleep = document.hidden;
  may(scope);
  follow();
}

/** Shows the form for a token, with the reason, and forgets what was shown. */
function leave(reason) {
  session.turn += 1;
  session.aborting?.abort();
  Object.assign(session, { scope: null, version: null });
  head = {};
  wrongSecrets = new Map();
  awaySince = differs = 0;
  for (const table of Object.values(tables)) table.clear();
  tail.kept = [];
  $("messages").replaceChildren();
  $("details").close();
  $("details-body").replaceChildren();
  document.title = "hpfeeds broker";
  $("view").hidden = true;
  $("login").hidden = false;
  put($("login-why"), reason);
  $("token").focus();
}

/** Asks what the cookie is good for. */
async function begin(otherwise = "") {
  try {
    const response = await fetch("api/v1/scope", { cache: "no-store" });
    if (response.ok) return enter((await response.json()).scope);
    leave(response.status === 401 ? otherwise : `The broker answers ${response.status}: ${(await response.text()).trim()}`);
  } catch {
    leave("The broker is unreachable.");
  }
}

/** Trades a token for a cookie, which no script can read. */
async function trade(token) {
  // Other characters cannot be in a header.
  if (!/^[\x21-\x7e]+$/.test(token)) return leave("This is no token of this broker.");
  try {
    const response = await fetch("api/v1/login", { method: "POST", headers: { Authorization: `Bearer ${token}` } });
    await begin(response.ok ? "The browser keeps no cookies for this address." : "The broker does not know this token.");
  } catch {
    leave("The broker is unreachable.");
  }
}

/** The token of the address, which is taken out of it at once: neither history nor bookmarks get it. */
function tokenOfAddress() {
  const token = new URLSearchParams(location.hash.slice(1)).get("token");
  if (token !== null) history.replaceState(null, "", location.pathname + location.search);
  return token;
}

$("login").querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  const token = $("token").value.trim();
  $("token").value = "";
  trade(token);
});
$("logout").addEventListener("click", async () => {
  const { ok, status } = await fetch("api/v1/logout", { method: "POST" }).catch(() => ({}));
  leave(ok || status === 401 ? "Logged out." : "Not logged out: the cookie is still there. Load the page and try again, or close the browser.");
});
for (const form of [$("search"), $("tail-filter")]) {
  form.addEventListener("input", followSoon);
  form.addEventListener("submit", (event) => event.preventDefault());
}
$("pause").addEventListener("click", () => {
  tail.paused = !tail.paused;
  $("pause").setAttribute("aria-pressed", tail.paused);
  showRate();
});
$("pretty").addEventListener("click", () => {
  $("pretty").setAttribute("aria-pressed", !isPretty());
  $("messages").replaceChildren(...tail.kept.map(item));
  settle(tail, $("messages"));
});
document.addEventListener("keydown", (event) => {
  const isTyping = event.target.closest("input, textarea, dialog");
  if (event.key !== "/" || isTyping || isChord(event) || $("view").hidden) return;
  event.preventDefault();
  $("filter").select();
});
addEventListener("hashchange", () => {
  const token = tokenOfAddress();
  if (token !== null) trade(token);
});
addEventListener("online", () => session.wake());
let hidden = 0;
// A page in the background keeps its title, and needs no messages.
document.addEventListener("visibilitychange", () => {
  clearTimeout(hidden);
  const change = (isAsleep) => {
    if (!session.scope || session.isAsleep === isAsleep) return;
    session.isAsleep = isAsleep;
    follow();
  };
  if (document.hidden) hidden = setTimeout(change, 60_000, true);
  else change(false);
});

for (const [name, spec] of Object.entries(LISTS)) tables[name] = new Table(name, spec);
roam(tail, $("messages"));
showSort();
const toTail = make("a", "", "Live messages");
toTail.href = "#tail";
$("nav").append(toTail);
let ticks = 0;
setInterval(() => {
  if (!head.states) return;
  ticks += 1;
  if (ticks % (SAMPLE / 1000) === 0) sample();
  for (const table of Object.values(tables)) table.tick(ticks % 10 === 0);
  show();
  showRate();
}, 1000);

const token = tokenOfAddress();
if (token === null) begin();
else trade(token);
