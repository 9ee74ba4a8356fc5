// A streaming function. GET /api/ticks?count=5 sends that many server-sent events, one at a time.
import { setTimeout as pause } from "node:timers/promises";

const COUNT_MAX = 50;
const PAUSE_MS = 200;

export const handler = awslambda.streamifyResponse(async (event, responseStream) => {
  const asked = Number(event.queryStringParameters?.count ?? 5);
  const isRight = Number.isInteger(asked) && asked >= 1 && asked <= COUNT_MAX;
  // Status and headers go out with the first piece that is written.
  const response = awslambda.HttpResponseStream.from(responseStream, {
    statusCode: isRight ? 200 : 400,
    headers: {
      "content-type": isRight ? "text/event-stream" : "text/plain",
      "cache-control": "no-store",
    },
  });
  if (isRight) await tick(asked, response);
  else response.write(`"count" must be a whole number from 1 to ${COUNT_MAX}.\n`);
  response.end();
});

async function tick(count, response) {
  for (let number = 1; number <= count; number += 1) {
    if (response.destroyed) return; // the visitor left
    response.write(`data: ${JSON.stringify({ number, of: count })}\n\n`);
    await pause(PAUSE_MS);
  }
}
