// The JavaScript side of the runtime: takes invocations from the Runtime API on a unix socket,
// runs the function's handler, and sends back what it answers. Follows AWS Lambda's Node.js
// runtime in what a handler can see; knows nothing of the server beyond the socket.
import fs from "node:fs";
import net from "node:net";
import path from "node:path";
import { AsyncLocalStorage } from "node:async_hooks";
import { Writable } from "node:stream";
import { pathToFileURL } from "node:url";
import { format } from "node:util";

// An import would evaluate everything node:http exports, a whole HTTP client and WebSockets among it:
// 6 MB and some milliseconds for every instance.
const http = process.getBuiltinModule("node:http");

const { AIG_RUNTIME_SOCKET: socketPath, AIG_ENTRY: entry, AIG_BRIDGES: bridges = "[]" } = process.env;
delete process.env.AIG_RUNTIME_SOCKET;
delete process.env.AIG_ENTRY;
delete process.env.AIG_BRIDGES;

const BASE = "/2018-06-01/runtime";
const STREAMING = Symbol.for("aws.lambda.runtime.handler.streaming");
const INTEGRATION_RESPONSE = "application/vnd.awslambda.http-integration-response";
const invocations = new AsyncLocalStorage();
const agent = new http.Agent({ keepAlive: true });
let running = null; // id of the invocation in progress

// --- Life and death ---------------------------------------------------------------------------
// The server holds our stdin open: its end means the server is gone.
process.stdin.on("end", () => process.exit(0)).on("error", () => process.exit(0));
process.stdin.resume();

// --- Console ----------------------------------------------------------------------------------
// Written at once, so that a line printed before a crash or a kill is not lost in a buffer.
function write(text) {
  let rest = Buffer.from(text);
  try {
    while (rest.length) rest = rest.subarray(fs.writeSync(1, rest));
  } catch (error) {
    // The function used process.stdout itself, which made the pipe non-blocking, and it is full.
    if (error.code === "EAGAIN") process.stdout.write(rest);
  }
}

function log(level, values) {
  const message = (level ? `${level} ` : "") + format(...values);
  write(`\x1e${JSON.stringify({ r: invocations.getStore() ?? running ?? "", m: message.slice(0, 16384) })}\n`);
}
for (const [method, level] of [["log", ""], ["info", ""], ["debug", ""], ["warn", "WARN"], ["error", "ERROR"]]) {
  console[method] = (...values) => log(level, values);
}
console.trace = (...values) => log("", [new Error(format(...values)).stack.replace("Error", "Trace")]);

// --- Bridges ----------------------------------------------------------------------------------
// In a network of its own the function has nothing but this loopback: what it sends to a bridge's
// port is passed on through a socket. Both loopback addresses, because names may mean either.
function pass(inside, socket) {
  const outside = net.connect({ path: socket, allowHalfOpen: true });
  for (const [from, to] of [[inside, outside], [outside, inside]])
    from.on("error", () => to.destroy()).on("close", () => from.readableEnded || to.destroy()).pipe(to);
}

function listen(host, { port, socket }) {
  return new Promise((resolve, reject) => {
    const server = net.createServer({ allowHalfOpen: true, noDelay: true }, (inside) => pass(inside, socket));
    server.on("error", reject).listen({ host, port }, () => resolve(server.unref()));
  });
}

async function build(bridge) {
  await listen("127.0.0.1", bridge);
  await listen("::1", bridge).catch(() => {}); // machines without IPv6
}

// --- Runtime API ------------------------------------------------------------------------------
function call(method, url, { body, headers = {} } = {}) {
  return new Promise((resolve, reject) => {
    const request = http.request({ socketPath, agent, method, path: BASE + url, headers }, (response) => {
      const chunks = [];
      response.on("data", (chunk) => chunks.push(chunk));
      response.on("end", () =>
        resolve({ status: response.statusCode, headers: response.headers, body: Buffer.concat(chunks).toString() }),
      );
      response.on("error", reject);
    });
    request.on("error", reject);
    request.end(body);
  });
}

function describe(error, hint = "") {
  const isError = error instanceof Error;
  const errorMessage = (isError ? error.message : format(error)) + hint;
  const errorType = isError ? error.name : typeof error;
  const stack = isError ? String(error.stack ?? "").split("\n").slice(1) : [];
  const stackTrace = [`${errorType}: ${errorMessage}`, ...stack.filter((line) => /^\s+at /.test(line))];
  return JSON.stringify({ errorType, errorMessage, stackTrace });
}

function report(error, hint) {
  const url = running ? `/invocation/${running}/error` : "/init/error";
  return call("POST", url, { body: describe(error, hint), headers: { "Content-Type": "application/json" } });
}

async function die(error) {
  try {
    // Between invocations nobody waits for the report; the log must still tell.
    if (started && !running) console.error(error);
    else await Promise.race([report(error), new Promise((resolve) => setTimeout(resolve, 1000))]);
  } finally {
    process.exit(1);
  }
}
let started = false;
process.on("uncaughtException", die);
process.on("unhandledRejection", die);

// --- Streaming --------------------------------------------------------------------------------
// Chunked HTTP by hand, on a connection that is there before the handler runs: what a function has
// written is then with the server at once, even if its next statement is process.exit().
class ResponseStream extends Writable {
  #id;
  #contentType = "application/octet-stream";
  #socket;
  #opened = false;
  answered; // settles once the server has taken the whole stream, or closed it

  constructor(id, socket) {
    super({ highWaterMark: 64 * 1024 });
    this.#id = id;
    this.#socket = socket.resume();
    this.answered = new Promise((resolve) => {
      // Closed early: the visitor left, or the server refused the stream.
      socket.on("error", (error) => this.destroy(error));
      socket.on("close", () => (this.writableFinished || this.destroy(), resolve()));
    });
  }
  setContentType(contentType) {
    this.#contentType = contentType;
  }
  #send(chunk) {
    const data = Buffer.from(chunk);
    if (!data.length) return;
    this.#socket.write(`${data.length.toString(16)}\r\n`);
    this.#socket.write(data);
    this.#socket.write("\r\n");
  }
  #open() {
    if (this.#opened) return;
    this.#opened = true;
    const path = `${BASE}/invocation/${this.#id}/response`;
    this.#socket.write(
      `POST ${path} HTTP/1.1\r\nHost: runtime\r\nConnection: close\r\nContent-Type: ${this.#contentType}\r\n` +
        "Lambda-Runtime-Function-Response-Mode: streaming\r\nTransfer-Encoding: chunked\r\n\r\n",
    );
    this._onBeforeFirstWrite?.((chunk) => this.#send(chunk));
  }
  _write(chunk, encoding, done) {
    this.#socket.cork(); // one system call for all of it, made when it is uncorked
    this.#open();
    this.#send(chunk);
    this.#socket.write("", done);
    this.#socket.uncork();
  }
  _final(done) {
    this.#socket.cork();
    this.#open();
    this.#socket.write("0\r\n\r\n", done);
    this.#socket.uncork();
  }
  _destroy(error, done) {
    if (error) this.#socket.destroy();
    done(error);
  }
}

function connect() {
  return new Promise((resolve, reject) => {
    const socket = net.connect({ path: socketPath }, () => resolve(socket.off("error", reject)));
    socket.on("error", reject);
  });
}

globalThis.awslambda = {
  streamifyResponse(handler) {
    handler[STREAMING] = "response";
    return handler;
  },
  HttpResponseStream: class HttpResponseStream {
    static from(stream, prelude) {
      stream.setContentType(INTEGRATION_RESPONSE);
      stream._onBeforeFirstWrite = (send) => {
        send(JSON.stringify(prelude ?? {}));
        send(Buffer.alloc(8));
      };
      return stream;
    }
  },
};

// --- The function -----------------------------------------------------------------------------
class MissingHandler extends Error {
  name = "Runtime.HandlerNotFound";
}

function looksLikeServer(candidate) {
  return typeof candidate === "function" && /^[^{=]*\(?\s*req(uest)?\s*,\s*res(ponse)?\b/.test(String(candidate));
}
const SERVER_HINT =
  " It looks like an HTTP handler (req, res); a function gets (event, context) and returns" +
  " {statusCode, headers, body}.";

async function load() {
  const exports = await import(pathToFileURL(path.join(process.env.LAMBDA_TASK_ROOT, entry)));
  const handler = exports.handler ?? exports.default?.handler;
  if (typeof handler === "function") return handler;
  const cjs = exports.default && typeof exports.default === "object" ? Object.keys(exports.default) : [];
  const names = [...new Set([...Object.keys(exports), ...cjs])].filter((name) => name !== "module.exports");
  const hint = [exports.default, exports.handler].some(looksLikeServer) ? SERVER_HINT : "";
  throw new MissingHandler(
    `${entry} does not export a function called 'handler'; it exports: ${names.join(", ") || "nothing"}.${hint}`,
  );
}

function loadHint(error) {
  if (error?.code === "ERR_MODULE_NOT_FOUND" || error?.code === "MODULE_NOT_FOUND")
    return "\nBundle your dependencies into the function: nothing is installed for it" +
      " (for example: esbuild index.ts --bundle --platform=node --outfile=index.js).";
  return "";
}

function contextOf(id, deadline, settle) {
  const env = process.env;
  const name = env.AWS_LAMBDA_FUNCTION_NAME;
  return {
    callbackWaitsForEmptyEventLoop: true,
    functionName: name,
    functionVersion: env.AWS_LAMBDA_FUNCTION_VERSION,
    memoryLimitInMB: env.AWS_LAMBDA_FUNCTION_MEMORY_SIZE,
    awsRequestId: id,
    invokedFunctionArn: `arn:aws:lambda:local:000000000000:function:${name}`,
    logGroupName: env.AWS_LAMBDA_LOG_GROUP_NAME,
    logStreamName: env.AWS_LAMBDA_LOG_STREAM_NAME,
    getRemainingTimeInMillis: () => Math.max(0, deadline - Date.now()),
    done: (error, value) => settle(error, value),
    succeed: (value) => settle(null, value),
    fail: (error) => settle(error ?? new Error("The handler failed without an error.")),
  };
}

// Async handlers, callback handlers and plain synchronous ones all become one promise.
function run(handler, event, id, deadline) {
  return new Promise((resolve, reject) => {
    const settle = (error, value) => (error ? reject(error) : resolve(value));
    const result = handler(event, contextOf(id, deadline, settle), settle);
    if (typeof result?.then === "function") result.then(resolve, reject);
    else if (result !== undefined || handler.length < 2) resolve(result);
  });
}

async function answer(handler, event, id, deadline) {
  const value = await run(handler, event, id, deadline);
  const body = JSON.stringify(value === undefined ? null : value) ?? "null";
  const { status } = await call("POST", `/invocation/${id}/response`, {
    body,
    headers: { "Content-Type": "application/json" },
  }).catch(() => ({ status: 0 })); // refused half way: the server knows why and has logged it
  return status;
}

async function stream(handler, event, id, deadline) {
  const socket = await connect();
  const response = new ResponseStream(id, socket);
  response.on("error", () => {}); // a visitor who left is no crash
  const closed = new Promise((resolve) => response.on("close", resolve));
  try {
    await handler(event, response, contextOf(id, deadline, () => {}));
    await closed; // the handler may have left a pipe running
  } catch (error) {
    if (!response.destroyed) await report(error);
    response.destroy(error instanceof Error ? error : new Error(format(error)));
  }
  await response.answered;
}

async function main() {
  let handler;
  try {
    await Promise.all(JSON.parse(bridges).map(build));
    handler = await load();
  } catch (error) {
    await report(error, loadHint(error));
    process.exit(1);
  }
  started = true;
  for (;;) {
    const next = await call("GET", "/invocation/next").catch(() => process.exit(0));
    const id = next.headers["lambda-runtime-aws-request-id"];
    const deadline = Number(next.headers["lambda-runtime-deadline-ms"]);
    running = id;
    await invocations.run(id, async () => {
      try {
        await (handler[STREAMING] ? stream : answer)(handler, JSON.parse(next.body), id, deadline);
      } catch (error) {
        await report(error, error instanceof TypeError && looksLikeServer(handler) ? SERVER_HINT : "");
      }
    });
    running = null;
  }
}

await main();
