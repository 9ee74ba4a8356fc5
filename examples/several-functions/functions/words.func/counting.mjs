const segmenter = new Intl.Segmenter("en", { granularity: "word" });

/** The number of words of a text, in any language. */
export function countWords(text) {
  return [...segmenter.segment(text)].filter((segment) => segment.isWordLike).length;
}
