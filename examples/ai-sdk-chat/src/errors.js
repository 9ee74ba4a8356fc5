/** What goes wrong, and what people are told of it. */
import { APICallError, RetryError } from "ai";

const CHARACTERS_MAX = 500;

/** A failure with the HTTP status to answer; its message is shown to the person. */
export class Refusal extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** A message for people. */
export function tell(error) {
  return explain(error) ?? "The answer broke off. Please try again.";
}

/** To the deployment's log: a line if this was foreseen, else everything there is to know. */
export function log(error) {
  console.error(explain(error) ?? error);
}

/** In words, what was foreseen. What the gateway says is written for people. */
function explain(error) {
  if (RetryError.isInstance(error)) return explain(error.lastError);
  if (error instanceof Refusal) return error.message;
  if (APICallError.isInstance(error)) {
    return error.responseBody ? messageOf(error.responseBody) : error.message;
  }
  if (error?.name === "AI_StreamProviderError") return error.message; // within a stream
  if (error?.name === "TimeoutError") return "The model took too long to answer.";
  if (error?.name === "RangeError") return error.message; // of a tool: the model may try again
  return undefined;
}

/** What an error body of the OpenAI shape says, else its text, shortened. */
export function messageOf(text) {
  let message;
  try {
    message = JSON.parse(text).error?.message;
  } catch {
    // Not JSON: an answer of something between us and the gateway; its text has to do.
  }
  return String(message || text || "The gateway gave no reason.").slice(0, CHARACTERS_MAX);
}
