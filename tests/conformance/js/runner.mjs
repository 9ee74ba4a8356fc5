// Runs JavaScript clients for the Python tests: one JSON line in, one JSON line out.
// In: {id, client, method, arguments, url, key}. Out: {id, value} or {id, error: {name, status, message}}.
import { createInterface } from "node:readline";
import { aiSdk } from "./ai_sdk.mjs";
import { Chat, Responses } from "./openai_npm.mjs";

const makers = {
  "openai-chat": (url, key) => new Chat(url, key),
  "openai-responses": (url, key) => new Responses(url, key),
};
for (const major of [5, 6, 7]) {
  for (const endpoint of ["chat", "responses"]) {
    makers[`ai-${major}-${endpoint}`] = (url, key) => aiSdk(major, endpoint, url, key);
  }
}

async function run({ client, method, arguments: given, url, key }) {
  const made = await makers[client](url, key);
  return made[method](...given);
}

function describe(error) {
  const status = error.statusCode ?? error.status ?? null;
  const name = error.constructor?.name ?? "Error";
  // Errors inside a stream may come as the event itself.
  const message = String(error.message ?? error.error?.message ?? JSON.stringify(error));
  return { name, status, message, stack: String(error.stack) };
}

// Standard output is for answers; libraries print warnings there.
console.log = console.info = console.warn = console.error;

// An abandoned stream's promises fail on their own; the test looks at what was billed.
process.on("unhandledRejection", () => {});

for await (const line of createInterface({ input: process.stdin })) {
  const asked = JSON.parse(line);
  const answer = await run(asked).then(
    (value) => ({ id: asked.id, value: value ?? null }),
    (error) => ({ id: asked.id, error: describe(error) }),
  );
  process.stdout.write(JSON.stringify(answer) + "\n");
}
