/**
 * The little Markdown that models write: paragraphs, code blocks, lists, `code` and **bold**.
 * Everything becomes elements and text, never HTML: what a model writes is not to be trusted.
 */

const LIST_ITEM = /^\s*(?:[-*]|\d+\.)\s+/;

export function Text({ text, isGrowing }) {
  const blocks = blocksOf(text);
  return blocks.map((block, index) => {
    const growing = isGrowing && index === blocks.length - 1 ? "growing" : undefined;
    return <Block key={index} block={block} className={growing} />;
  });
}

function Block({ block: { kind, lines }, className }) {
  if (kind === "code") {
    return (
      <pre className={className}>
        <code>{lines.join("\n")}</code>
      </pre>
    );
  }
  if (kind === "list") {
    const isNumbered = /^\s*\d/.test(lines[0]);
    const List = isNumbered ? "ol" : "ul";
    return (
      <List className={className} start={isNumbered ? Number.parseInt(lines[0], 10) : undefined}>
        {lines.map((line, index) => (
          <li key={index}>{inline(line.replace(LIST_ITEM, ""))}</li>
        ))}
      </List>
    );
  }
  const isHeading = kind === "heading";
  return (
    <p className={className}>
      {isHeading ? <strong>{inline(lines[0].replace(/^#+\s*/, ""))}</strong> : inline(lines.join("\n"))}
    </p>
  );
}

/** [{kind: "paragraph" | "heading" | "list" | "code", lines}], of a text that may still grow. */
function blocksOf(text) {
  const blocks = [];
  let isCode = false;
  let isNew = true;
  for (const line of text.split("\n")) {
    const isFence = line.trimStart().startsWith("```");
    if (isFence) isCode = !isCode;
    if (isFence || (!isCode && !line.trim())) {
      isNew = true;
      if (isFence && isCode) blocks.push({ kind: "code", lines: [] });
      continue;
    }
    const kind = isCode ? "code" : kindOf(line);
    const last = blocks.at(-1);
    // An item after an empty line goes on with the list before it.
    const goesOn = last?.kind === kind && kind !== "heading" && (!isNew || kind !== "paragraph");
    if (goesOn) last.lines.push(line);
    else blocks.push({ kind, lines: [line] });
    isNew = false;
  }
  return blocks;
}

function kindOf(line) {
  if (LIST_ITEM.test(line)) return "list";
  return /^#{1,6}\s/.test(line) ? "heading" : "paragraph";
}

function inline(text) {
  return text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/).map((piece, index) => {
    if (index % 2 === 0) return piece;
    if (piece.startsWith("`")) return <code key={index}>{piece.slice(1, -1)}</code>;
    return <strong key={index}>{piece.slice(2, -2)}</strong>;
  });
}
