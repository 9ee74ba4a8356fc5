/**
 * The server side of the chat: relays a conversation to the AI gateway and its answer, piece by
 * piece, to the browser. The gateway key stays here; the page never sees it.
 *
 *   GET  /api/models  {"models": [{"id": "smollm2-135m", "ready": true}, ...],
 *                      "default": "smollm2-135m"}
 *   POST /api/chat    {"messages": [{"role", "content"}, ...], "model"?}
 *                     answers with server-sent events:
 *                       data: {"text": "..."}    a piece of the answer
 *                       data: {"error": "..."}   it broke off; nothing follows
 *                       data: {"done": true}     it is complete
 *
 * A failure before the first piece has its own status and the body {"error": {"message"}}.
 *
 * Environment (set by the platform when a key is provisioned): OPENAI_API_KEY, OPENAI_BASE_URL.
 * ANSWER_TOKENS_MAX may be set, too: it makes answers shorter.
 */

const DEFAULT_MODEL = "smollm2-135m";
const MESSAGES_MAX = 100;
const MESSAGES_SENT_MAX = 12; // the small local model has a short memory
const CHARACTERS_MAX = 8_000; // of one message
// The small local model rambles, and on a busy laptop more would not fit in a function's 30 s.
const LOCAL_ANSWER_TOKENS_MAX = 300;
const ANSWER_TOKENS_MAX = 4_096; // room for models that think before they write
const EVENT_CHARACTERS_MAX = 1_000_000;
const MODELS_TIMEOUT_MS = 10_000;
// Kept back from the function's time, so that a slow answer ends with a message, not a cut.
const SPARE_MS = 1_000;
const ROLES = new Set(["system", "user", "assistant"]);

/** A failure with the HTTP status to answer; its message is shown to the person. */
class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const handler = awslambda.streamifyResponse(async (event, responseStream, context) => {
  const reply = new Reply(responseStream);
  try {
    await answer(event, reply, context);
  } catch (error) {
    reply.fail(error);
  }
  reply.end();
});

/** The one answer of an invocation: its status and headers go out with the first piece. */
class Reply {
  constructor(stream) {
    this.raw = stream;
    this.body = null;
    // "close" before our own end means that the browser is gone: stop paying for tokens then.
    this.gone = new AbortController();
    stream.on?.("close", () => this.gone.abort());
    // Writing to a browser that left is no fault of the function.
    stream.on?.("error", () => this.gone.abort());
  }

  start(statusCode, contentType) {
    this.body = awslambda.HttpResponseStream.from(this.raw, {
      statusCode,
      headers: { "content-type": contentType, "cache-control": "no-store" },
    });
  }

  json(statusCode, value) {
    this.start(statusCode, "application/json");
    this.body.write(JSON.stringify(value));
  }

  event(value) {
    this.body.write(`data: ${JSON.stringify(value)}\n\n`);
  }

  fail(error) {
    if (this.gone.signal.aborted) return;
    const message = readable(error);
    // What the person is told is enough for what was foreseen; a stack trace is for the rest.
    if (error.name === "TimeoutError") console.error(message);
    else if (!(error instanceof Refusal)) console.error(error);
    if (this.body) this.event({ error: message });
    else this.json(error.status ?? 502, { error: { message } });
  }

  end() {
    (this.body ?? this.raw).end();
  }
}

async function answer(event, reply, context) {
  const method = event.requestContext?.http?.method ?? event.httpMethod;
  const path = event.rawPath ?? event.path;
  if (path === "/api/models") {
    requireMethod(method, "GET");
    reply.json(200, await listModels());
  } else if (path === "/api/chat") {
    requireMethod(method, "POST");
    await chat(readBody(event), reply, context);
  } else {
    throw new Refusal(404, `There is nothing at ${path}.`);
  }
}

async function chat(body, reply, context) {
  const { messages, model } = readConversation(body);
  const milliseconds = Math.max(context.getRemainingTimeInMillis() - SPARE_MS, 1);
  const usual = model === DEFAULT_MODEL ? LOCAL_ANSWER_TOKENS_MAX : ANSWER_TOKENS_MAX;
  const tokens = Math.min(Number(process.env.ANSWER_TOKENS_MAX) || usual, usual);
  const upstream = await callGateway("/chat/completions", {
    method: "POST",
    body: JSON.stringify({ model, messages, stream: true, max_tokens: tokens }),
    signal: AbortSignal.any([reply.gone.signal, AbortSignal.timeout(milliseconds)]),
  });
  reply.start(200, "text/event-stream; charset=utf-8");
  for await (const text of readDeltas(upstream.body)) reply.event({ text });
  reply.event({ done: true });
}

async function listModels() {
  const upstream = await callGateway("/models", { signal: AbortSignal.timeout(MODELS_TIMEOUT_MS) });
  const { data = [] } = await upstream.json();
  const models = data
    // Models for embeddings are listed, too.
    .filter(({ id, capabilities = ["chat"] }) => id && capabilities.includes("chat"))
    // A model whose provider has no credentials yet is listed, but every call would be refused.
    .map(({ id, status }) => ({ id, ready: status !== "provider_not_configured" }));
  const ready = models.filter((model) => model.ready).map((model) => model.id);
  return { models, default: ready.includes(DEFAULT_MODEL) ? DEFAULT_MODEL : (ready[0] ?? null) };
}

/** A 2xx response of the gateway, or a Refusal that says what it said. */
async function callGateway(path, options) {
  const { OPENAI_API_KEY: key, OPENAI_BASE_URL: baseUrl } = process.env;
  if (!key || !baseUrl) {
    throw new Refusal(
      503,
      "This app has no AI key yet. Give it one: " +
        "python -m deployments.cli key provision --redeploy",
    );
  }
  const upstream = await fetch(`${baseUrl.replace(/\/+$/, "")}${path}`, {
    ...options,
    headers: { authorization: `Bearer ${key}`, "content-type": "application/json" },
  });
  if (!upstream.ok) {
    throw new Refusal(upstream.status, messageOf(await upstream.text(), upstream.status));
  }
  return upstream;
}

/** The text pieces of an OpenAI chat stream. Throws a Refusal if the stream reports an error. */
async function* readDeltas(stream) {
  for await (const data of readEvents(stream)) {
    if (data === "[DONE]") return;
    const chunk = JSON.parse(data);
    if (chunk.error) throw new Refusal(502, messageOf(data, 502));
    const text = chunk.choices?.[0]?.delta?.content;
    if (text) yield text;
  }
  // Without [DONE] the connection broke: half an answer must not look like a whole one.
  throw new Refusal(502, "The answer broke off. Please try again.");
}

/** The `data` of each server-sent event, however its bytes are cut into pieces. */
async function* readEvents(stream) {
  const decoder = new TextDecoder(); // keeps a character that is split between two pieces
  let rest = "";
  for await (const piece of stream) {
    rest += decoder.decode(piece, { stream: true });
    if (rest.length > EVENT_CHARACTERS_MAX) throw new Refusal(502, "The answer is malformed.");
    const lines = rest.split(/\r?\n/);
    rest = lines.pop();
    for (const line of lines) {
      // OpenAI's wire has one data line an event; comments and empty lines are skipped.
      if (line.startsWith("data:")) yield line.slice("data:".length).trim();
    }
  }
}

function requireMethod(method, expected) {
  if (method !== expected) throw new Refusal(405, `Use ${expected} here.`);
}

function readBody(event) {
  const encoding = event.isBase64Encoded ? "base64" : "utf8";
  try {
    return JSON.parse(Buffer.from(event.body ?? "", encoding).toString("utf8"));
  } catch {
    throw new Refusal(400, "The request body must be JSON.");
  }
}

function readConversation(body) {
  const { messages, model = DEFAULT_MODEL } = body ?? {};
  if (!Array.isArray(messages) || messages.length < 1 || messages.length > MESSAGES_MAX) {
    throw new Refusal(400, `"messages" must be a list of 1 to ${MESSAGES_MAX} messages.`);
  }
  if (typeof model !== "string") throw new Refusal(400, '"model" must be text.');
  for (const { role, content } of messages.map((message) => message ?? {})) {
    if (!ROLES.has(role) || typeof content !== "string") {
      throw new Refusal(400, 'Each message needs a "role" and a "content" that is text.');
    }
    if (content.length > CHARACTERS_MAX) {
      throw new Refusal(413, `A message may have at most ${CHARACTERS_MAX} characters.`);
    }
  }
  const latest = messages.slice(-MESSAGES_SENT_MAX);
  return { messages: latest.map(({ role, content }) => ({ role, content })), model };
}

/** What an error body of the OpenAI shape says, else its text, shortened. */
function messageOf(text, status) {
  let message;
  try {
    message = JSON.parse(text).error?.message;
  } catch {
    // Not JSON: an answer of something between us and the gateway; its text has to do.
  }
  return String(message || text || `The gateway answered ${status}.`).slice(0, 500);
}

function readable(error) {
  if (error instanceof Refusal) return error.message;
  if (error.name === "TimeoutError") return "The model took too long to answer.";
  return "The AI gateway cannot be reached.";
}
