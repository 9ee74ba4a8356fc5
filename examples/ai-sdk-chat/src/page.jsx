/**
 * The page: a conversation kept by `useChat`, and a picker for the model that answers next.
 * Written for React; build.mjs puts Preact in its place.
 */
import { useChat } from "@ai-sdk/react";
import { DefaultChatTransport } from "ai";
import { useEffect, useRef, useState } from "react";
import { createRoot } from "react-dom/client";
import { Message } from "./message.jsx";

const transport = new DefaultChatTransport({ api: "/api/chat" });
const SUGGESTIONS = [
  "Explain gravity to a child",
  "Write a haiku about the sea",
  "What time is it in Tokyo?",
];
const NEAR_THE_END_PX = 80;

function App() {
  const models = useModels();
  const [model, setModel] = useState("");
  const chat = useChat({ transport });
  const chosen = model || models.preferred;
  const isBusy = chat.status === "submitted" || chat.status === "streaming";
  const failure = chat.error ? readable(chat.error) : models.failure;

  const send = (text) => {
    if (isBusy || !chosen || !text.trim()) return;
    chat.clearError();
    chat.sendMessage({ text: text.trim() }, { body: { model: chosen } });
  };
  const retry = chat.messages.length
    ? () => chat.regenerate({ body: { model: chosen } })
    : models.load;
  const startAgain = () => {
    chat.stop();
    chat.clearError();
    chat.setMessages([]);
  };

  return (
    <>
      <header>
        <h1>
          <img src="/favicon.svg" alt="" width="26" height="26" />
          <span>AI SDK chat</span>
        </h1>
        <Picker models={models.list} chosen={chosen} choose={setModel} isBusy={isBusy} />
        <button
          type="button"
          className="quiet"
          data-testid="chat-reset"
          onClick={startAgain}
          disabled={!chat.messages.length}
        >
          New chat
        </button>
      </header>
      <Conversation messages={chat.messages} status={chat.status} send={send} />
      <footer>
        {failure && (
          <div id="error" role="alert" data-testid="chat-error">
            <span>{failure}</span>
            <button type="button" className="quiet" data-testid="chat-retry" onClick={retry}>
              Try again
            </button>
          </div>
        )}
        <Composer send={send} stop={chat.stop} isBusy={isBusy} isReady={Boolean(chosen)} />
      </footer>
    </>
  );
}

/** The models to choose from: {list, preferred, failure, load}. */
function useModels() {
  const [state, setState] = useState({ list: [], preferred: "", failure: "" });
  const load = async () => {
    try {
      const response = await fetch("/api/models");
      if (!response.ok) throw new Error(await response.text());
      const { models, default: preferred } = await response.json();
      setState({ list: models, preferred, failure: preferred ? "" : "No model is ready." });
    } catch (error) {
      setState({ list: [], preferred: "", failure: readable(error) });
    }
  };
  useEffect(() => {
    load();
  }, []);
  return { ...state, load };
}

function Picker({ models, chosen, choose, isBusy }) {
  return (
    <label className="picker">
      <span className="visually-hidden">Model</span>
      <select
        data-testid="model-select"
        value={chosen}
        disabled={isBusy || !models.length}
        onChange={(event) => choose(event.target.value)}
      >
        {!models.length && <option value="">No models</option>}
        {models.map(({ id, note }) => (
          <option key={id} value={id}>
            {note ? `${id} (${note})` : id}
          </option>
        ))}
      </select>
    </label>
  );
}

function Conversation({ messages, status, send }) {
  const view = useRef(null);
  const isFollowing = useRef(true);
  useEffect(() => {
    // Somebody who scrolled up to read is not pulled down.
    if (isFollowing.current) view.current.scrollTop = view.current.scrollHeight;
  });
  const onScroll = () => {
    const { scrollTop, scrollHeight, clientHeight } = view.current;
    isFollowing.current = scrollHeight - scrollTop - clientHeight < NEAR_THE_END_PX;
  };
  const latest = messages.at(-1);
  return (
    <main ref={view} onScroll={onScroll}>
      {!messages.length && <Welcome send={send} />}
      <ol role="log" aria-live="polite" aria-label="Conversation" aria-busy={status === "streaming"}>
        {messages.map((message) => (
          <Message
            key={message.id}
            message={message}
            isStreaming={status === "streaming" && message === latest}
          />
        ))}
        {status === "submitted" && (
          <li className="waiting" aria-label="Waiting for the answer">
            <i />
            <i />
            <i />
          </li>
        )}
      </ol>
    </main>
  );
}

function Welcome({ send }) {
  return (
    <section id="welcome">
      <h2>Ask any model</h2>
      <p>
        The AI SDK in a deployed function, one gateway key for every provider. The key stays on the
        server.
      </p>
      <div className="suggestions">
        {SUGGESTIONS.map((text) => (
          <button key={text} type="button" onClick={() => send(text)}>
            {text}
          </button>
        ))}
      </div>
    </section>
  );
}

function Composer({ send, stop, isBusy, isReady }) {
  const [text, setText] = useState("");
  const input = useRef(null);
  const submit = (event) => {
    event.preventDefault();
    if (isBusy || !isReady) return;
    send(text);
    setText("");
    input.current.focus();
  };
  const onKeyDown = (event) => {
    // While a word is composed (Japanese, Chinese, Korean), Enter accepts it and must not send.
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) submit(event);
  };
  return (
    <form id="composer" onSubmit={submit}>
      <label className="visually-hidden" htmlFor="input">
        Message
      </label>
      <textarea
        id="input"
        ref={input}
        data-testid="chat-input"
        rows={1}
        maxLength={8000}
        placeholder="Send a message"
        enterKeyHint="send"
        autoFocus
        value={text}
        onChange={(event) => setText(event.target.value)}
        onKeyDown={onKeyDown}
      />
      {isBusy ? (
        <button type="button" id="stop" data-testid="chat-stop" aria-label="Stop" onClick={stop}>
          <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
            <rect x="5" y="5" width="14" height="14" rx="3" fill="currentColor" />
          </svg>
        </button>
      ) : (
        <button type="submit" id="send" data-testid="chat-send" aria-label="Send" disabled={!isReady}>
          <svg viewBox="0 0 24 24" width="20" height="20" aria-hidden="true">
            <path
              d="M4 12h15m0 0-6-6m6 6-6 6"
              fill="none"
              stroke="currentColor"
              strokeWidth="2.2"
              strokeLinecap="round"
              strokeLinejoin="round"
            />
          </svg>
        </button>
      )}
    </form>
  );
}

/** What a person can make of a failure: our function's own words, where there are any. */
function readable(error) {
  if (error instanceof TypeError) return "The app cannot be reached. Are you online?";
  try {
    return JSON.parse(error.message).error.message;
  } catch {
    return error.message;
  }
}

createRoot(document.getElementById("app")).render(<App />);
