// An ES module with a module beside it. POST /api/words with text answers {"words", "characters"}.
import { countWords } from "./counting.mjs";

export const handler = async (event) => {
  if (event.httpMethod !== "POST") {
    return { statusCode: 405, headers: { allow: "POST", "content-type": "text/plain" }, body: "POST a text here.\n" };
  }
  const text = Buffer.from(event.body ?? "", event.isBase64Encoded ? "base64" : "utf8").toString();
  return {
    statusCode: 200,
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ words: countWords(text), characters: [...text].length }),
  };
};
