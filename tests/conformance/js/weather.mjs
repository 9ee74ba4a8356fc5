// The tool and the object that every client here offers and asks for.
import { z } from "zod";

export const STEPS_MAX = 4;
export const schema = z.object({ city: z.enum(["Paris", "Rome"]), celsius: z.number().int() });
export const inputSchema = z.object({ city: z.string() });
export const jsonSchema = {
  type: "object",
  properties: { city: { type: "string" } },
  required: ["city"],
  additionalProperties: false,
};
export const weather = ({ city }) => `It is sunny in ${city}.`;
