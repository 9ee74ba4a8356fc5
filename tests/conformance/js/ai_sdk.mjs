// Vercel AI SDK, each major version with the provider package that belongs to it.
import { inputSchema, schema, STEPS_MAX, weather } from "./weather.mjs";

const PROVIDERS = { 5: "ai-sdk-openai-2", 6: "ai-sdk-openai-3", 7: "ai-sdk-openai-4" };

export async function aiSdk(major, endpoint, url, key) {
  const [ai, { createOpenAI }] = await Promise.all([
    import(`ai-${major}`),
    import(PROVIDERS[major]),
  ]);
  const sent = [];
  const watched = (address, request) => {
    sent.push(JSON.parse(request.body));
    return fetch(address, request);
  };
  const openai = createOpenAI({ baseURL: `${url}/v1`, apiKey: key, fetch: watched });
  // `openai(name)` is what most people write: it calls /responses.
  return new AiSdk(ai, endpoint === "chat" ? openai.chat : openai, sent);
}

class AiSdk {
  constructor(ai, model, sent) {
    this.ai = ai;
    this.model = model;
    this.sent = sent;
  }

  async ask(question) {
    return (await this.loop(question, false)).at(-1);
  }

  async stream(question) {
    return (await this.loop(question, true)).at(-1);
  }

  async loop(question, isStream) {
    if (!isStream) return this.answersOf((await this.ai.generateText(this.options(question))).steps);
    let pieces = 0;
    const result = this.ai.streamText({ ...this.options(question), onError: () => {} });
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta") pieces += 1;
    }
    const answers = this.answersOf(await result.steps);
    answers.at(-1).pieces = pieces;
    return answers;
  }

  async parse(question) {
    const { object } = await this.ai.generateObject({ ...this.options(question), schema });
    return object;
  }

  async leave(question) {
    const controller = new AbortController();
    const result = this.ai.streamText({
      ...this.options(question),
      abortSignal: controller.signal,
      onError: () => {},
    });
    for await (const part of result.fullStream) {
      if (part.type === "error") throw part.error;
      if (part.type === "text-delta") break;
    }
    controller.abort();
  }

  options(question) {
    const content = [{ type: "text", text: question.prompt }];
    if (question.image) content.push({ type: "image", image: question.image });
    const options = {
      model: this.model(question.model),
      messages: [{ role: "user", content }],
      maxRetries: 0,
      abortSignal: AbortSignal.timeout(60_000),
    };
    if (question.tokens_max) options.maxOutputTokens = question.tokens_max;
    const openai = {};
    if (question.effort) {
      const wanted = { reasoningEffort: question.effort, reasoningSummary: "auto" };
      Object.assign(openai, wanted, { forceReasoning: true });
    }
    if (!question.is_kept) openai.store = false;
    options.providerOptions = { openai };
    if (question.uses_tools) {
      const get_weather = { description: "Weather.", inputSchema, execute: weather };
      options.tools = { get_weather: this.ai.tool(get_weather) };
      options.stopWhen = this.ai.stepCountIs(STEPS_MAX);
    }
    return options;
  }

  answersOf(steps) {
    return steps.map((step, number) => ({
      text: step.text,
      finish: step.finishReason,
      input_tokens: step.usage.inputTokens,
      output_tokens: step.usage.outputTokens,
      calls: step.toolCalls.map((call) => [call.toolName, call.input]),
      reasoning: step.reasoningText ?? "",
      references: referencesIn(this.sent[number]),
    }));
  }
}

// How many items a request names by their ids alone.
function referencesIn({ input }) {
  return Array.isArray(input) ? input.filter((item) => item.type === "item_reference").length : 0;
}
