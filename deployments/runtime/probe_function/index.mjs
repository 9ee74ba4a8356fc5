// The function that tries to leave its sandbox, for the self-test in isolation.py. Every attempt
// answers with what it saw or with the error code; what that means is decided outside.
import { spawn } from "node:child_process";
import fs from "node:fs";
import net from "node:net";
import path from "node:path";

async function attempt(action) {
  try {
    return { seen: await action() };
  } catch (error) {
    return { error: error.code ?? String(error) };
  }
}

function connect(options) {
  return new Promise((resolve, reject) => {
    const socket = net.connect(options, () => (socket.destroy(), resolve("connected")));
    socket.setTimeout(500, () => socket.destroy(Object.assign(new Error(), { code: "ETIMEDOUT" })));
    socket.on("error", reject);
  });
}

function writable(folder, name) {
  const file = path.join(folder, name);
  try {
    fs.writeFileSync(file, name);
    fs.unlinkSync(file);
    return true;
  } catch {
    return false;
  }
}

// Bytes that fit into the folder for temporary files, up to `limit`.
function fill(folder, limit) {
  const piece = Buffer.alloc(8 * 1024 * 1024, 1);
  const files = [];
  let written = 0;
  try {
    while (written < limit) {
      files.push(path.join(folder, `fill-${files.length}`));
      fs.writeFileSync(files.at(-1), piece);
      written += piece.length;
    }
  } catch (error) {
    if (error.code !== "ENOSPC" && error.code !== "EDQUOT") throw error;
  } finally {
    for (const file of files) fs.rmSync(file, { force: true });
  }
  return written;
}

function processes() {
  const pids = fs.readdirSync("/proc").filter((name) => /^\d+$/.test(name));
  const names = pids.map((pid) => {
    try {
      return fs.readFileSync(`/proc/${pid}/comm`, "utf8").trim();
    } catch {
      return "";
    }
  });
  const environments = pids.filter((pid) => {
    try {
      return Number(pid) !== process.pid && fs.readFileSync(`/proc/${pid}/environ`).length > 0;
    } catch {
      return false;
    }
  });
  return { pids: pids.map(Number), names: [...new Set(names)].filter(Boolean), environments };
}

function systemCalls(program) {
  return new Promise((resolve, reject) => {
    const child = spawn(program, [], { stdio: ["ignore", "pipe", "ignore"] });
    const chunks = [];
    child.stdout.on("data", (chunk) => chunks.push(chunk));
    child.on("error", reject).on("close", () => resolve(Buffer.concat(chunks).toString("base64")));
  });
}

function install(name, content) {
  const file = path.join(process.env.TMPDIR, name);
  fs.writeFileSync(file, Buffer.from(content, "base64"), { mode: 0o755 });
  return file;
}

async function look(event) {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  const field = (name) => status.match(new RegExp(`^${name}:\\s*(.*)$`, "m"))?.[1];
  const calls = install("calls", event.calls);
  const seen = {
    files: await Promise.all(event.files.map((file) => attempt(() => fs.readFileSync(file).length))),
    environment: { ...process.env },
    command: await attempt(() => fs.readFileSync("/proc/1/cmdline", "utf8")),
    sockets: await Promise.all(event.sockets.map((at) => attempt(() => connect({ path: at })))),
    loopback: await attempt(() => connect({ host: "127.0.0.1", port: event.port })),
    interfaces: await attempt(() =>
      fs.readFileSync("/proc/net/dev", "utf8").split("\n").slice(2).map((line) => line.split(":")[0].trim()).filter(Boolean),
    ),
    writable: event.folders.filter((folder) => writable(folder, event.token)),
    temporary: writable(process.env.TMPDIR, event.token),
    room: await attempt(() => fill(process.env.TMPDIR, event.room)),
    capabilities: field("CapEff"),
    privileges: field("NoNewPrivs"),
    filter: field("Seccomp"),
    answers: await attempt(() => systemCalls(calls)),
    processes: processes(),
  };
  seen.signal = await attempt(() => seen.processes.pids.includes(event.pid) ? "own" : process.kill(event.pid, 0));
  return seen;
}

// Grandchildren in sessions of their own, that nothing but the sandbox's end can end.
function scatter(event) {
  const waiter = install("waiter", event.waiter);
  const children = [1, 2].map(() => spawn(waiter, [event.token], { detached: true, stdio: "ignore" }));
  children.forEach((child) => child.on("error", () => {}).unref());
  return children.filter((child) => child.pid).length;
}

function multiply(event) {
  const waiter = install("waiter", event.waiter);
  let started = 0;
  for (; started < event.most; started++) {
    const child = spawn(waiter, [event.token], { stdio: "ignore" });
    child.on("error", () => {});
    if (!child.pid) break;
  }
  return started;
}

function remember(event) {
  const kept = [];
  for (let i = 0; i < event.pieces; i++) kept.push(Buffer.alloc(16 * 1024 * 1024, 1));
  return kept.length;
}

const tasks = { look, scatter, multiply, remember };

export const handler = async (event) => tasks[event.task](event);
