/**
 * The server side: the AI SDK, used as its documentation shows, in a function that streams.
 *
 *   GET  /api/models  {"models": [{"id", "note"}], "default"}
 *   POST /api/chat    {"messages": [UIMessage, ...], "model"} answers with the AI SDK's UI message
 *                     stream, which `useChat` reads
 *
 * `openai` finds the gateway by itself: the platform sets OPENAI_API_KEY and OPENAI_BASE_URL when a
 * key is provisioned. `openai("claude-sonnet-4.5")` is right: the gateway serves every model there.
 * Two more variables may be set: DEFAULT_MODEL, and ANSWER_TOKENS_MAX.
 */
import { Readable } from "node:stream";
import { pipeline } from "node:stream/promises";
import { openai } from "@ai-sdk/openai";
import {
  convertToModelMessages,
  createUIMessageStreamResponse,
  isStepCount,
  streamText,
  toUIMessageStream,
} from "ai";
import { chatModels, preferredOf } from "./models.js";
import { clock } from "./tools.js";
import { Refusal, log, tell } from "./errors.js";

const INSTRUCTIONS = "You are a helpful assistant. Answer briefly.";
const MESSAGES_SENT_MAX = 20;
const MESSAGE_BYTES_MAX = 20_000; // as JSON; the page itself takes 8,000 characters
// The small local model rambles, and on a busy laptop more would not fit in a function's 30 s.
const SMALL_ANSWER_TOKENS_MAX = 300;
const ANSWER_TOKENS_MAX = 4_096; // room for models that think before they write
const STEPS_MAX = 3; // a tool call, its result, and one more try
// Kept back from the function's time, so that a slow answer ends with a message, not a cut.
const SPARE_MS = 1_000;

export const handler = awslambda.streamifyResponse(async (event, responseStream, context) => {
  // "close" before the end means that the visitor left or pressed Stop: no more tokens then.
  const gone = new AbortController();
  responseStream.on("close", () => gone.abort());
  let response;
  try {
    response = await answer(event, context, gone.signal);
  } catch (error) {
    log(error);
    const status = error instanceof Refusal ? error.status : 502;
    response = Response.json({ error: { message: tell(error) } }, { status });
  }
  await send(response, responseStream).catch((error) => {
    if (!gone.signal.aborted) throw error;
  });
});

function answer(event, context, gone) {
  const { method } = event.requestContext.http;
  switch (`${method} ${event.rawPath}`) {
    case "GET /api/models":
      return listModels();
    case "POST /api/chat":
      return chat(readConversation(event), context, gone);
    default:
      throw new Refusal(404, `There is nothing to ${method} at ${event.rawPath}.`);
  }
}

async function listModels() {
  const models = await chatModels();
  return Response.json({
    models: models.map(({ id, note }) => ({ id, note })),
    default: preferredOf(models),
  });
}

async function chat({ messages, model }, context, gone) {
  const known = (await chatModels()).find(({ id }) => id === model);
  if (!known) throw new Refusal(404, `There is no model "${model}" here.`);
  const time = AbortSignal.timeout(Math.max(context.getRemainingTimeInMillis() - SPARE_MS, 1));
  const result = streamText({
    model: openai(model),
    instructions: INSTRUCTIONS,
    messages: await convertToModelMessages(latestOf(messages)),
    tools: known.usesTools ? { clock } : undefined,
    stopWhen: isStepCount(STEPS_MAX),
    maxOutputTokens: answerTokensMax(known),
    // The page keeps the conversation and sends all of it. Otherwise the SDK would refer to earlier
    // answers by id, and one that was stopped half way is kept nowhere.
    providerOptions: { openai: { store: false } },
    abortSignal: AbortSignal.any([gone, time]),
    onError: ({ error }) => log(error),
  });
  const stream = toUIMessageStream({
    stream: result.stream,
    messageMetadata: ({ part }) => metadataOf(part, model),
    onError: tell,
  });
  return createUIMessageStreamResponse({
    headers: { "cache-control": "no-store" },
    stream: stream.pipeThrough(withReason(time)),
  });
}

/** The end of the conversation, beginning with something asked. */
function latestOf(messages) {
  const latest = messages.slice(-MESSAGES_SENT_MAX);
  return latest.slice(latest.findIndex(({ role }) => role === "user"));
}

/** An answer that was cut for its time is a failure, which the SDK would only call aborted. */
function withReason(time) {
  return new TransformStream({
    transform(chunk, controller) {
      const isLate = chunk.type === "abort" && time.aborted;
      controller.enqueue(isLate ? { type: "error", errorText: tell(time.reason) } : chunk);
    },
  });
}

function answerTokensMax({ isSmall }) {
  const usual = isSmall ? SMALL_ANSWER_TOKENS_MAX : ANSWER_TOKENS_MAX;
  return Math.min(Number(process.env.ANSWER_TOKENS_MAX) || usual, usual);
}

/** What the page shows below an answer. */
function metadataOf(part, model) {
  if (part.type === "start") return { model };
  if (part.type === "finish") return { tokens: part.totalUsage.totalTokens };
  return undefined;
}

function readConversation(event) {
  const { messages, model } = readJson(event);
  if (typeof model !== "string") throw new Refusal(400, '"model" must name a model.');
  if (!Array.isArray(messages) || !messages.length || !messages.every(isMessage)) {
    throw new Refusal(400, '"messages" must be a list of UI messages with "role" and "parts".');
  }
  const asked = messages.filter(({ role }) => role === "user");
  if (asked.some(({ parts }) => JSON.stringify(parts).length > MESSAGE_BYTES_MAX)) {
    throw new Refusal(413, "This message is too long.");
  }
  return { messages, model };
}

function isMessage(message) {
  return ["user", "assistant"].includes(message?.role) && Array.isArray(message.parts);
}

function readJson(event) {
  try {
    const body = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8");
    return JSON.parse(body.toString("utf8")) ?? {};
  } catch {
    throw new Refusal(400, "The body must be JSON.");
  }
}

/** A web Response, piece by piece, as the answer of the function. */
async function send(response, responseStream) {
  const body = awslambda.HttpResponseStream.from(responseStream, {
    statusCode: response.status,
    headers: Object.fromEntries(response.headers),
  });
  await pipeline(Readable.fromWeb(response.body), body);
}
