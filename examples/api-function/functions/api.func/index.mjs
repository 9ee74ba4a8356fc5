/**
 * A JSON API in one function: notes that live as long as this process does.
 *
 *   GET    /api/notes?tag=home    {"notes": [...]}; the tag may be repeated
 *   POST   /api/notes             201 {"id", "text", "tags"} from {"text", "tags"?}
 *   GET    /api/notes/<id>        the note; DELETE removes it
 *   GET    /api/request           what of this request a function sees
 *   POST   /api/digest            {"bytes", "sha256"} of the body, whatever its type
 *   GET    /api/pixel.png         a picture, sent as base64
 *   GET    /api/visits            counts visits in a cookie
 *   GET    /api/crash             fails, to see what visitors and the log are told
 *
 * Errors are {"error": {"message"}} with a fitting status.
 */
import { createHash, randomUUID } from "node:crypto";

const NOTES_MAX = 100;
const TEXT_CHARACTERS_MAX = 1_000;
const PIXEL =
  "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";

// Kept in the memory of one process: gone when it ends, and not shared when there are several.
const notes = new Map();

class Refusal extends Error {
  constructor(status, message, headers = {}) {
    super(message);
    this.status = status;
    this.headers = headers;
  }
}

export const handler = async (event, context) => {
  const request = readRequest(event);
  try {
    return await answer(request, event, context);
  } catch (error) {
    // Only what was foreseen is explained to visitors. The rest reaches the platform, which logs it
    // and answers 502.
    if (!(error instanceof Refusal)) throw error;
    return json(error.status, { error: { message: error.message } }, error.headers);
  }
};

/** Method, path, query and body, from either version of API Gateway's event. */
function readRequest(event) {
  const { http } = event.requestContext ?? {};
  const query = new URLSearchParams(event.rawQueryString ?? "");
  if (event.rawQueryString === undefined) {
    // Version 1.0 has no raw query, but a list of values for each name.
    for (const [name, values] of Object.entries(event.multiValueQueryStringParameters ?? {})) {
      for (const value of values) query.append(name, value);
    }
  }
  return {
    method: http?.method ?? event.httpMethod,
    path: event.rawPath ?? event.path,
    query,
    body: Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8"),
  };
}

function answer(request, event, context) {
  const [, , name, id, ...rest] = request.path.split("/");
  const route = rest.length ? undefined : ROUTES[id === undefined ? name : `${name}/*`];
  if (!route) throw new Refusal(404, `There is nothing at ${request.path}.`);
  const act = route[request.method === "HEAD" ? "GET" : request.method];
  if (!act) {
    const allow = Object.keys(route).join(", ");
    throw new Refusal(405, `Use one of these methods here: ${allow}.`, { allow });
  }
  return act({ ...request, id }, event, context);
}

const ROUTES = {
  notes: { GET: listNotes, POST: addNote },
  "notes/*": { GET: showNote, DELETE: removeNote },
  request: { GET: showRequest },
  digest: { POST: digestBody },
  "pixel.png": { GET: sendPixel },
  visits: { GET: countVisits },
  crash: { GET: crash },
};

function listNotes({ query }) {
  const tags = query.getAll("tag");
  const found = [...notes.values()].filter((note) => tags.every((tag) => note.tags.includes(tag)));
  return json(200, { notes: found });
}

function addNote({ body }) {
  const { text, tags = [] } = readJson(body);
  if (typeof text !== "string" || !text || text.length > TEXT_CHARACTERS_MAX) {
    throw new Refusal(422, `"text" must have 1 to ${TEXT_CHARACTERS_MAX} characters.`);
  }
  if (!Array.isArray(tags) || !tags.every((tag) => typeof tag === "string")) {
    throw new Refusal(422, '"tags" must be a list of texts.');
  }
  if (notes.size >= NOTES_MAX) throw new Refusal(409, `There are ${NOTES_MAX} notes: delete some.`);
  const note = { id: randomUUID(), text, tags };
  notes.set(note.id, note);
  console.log(`Note ${note.id} added; there are ${notes.size} now.`);
  return json(201, note, { location: `/api/notes/${note.id}` });
}

function showNote({ id }) {
  return json(200, findNote(id));
}

function removeNote({ id }) {
  notes.delete(findNote(id).id);
  return { statusCode: 204 };
}

function findNote(id) {
  const note = notes.get(id);
  if (!note) throw new Refusal(404, `There is no note ${id}.`);
  return note;
}

function showRequest({ method, path, query }, event, context) {
  const { headers, cookies, version, isBase64Encoded } = event;
  return json(200, {
    version,
    method,
    path,
    query: [...query],
    headers,
    cookies,
    isBase64Encoded,
    sourceIp: (event.requestContext.http ?? event.requestContext.identity).sourceIp,
    requestId: context.awsRequestId,
    remainingMs: context.getRemainingTimeInMillis(),
  });
}

function digestBody({ body }) {
  const sha256 = createHash("sha256").update(body).digest("hex");
  return json(200, { bytes: body.length, sha256 });
}

function sendPixel() {
  return {
    statusCode: 200,
    headers: { "content-type": "image/png", "cache-control": "max-age=3600" },
    body: PIXEL,
    isBase64Encoded: true,
  };
}

function countVisits(_, event) {
  const sent = (event.cookies ?? []).find((cookie) => cookie.startsWith("visits="));
  const visits = (Number.parseInt(sent?.slice("visits=".length), 10) || 0) + 1;
  return {
    ...json(200, { visits }),
    // Headers that repeat: cookies in `cookies`, others in `multiValueHeaders`.
    cookies: [`visits=${visits}; Path=/api; HttpOnly; SameSite=Lax`, "seen=yes; Path=/api"],
    multiValueHeaders: { link: ['</api/notes>; rel="related"', '</api/request>; rel="help"'] },
  };
}

function crash() {
  throw new Error("This went wrong on purpose.");
}

function readJson(body) {
  try {
    const value = JSON.parse(body.toString("utf8"));
    if (value && typeof value === "object") return value;
  } catch {
    // Answered below: not JSON at all is as wrong as a number.
  }
  throw new Refusal(400, "The body must be a JSON object.");
}

function json(statusCode, value, headers = {}) {
  return {
    statusCode,
    headers: { "content-type": "application/json", ...headers },
    body: JSON.stringify(value),
  };
}
