/** The models that this deployment's key may use, as the gateway lists them. */
import { Refusal, messageOf } from "./errors.js";

const SMALL = "smollm2-135m"; // the local model, which needs no account
const FRESH_MS = 60_000;
const TIMEOUT_MS = 10_000;
const NOTES = {
  stand_in: "stand-in",
  provider_not_configured: "not configured",
};

let kept = { models: [], until: 0 };

/**
 * [{id, note, isReady, usesTools, isSmall}] of the models that chat; asked for once a minute.
 * `note` says what a person should know before choosing it. Throws a Refusal.
 */
export async function chatModels() {
  if (Date.now() < kept.until) return kept.models;
  const { data = [] } = await askGateway();
  const models = data.filter(({ capabilities = ["chat"] }) => capabilities.includes("chat"));
  kept = { models: models.map(describe), until: Date.now() + FRESH_MS };
  return kept.models;
}

/** The one to begin with: DEFAULT_MODEL, else the local model, else the first that is ready. */
export function preferredOf(models) {
  const ready = models.filter(({ isReady }) => isReady);
  const wanted = ready.find(({ id }) => id === process.env.DEFAULT_MODEL);
  return (wanted ?? ready.find(({ isSmall }) => isSmall) ?? ready[0])?.id ?? null;
}

function describe({ id, status, capabilities = [] }) {
  return {
    id,
    note: NOTES[status] ?? "",
    isReady: status !== "provider_not_configured",
    usesTools: capabilities.includes("tools"),
    isSmall: id === SMALL,
  };
}

async function askGateway() {
  const { OPENAI_API_KEY: key, OPENAI_BASE_URL: baseUrl } = process.env;
  if (!key || !baseUrl) {
    throw new Refusal(
      503,
      "This app has no AI key yet. Provision one for it and deploy again: " +
        "python -m deployments.cli deploy --provision",
    );
  }
  const response = await fetch(`${baseUrl.replace(/\/+$/, "")}/models`, {
    headers: { authorization: `Bearer ${key}` },
    signal: AbortSignal.timeout(TIMEOUT_MS),
  });
  if (!response.ok) throw new Refusal(response.status, messageOf(await response.text()));
  return response.json();
}
