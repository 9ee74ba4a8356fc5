/**
 * The page of the chat: keeps the conversation, sends it to /api/chat and shows the answer as it
 * arrives. Answers are put in as text, never as HTML: what a model writes is not to be trusted.
 */
const page = Object.fromEntries(
  ["composer", "conversation", "error", "error-text", "input", "messages", "model", "reset", "retry",
    "send", "welcome"].map((id) => [id, document.getElementById(id)]),
);

let turns = []; // [{role: "user" | "assistant", content}], as the model is given it
let streaming = null; // the AbortController of the answer in progress

// --- Talking to the function ---

async function loadModels() {
  try {
    const response = await fetch("/api/models");
    if (!response.ok) throw new Error(await readError(response));
    const { models, default: preferred } = await response.json();
    page.model.replaceChildren(...models.map((model) => modelOption(model, preferred)));
    page.model.disabled = !page.model.value;
  } catch (error) {
    page.model.replaceChildren(new Option("No models", ""));
    showError(error, { retry: false });
  }
}

async function ask() {
  const asked = { messages: turns };
  if (page.model.value) asked.model = page.model.value;
  hideError();
  streaming = new AbortController();
  const { signal } = streaming;
  showStreaming(true);
  const bubble = addBubble("assistant", "");
  bubble.classList.add("streaming");
  try {
    for await (const text of streamAnswer(asked, signal)) {
      const follow = isAtEnd();
      bubble.textContent += text;
      if (follow) scrollToEnd();
    }
    turns.push({ role: "assistant", content: bubble.textContent });
  } catch (error) {
    if (signal.aborted) return; // "New chat" has cleared the page meanwhile
    // A partial answer stays readable until it is asked for again.
    if (bubble.textContent) bubble.dataset.partial = "";
    else bubble.remove();
    showError(error, { retry: true });
  } finally {
    bubble.classList.remove("streaming");
    if (!signal.aborted) showStreaming(false);
  }
}

/** The pieces of text of an answer; throws if it fails at the start, on the way or ends early. */
async function* streamAnswer(asked, signal) {
  const response = await fetch("/api/chat", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(asked),
    signal,
  });
  if (!response.ok) throw new Error(await readError(response));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) throw new Error("The connection ended before the answer did.");
    const events = (rest + value).split("\n\n");
    rest = events.pop(); // the beginning of an event whose end has not arrived
    for (const event of events) {
      const piece = JSON.parse(event.replace(/^data: /, ""));
      if (piece.error) throw new Error(piece.error);
      if (piece.done) return;
      yield piece.text;
    }
  }
}

async function readError(response) {
  const text = await response.text();
  try {
    return `${JSON.parse(text).error.message} (${response.status})`;
  } catch {
    return `The app answered ${response.status}.`; // not from our function
  }
}

// --- What is seen ---

function modelOption({ id, ready }, preferred) {
  const option = new Option(ready ? id : `${id} (not configured)`, id, false, id === preferred);
  option.disabled = !ready;
  return option;
}

function addBubble(role, text) {
  const bubble = document.createElement("li");
  bubble.className = role;
  bubble.dataset.testid = `message-${role}`;
  bubble.textContent = text;
  page.welcome.hidden = true;
  page.messages.append(bubble);
  scrollToEnd();
  return bubble;
}

function showStreaming(isStreaming) {
  page.send.disabled = isStreaming;
  page.model.disabled = isStreaming || !page.model.value;
  page.messages.setAttribute("aria-busy", String(isStreaming));
  if (!isStreaming) streaming = null;
}

function showError(error, { retry }) {
  // fetch itself only ever says "Failed to fetch" or "NetworkError when attempting ...".
  page["error-text"].textContent =
    error instanceof TypeError ? "The app cannot be reached. Are you online?" : error.message;
  page.retry.hidden = !retry;
  page.error.hidden = false;
}

function hideError() {
  page.error.hidden = true;
}

/** Whether the end is in view: somebody who scrolled up to read is not pulled down. */
function isAtEnd() {
  const { scrollTop, scrollHeight, clientHeight } = page.conversation;
  return scrollHeight - scrollTop - clientHeight < 60;
}

function scrollToEnd() {
  page.conversation.scrollTop = page.conversation.scrollHeight;
}

function fitInput() {
  page.input.style.height = "auto";
  page.input.style.height = `${page.input.scrollHeight}px`;
}

// --- What is done ---

function send(text) {
  const content = text.trim();
  if (!content || streaming) return;
  page.input.value = "";
  fitInput();
  turns.push({ role: "user", content });
  addBubble("user", content);
  ask();
}

function reset() {
  streaming?.abort();
  turns = [];
  page.messages.replaceChildren();
  page.welcome.hidden = false;
  hideError();
  showStreaming(false);
  page.input.focus();
}

page.composer.addEventListener("submit", (event) => {
  event.preventDefault();
  send(page.input.value);
});

page.input.addEventListener("keydown", (event) => {
  // While a word is composed (Japanese, Chinese, Korean), Enter accepts it and must not send.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send(page.input.value);
});

page.input.addEventListener("input", fitInput);
page.reset.addEventListener("click", reset);

page.retry.addEventListener("click", () => {
  page.messages.querySelector("[data-partial]")?.remove();
  ask();
});

page.welcome.addEventListener("click", (event) => {
  if (event.target instanceof HTMLButtonElement) send(event.target.textContent);
});

loadModels();
