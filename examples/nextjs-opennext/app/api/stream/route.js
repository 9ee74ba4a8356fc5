import { setTimeout as pause } from "node:timers/promises";

const WORDS = "These words are sent one by one, as the server writes them.".split(" ");
const PAUSE_MS = 150;

// A streaming answer: each word leaves the server when it is written, not when all are there.
export function GET() {
  const encoder = new TextEncoder();
  async function* write() {
    for (const word of WORDS) {
      yield encoder.encode(`${word} `);
      await pause(PAUSE_MS);
    }
  }
  return new Response(ReadableStream.from(write()), {
    headers: { "content-type": "text/plain; charset=utf-8", "cache-control": "no-store" },
  });
}
