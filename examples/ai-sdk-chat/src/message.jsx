/** One message: its parts in order, and below an answer who gave it. */
import { isToolUIPart } from "ai";
import { Text } from "./text.jsx";

export function Message({ message, isStreaming }) {
  const { role, parts, metadata } = message;
  const shown = parts.filter(isShown);
  if (role === "user") {
    return (
      <li className="user" data-testid="message-user">
        <p>{shown.map((part) => part.text).join("\n")}</p>
      </li>
    );
  }
  return (
    <li className="assistant" data-testid="message-assistant">
      {shown.map((part, index) => (
        <Part key={index} part={part} isGrowing={isStreaming && index === shown.length - 1} />
      ))}
      {isStreaming && !shown.length && <p className="growing" />}
      {!isStreaming && metadata?.tokens > 0 && (
        <small>
          {metadata.model}, {metadata.tokens} tokens
        </small>
      )}
    </li>
  );
}

function isShown(part) {
  return isToolUIPart(part) || ((part.type === "text" || part.type === "reasoning") && part.text);
}

function Part({ part, isGrowing }) {
  if (isToolUIPart(part)) return <ToolCall part={part} />;
  if (part.type === "reasoning") {
    return (
      <details className="reasoning" open={isGrowing}>
        <summary>{isGrowing ? "Thinking…" : "Thoughts"}</summary>
        <p>{part.text}</p>
      </details>
    );
  }
  return <Text text={part.text} isGrowing={isGrowing} />;
}

function ToolCall({ part }) {
  return (
    <p className="tool" data-testid="tool-call">
      <svg viewBox="0 0 24 24" width="16" height="16" aria-hidden="true">
        <g fill="none" stroke="currentColor" strokeWidth="2" strokeLinecap="round">
          <circle cx="12" cy="12" r="9" />
          <path d="M12 7v5l3 2" />
        </g>
      </svg>
      <span>{outcomeOf(part)}</span>
    </p>
  );
}

function outcomeOf({ state, input, output, errorText }) {
  if (state === "output-available") return `${output.time}, ${output.timeZone}`;
  if (state === "output-error") return `No time for ${input?.timeZone ?? "this place"}: ${errorText}`;
  return "Looking at the clock…";
}
