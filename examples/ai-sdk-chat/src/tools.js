/** What the model may call. The AI SDK runs it and gives the model the result in a second step. */
import { jsonSchema, tool } from "ai";

/** The time of day somewhere, since a model cannot know it. */
export const clock = tool({
  description: "The current date and time in a time zone.",
  inputSchema: jsonSchema({
    type: "object",
    properties: {
      timeZone: { type: "string", description: 'An IANA name, for instance "Europe/Paris".' },
    },
    required: ["timeZone"],
    additionalProperties: false,
  }),
  execute: ({ timeZone }) => ({ timeZone, time: timeIn(timeZone) }),
});

/** Throws a RangeError with a readable message when there is no such time zone. */
function timeIn(timeZone) {
  const format = new Intl.DateTimeFormat("en-GB", {
    dateStyle: "full",
    timeStyle: "short",
    timeZone,
  });
  return format.format(new Date());
}
