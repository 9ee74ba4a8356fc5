// openai for Node: chat completions and responses, by its stream helpers and parsers.
import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { jsonSchema, schema, STEPS_MAX, weather } from "./weather.mjs";

const FUNCTION = { name: "get_weather", description: "Weather.", parameters: jsonSchema, strict: true };

class Client {
  constructor(url, key) {
    const options = { baseURL: `${url}/v1`, apiKey: key, maxRetries: 0, timeout: 60_000 };
    this.client = new OpenAI(options);
  }

  async ask(question) {
    return (await this.loop(question, false)).at(-1);
  }

  async stream(question) {
    return (await this.loop(question, true)).at(-1);
  }
}

export class Chat extends Client {
  async loop(question, isStream) {
    const messages = [chatMessage(question)];
    const answers = [];
    while (answers.length < STEPS_MAX) {
      const [completion, pieces] = await this.call(question, messages, isStream);
      const { message } = completion.choices[0];
      answers.push(chatAnswer(completion, pieces));
      const made = message.tool_calls ?? [];
      if (made.length === 0) break;
      messages.push({ role: "assistant", content: message.content, tool_calls: made.map(bareCall) });
      for (const call of made) {
        const content = weather(JSON.parse(call.function.arguments));
        messages.push({ role: "tool", tool_call_id: call.id, content });
      }
    }
    return answers;
  }

  async call(question, messages, isStream) {
    const body = { ...chatOptions(question), messages };
    if (!isStream) return [await this.client.chat.completions.create(body), 0];
    let pieces = 0;
    const stream = this.client.chat.completions.stream({
      ...body,
      stream_options: { include_usage: true },
    });
    stream.on("content", () => (pieces += 1));
    return [await stream.finalChatCompletion().catch(whenTooLong(stream)), pieces];
  }

  async parse(question) {
    const completion = await this.client.chat.completions.parse({
      model: question.model,
      messages: [chatMessage(question)],
      response_format: zodResponseFormat(schema, "weather"),
    });
    return completion.choices[0].message.parsed;
  }

  async leave(question) {
    const body = { ...chatOptions(question), messages: [chatMessage(question)], stream: true };
    for await (const chunk of await this.client.chat.completions.create(body)) {
      if (chunk.choices[0]?.delta.content) break;
    }
  }
}

// The helper's word for an answer cut short.
function whenTooLong(stream) {
  return (error) => {
    if (error.constructor.name !== "LengthFinishReasonError") throw error;
    return stream.currentChatCompletionSnapshot;
  };
}

// Without what the stream helper adds: OpenAI refuses members it does not know.
const bareCall = ({ id, type, function: { name, arguments: text } }) => ({
  id,
  type,
  function: { name, arguments: text },
});

function chatMessage({ prompt, image }) {
  const content = [{ type: "text", text: prompt }];
  if (image) content.push({ type: "image_url", image_url: { url: image } });
  return { role: "user", content };
}

function chatOptions(question) {
  const options = { model: question.model };
  if (question.tokens_max) options.max_completion_tokens = question.tokens_max;
  if (question.effort) options.reasoning_effort = question.effort;
  if (question.uses_tools) options.tools = [{ type: "function", function: FUNCTION }];
  return options;
}

function chatAnswer(completion, pieces) {
  const [{ message, finish_reason: finish }] = completion.choices;
  return {
    text: message.content ?? "",
    pieces,
    finish,
    input_tokens: completion.usage.prompt_tokens,
    output_tokens: completion.usage.completion_tokens,
    calls: (message.tool_calls ?? []).map(({ function: made }) => [
      made.name,
      JSON.parse(made.arguments),
    ]),
    reasoning: message.reasoning_content ?? "",
  };
}

export class Responses extends Client {
  // Whole: everything replayed. Streamed: by previous_response_id.
  async loop(question, isStream) {
    let input = responsesInput(question);
    let previous = null;
    const answers = [];
    while (answers.length < STEPS_MAX) {
      const state = isStream ? { previous_response_id: previous } : {};
      const [response, pieces] = await this.call({ ...responsesOptions(question), input, ...state }, isStream);
      answers.push(responsesAnswer(response, pieces));
      const outputs = response.output.filter((item) => item.type === "function_call").map(outputOf);
      if (outputs.length === 0) break;
      previous = response.id;
      input = isStream ? outputs : [...input, ...response.output.map(bareItem), ...outputs];
    }
    return answers;
  }

  async call(body, isStream) {
    if (!isStream) return [await this.client.responses.create(body), 0];
    let pieces = 0;
    const stream = this.client.responses.stream(body);
    stream.on("response.output_text.delta", () => (pieces += 1));
    return [await stream.finalResponse(), pieces];
  }

  async parse(question) {
    const response = await this.client.responses.parse({
      model: question.model,
      input: question.prompt,
      text: { format: zodTextFormat(schema, "weather") },
    });
    return response.output_parsed;
  }

  async leave(question) {
    const body = { ...responsesOptions(question), input: question.prompt, stream: true };
    for await (const event of await this.client.responses.create(body)) {
      if (event.type === "response.output_text.delta") break;
    }
  }
}

const bareItem = ({ parsed_arguments: _, ...item }) => item;

const outputOf = (item) => ({
  type: "function_call_output",
  call_id: item.call_id,
  output: weather(JSON.parse(item.arguments)),
});

function responsesInput({ prompt, image }) {
  const content = [{ type: "input_text", text: prompt }];
  if (image) content.push({ type: "input_image", image_url: image, detail: "auto" });
  return [{ role: "user", content }];
}

function responsesOptions(question) {
  const options = { model: question.model };
  if (question.tokens_max) options.max_output_tokens = question.tokens_max;
  if (question.effort) options.reasoning = { effort: question.effort, summary: "auto" };
  if (question.uses_tools) options.tools = [{ type: "function", ...FUNCTION }];
  return options;
}

function responsesAnswer(response, pieces) {
  const texts = response.output.filter((item) => item.type === "message");
  return {
    text: texts.flatMap((item) => item.content.map((part) => part.text)).join(""),
    pieces,
    finish: response.incomplete_details?.reason ?? response.status,
    input_tokens: response.usage.input_tokens,
    output_tokens: response.usage.output_tokens,
    calls: response.output
      .filter((item) => item.type === "function_call")
      .map((item) => [item.name, JSON.parse(item.arguments)]),
    reasoning: response.output
      .flatMap((item) => item.summary ?? [])
      .map((part) => part.text)
      .join(""),
  };
}
